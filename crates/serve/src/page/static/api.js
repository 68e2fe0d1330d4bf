// How the page speaks with its server: addresses relative to the page, the key in a header, errors
// in words, server-sent events from a fetch (EventSource can send neither key nor body).

const KEY = "api-key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY) ?? ""; } catch { return key.value ?? ""; } },
  set: value => {
    key.value = value;
    try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* this visit alone */ }
  },
};

/** A failure that can be shown: `message` is for people, `code` and `status` for the program. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The answer to a request, or an ApiError. Aborting throws the browser's AbortError. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const { status } = response;
  let said = {};
  try { said = (await response.json()).error ?? {}; } catch { /* no JSON: the status says enough */ }
  let words = typeof said.message === "string" && said.message ? said.message : `The server answered with status ${status}.`;
  if (status === 401) words += " Enter a key under Settings.";
  const wait = response.headers.get("retry-after");
  if ((status === 429 || status === 503) && /^\d+$/.test(wait ?? "")) words += ` Try again in ${wait} s.`;
  return new ApiError(words, { status, code: said.code ?? null });
}

/** The data of each event of a stream, as text, until the stream ends. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Whoever stops reading ends the request.
    reader.cancel().catch(() => {});
  }
}

/** The pieces of a generation's stream, parsed. Throws where the stream says that it failed or ends early. */
export async function* chunks(response) {
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message ?? "The answer failed.", { code: chunk.error.code });
    yield chunk;
  }
  throw new ApiError("The connection ended before the answer was complete.");
}
