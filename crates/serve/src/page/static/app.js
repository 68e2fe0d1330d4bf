// Wires the page: models, settings, which part is shown.
import { ApiError, ask, key } from "./api.js";
import { Chat } from "./chat.js";
import { Live } from "./live.js";

const $ = id => document.getElementById(id);
const wide = matchMedia("(min-width: 60rem)");

/** Values of the fields, as they are kept over a reload. */
const fields = ["system", "temperature", "max-tokens"];
const remembered = (() => { try { return JSON.parse(localStorage.getItem("settings")) ?? {}; } catch { return {}; } })();
for (const id of fields) {
  if (typeof remembered[id] === "string") $(id).value = remembered[id];
  $(id).addEventListener("change", () => {
    remembered[id] = $(id).value;
    try { localStorage.setItem("settings", JSON.stringify(remembered)); } catch { /* this visit alone */ }
  });
}

const note = (text = "") => {
  $("note").textContent = text;
  $("note").hidden = !text;
};
const models = new Map();
const model = () => models.get($("model").value);
const number = id => ($(id).value.trim() === "" || !$(id).checkValidity() ? undefined : Number($(id).value));
const settings = () => ({
  model: model(),
  system: $("system").value.trim(),
  temperature: number("temperature"),
  maxTokens: number("max-tokens"),
});
const chat = new Chat(settings, note);
const live = new Live(() => $("model").value);

async function loadModels() {
  try {
    const { data } = await (await ask("v1/models")).json();
    const chosen = $("model").value || remembered.model;
    models.clear();
    for (const m of data) models.set(m.id, m);
    $("model").replaceChildren(...data.map(m => new Option(m.id, m.id, false, m.id === chosen)));
    $("model").disabled = data.length === 0;
    note(data.length ? "" : "This server has no model.");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    note(`No list of models. ${error.message}`);
    if (error.status === 401) showSettings(true);
  }
}

function showSettings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", open);
  if (open) $("key").value = key.get();
}

function show(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("[data-show]"))
    button.setAttribute("aria-pressed", button.dataset.show === view);
  watch();
}

/** The live view costs the server something: only while it is seen. */
function watch() {
  const seen = !document.hidden && (wide.matches || document.body.dataset.view === "live");
  live.run(seen);
}

$("settings-button").addEventListener("click", () => {
  if (document.body.dataset.view === "live" && !wide.matches) {
    show("chat");
    showSettings(true);
  } else {
    showSettings($("settings").hidden);
  }
});
$("settings").addEventListener("submit", event => event.preventDefault());
$("key").addEventListener("change", () => {
  key.set($("key").value.trim());
  loadModels();
  live.restart();
});
$("model").addEventListener("change", () => {
  remembered.model = $("model").value;
  try { localStorage.setItem("settings", JSON.stringify(remembered)); } catch { /* this visit alone */ }
  note();
  live.restart();
});
for (const button of document.querySelectorAll("[data-show]"))
  button.addEventListener("click", () => show(button.dataset.show));
document.addEventListener("visibilitychange", watch);
wide.addEventListener("change", watch);
addEventListener("themechange", () => live.redraw());

await loadModels();
watch();
