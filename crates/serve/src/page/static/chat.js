// The conversation: what was said, the answer that is streaming, and its controls.
import { ApiError, ask, chunks } from "./api.js";
import { render } from "./markdown.js";

const $ = id => document.getElementById(id);
const STORE = "conversation";
/** Tokens of a continuation where nothing was said and the endpoint's own default is 16. */
const CONTINUATION = 256;

const element = (name, className, text) => {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
};

export class Chat {
  /** `settings()` says what to ask with; `note(text)` shows a line above the conversation. */
  constructor(settings, note) {
    Object.assign(this, { settings, note, turns: [], running: null });
    // Models that are known to have no chat template.
    this.plain = new Set();
    const stored = (() => { try { return JSON.parse(sessionStorage.getItem(STORE)); } catch { return null; } })();
    if (Array.isArray(stored)) for (const turn of stored) this.show(turn);

    const prompt = $("prompt");
    const grow = () => {
      prompt.style.height = "auto";
      prompt.style.height = `${Math.min(prompt.scrollHeight + 2, innerHeight / 3)}px`;
    };
    prompt.addEventListener("input", grow);
    prompt.addEventListener("keydown", event => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    $("composer").addEventListener("submit", event => {
      event.preventDefault();
      const content = prompt.value.trim();
      if (!content || this.running) return;
      prompt.value = "";
      grow();
      this.show({ role: "user", content });
      this.answer();
    });
    addEventListener("keydown", event => {
      if (event.key === "Escape" && this.running) this.stop();
    });
    $("stop").addEventListener("click", () => this.stop());
    $("regenerate").addEventListener("click", () => {
      if (this.turns.at(-1)?.role === "assistant") this.turns.pop().article.remove();
      this.answer();
    });
    $("new").addEventListener("click", () => {
      this.stop();
      this.turns = [];
      $("messages").replaceChildren();
      this.save();
      this.controls();
      prompt.focus();
    });
    // Whoever scrolls up to read is left there.
    $("messages").addEventListener("scroll", () => {
      const m = $("messages");
      this.follows = m.scrollHeight - m.scrollTop - m.clientHeight < 40;
    });
    this.follows = true;
    this.controls();
    this.follow();
  }

  stop() {
    this.running?.abort();
  }

  /** Appends a turn to the conversation and to the page. */
  show(turn) {
    const article = element("article", turn.role);
    article.setAttribute("aria-label", turn.role === "user" ? "You" : "Answer");
    turn.article = article;
    turn.text = element("div", "text");
    turn.foot = element("p", "foot");
    turn.foot.hidden = true;
    article.append(turn.text, turn.foot);
    $("messages").append(article);
    this.turns.push(turn);
    this.draw(turn);
    if (turn.role === "user") this.follows = true;
    this.follow();
    return turn;
  }

  draw(turn) {
    // What a person typed is shown as it was typed.
    if (turn.role === "user") turn.text.textContent = turn.content;
    // A continuation often begins with the space between two words.
    else render(turn.text, turn.content.trimStart());
    turn.foot.textContent = turn.error ?? turn.footnote ?? "";
    turn.foot.hidden = !turn.foot.textContent;
    turn.foot.classList.toggle("error", Boolean(turn.error));
  }

  follow() {
    if (this.follows) $("messages").scrollTop = $("messages").scrollHeight;
  }

  /** What can be done now. */
  controls() {
    const running = Boolean(this.running);
    $("stop").hidden = !running;
    $("send").hidden = running;
    $("regenerate").disabled = running || this.turns.length === 0;
    $("new").disabled = this.turns.length === 0;
  }

  save() {
    const plain = this.turns.map(({ role, content, error, footnote }) => ({ role, content, error, footnote }));
    try { sessionStorage.setItem(STORE, JSON.stringify(plain)); } catch { /* too long to be kept */ }
  }

  /** The conversation as the API takes it: a question whose answer never came is left out. */
  history() {
    const out = [];
    this.turns.forEach((turn, i) => {
      const next = this.turns[i + 1];
      if (turn.role === "user" ? next?.role === "assistant" && !next.content : !turn.content) return;
      out.push({ role: turn.role, content: turn.content });
    });
    return out;
  }

  request(history, { model, system, temperature, maxTokens }) {
    const body = { model: model?.id, stream: true, stream_options: { include_usage: true }, temperature };
    if (this.plain.has(model?.id)) {
      const prompt = [system, ...history.map(turn => turn.content)].filter(Boolean).join("\n");
      const room = Math.max(1, Math.floor((model?.max_model_len ?? 2 * CONTINUATION) / 2));
      return ["v1/completions", { ...body, prompt, max_tokens: maxTokens ?? Math.min(CONTINUATION, room) }];
    }
    const messages = system ? [{ role: "system", content: system }, ...history] : history;
    return ["v1/chat/completions", { ...body, messages, max_tokens: maxTokens }];
  }

  /** The response to a conversation, from whichever endpoint this model can do. */
  async open(history, signal) {
    const settings = this.settings();
    try {
      const [path, body] = this.request(history, settings);
      return await ask(path, { body, signal });
    } catch (error) {
      if (error.code !== "no_chat_template" || this.plain.has(settings.model?.id)) throw error;
      this.plain.add(settings.model?.id);
      this.note("This model has no chat template, so it continues your text instead of answering it.");
      const [path, body] = this.request(history, settings);
      return await ask(path, { body, signal });
    }
  }

  async answer() {
    const controller = this.running = new AbortController();
    const begin = performance.now();
    let first = null, usage = null, finish = null, frame = 0;
    const history = this.history();
    const turn = this.show({ role: "assistant", content: "" });
    turn.article.setAttribute("aria-busy", "true");
    this.controls();
    this.say("Answering");
    const draw = () => {
      frame = 0;
      this.draw(turn);
      this.follow();
    };
    try {
      for await (const chunk of chunks(await this.open(history, controller.signal))) {
        usage = chunk.usage ?? usage;
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        finish = choice.finish_reason ?? finish;
        const piece = choice.delta?.content ?? choice.text ?? "";
        if (!piece) continue;
        first ??= performance.now();
        turn.content += piece;
        frame ||= requestAnimationFrame(draw);
      }
      turn.footnote = describe({ begin, first, end: performance.now(), usage, finish });
      this.say("The answer is complete.");
    } catch (error) {
      if (error.name === "AbortError") {
        turn.footnote = turn.content ? "Stopped" : "Stopped before the first word";
        this.say("Stopped");
      } else {
        if (!(error instanceof ApiError)) console.warn(error);
        turn.error = error instanceof ApiError ? error.message : "The answer cannot be read.";
        this.say(turn.error);
      }
    }
    cancelAnimationFrame(frame);
    turn.article.removeAttribute("aria-busy");
    this.running = null;
    // A new chat may have begun meanwhile.
    if (this.turns.includes(turn)) {
      draw();
      this.save();
    }
    this.controls();
  }

  /** For those who listen. */
  say(text) {
    $("status").textContent = text;
  }
}

function describe({ begin, first, end, usage, finish }) {
  const parts = [];
  const seconds = (end - (first ?? end)) / 1000, tokens = usage?.completion_tokens;
  if (tokens !== undefined) parts.push(`${tokens} tokens`);
  if (tokens > 1 && seconds > 0) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  if (first !== null) parts.push(`first after ${((first - begin) / 1000).toFixed(2)} s`);
  if (finish === "length") parts.push("cut off at the limit of tokens");
  if (finish === "content_filter") parts.push("filtered");
  return parts.join(" · ");
}
