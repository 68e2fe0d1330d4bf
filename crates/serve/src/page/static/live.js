// The live view: one snapshot of the engine after the other (see engine/snapshot.rs), drawn.
import { ApiError, ask, events } from "./api.js";
import { BlockMap } from "./block_map.js";

const $ = id => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const percent = (part, of) => (of > 0 ? `${(100 * part / of).toFixed(1)} %` : "–");
/** Milliseconds that the lines show, and that a rate is taken over. */
const SHOWN = 60_000, WINDOW = 1_000;
const STATES = { waiting: "waits", prefill: "prompt", decode: "generates", preempted: "preempted" };

export class Live {
  /** `model()` is the name of the model to watch; empty for whichever comes. */
  constructor(model) {
    Object.assign(this, { model, controller: null, history: [], rows: new Map() });
    this.map = new BlockMap($("map"), $("tip"), $("legend"));
    // One stop of the Tab key for the whole list; arrows move within it.
    $("sequences").addEventListener("keydown", event => {
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      const to = step && document.activeElement[step];
      if (!to) return;
      event.preventDefault();
      to.focus();
    });
  }

  run(wanted) {
    if (wanted && !this.controller) this.watch(this.controller = new AbortController());
    if (!wanted) this.halt();
  }

  halt() {
    this.controller?.abort();
    this.controller = null;
  }

  restart() {
    const ran = this.controller !== null;
    this.halt();
    this.history = [];
    this.run(ran);
  }

  redraw() {
    this.map.draw();
  }

  state(text) {
    $("live-state").textContent = text;
    $("live-state").hidden = !text;
  }

  /** Reads until it is told to end; after a failure again, later each time. */
  async watch({ signal }) {
    for (let pause = 1; !signal.aborted; pause = Math.min(15, pause * 2)) {
      try {
        const response = await ask("live", { signal });
        for await (const data of events(response)) {
          const snapshot = JSON.parse(data);
          const model = this.model();
          if (model && snapshot.model !== model) continue;
          this.state("");
          this.show(snapshot);
          pause = 1;
        }
        this.state("The live view ended; trying again.");
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) console.warn(error);
        this.state(error instanceof ApiError && error.status ? `No live view. ${error.message}` : "No connection; trying again.");
        // A new key or another model starts it again.
        if (error.status === 401 || error.status === 403 || error.status === 404) return;
      }
      await new Promise(resolve => {
        const timer = setTimeout(resolve, 1000 * pause);
        signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
      });
    }
  }

  show(s) {
    $("live-body").hidden = false;
    this.rates(s);
    $("running").textContent = whole.format(s.running);
    $("waiting").textContent = whole.format(s.waiting);
    $("in-use").textContent = percent(s.blocks.used, s.blocks.total);
    $("hits").textContent = percent(s.prefix.hits, s.prefix.queries);
    $("waste").textContent = s.blocks.used ? percent(s.waste, 1) : "–";
    $("preemptions").textContent = whole.format(s.preemptions);
    $("speculation").hidden = !s.speculation;
    if (s.speculation) $("accepted").textContent = percent(s.speculation.accepted, s.speculation.drafted);
    $("block-size").textContent = `${whole.format(s.blocks.total)} × ${s.blocks.block_size} tokens`;
    for (const state of ["used", "shared", "idle", "free"]) $(state).textContent = whole.format(s.blocks[state]);
    this.map.update(s);
    this.sequences(s);
  }

  /** Counts to rates, over a second; the lines are of the last minute. */
  rates(s) {
    const { history } = this;
    // An engine that was restarted counts from zero.
    if (history.length && s.time_ms < history.at(-1).time) history.length = 0;
    history.push({ time: s.time_ms, generated: s.tokens.generated, prompt: s.tokens.prompt });
    while (history[0].time < s.time_ms - SHOWN - WINDOW) history.shift();
    for (const what of ["generated", "prompt"]) {
      const points = [];
      let from = 0;
      history.forEach((h, i) => {
        while (h.time - history[from].time > WINDOW && from + 1 < i) from += 1;
        const passed = h.time - history[from].time;
        points.push([h.time, passed > 0 ? 1000 * (h[what] - history[from][what]) / passed : 0]);
      });
      const now = points.at(-1)[1];
      $(`${what}-rate`).textContent = (now > 0 && now < 9.95 ? oneDigit : whole).format(now);
      const top = Math.max(1, ...points.map(p => p[1]));
      const path = points.map(([t, rate]) =>
        `${(120 * (1 - (s.time_ms - t) / SHOWN)).toFixed(1)} ${(31 - 29 * rate / top).toFixed(1)}`);
      $(`${what}-line`).setAttribute("d", `M${path.join("L")}`);
    }
  }

  sequences(s) {
    const list = $("sequences");
    const seen = new Set();
    for (const sequence of s.sequences) {
      seen.add(sequence.id);
      let row = this.rows.get(sequence.id);
      if (!row) this.rows.set(sequence.id, row = this.row(sequence));
      this.fill(row, sequence);
      const there = list.children[seen.size - 1] ?? null;
      if (there !== row.item) list.insertBefore(row.item, there);
      row.item.tabIndex = -1;
    }
    for (const [id, { item }] of this.rows) {
      if (seen.has(id)) continue;
      item.remove();
      this.rows.delete(id);
      if (this.map.focused === id) this.map.focus(null);
    }
    if (list.firstElementChild) list.firstElementChild.tabIndex = 0;
    const hidden = s.running + s.waiting - seen.size;
    $("none").hidden = seen.size > 0 && hidden <= 0;
    $("none").textContent = seen.size === 0 ? "Nothing runs." : `and ${whole.format(hidden)} more`;
  }

  row({ id }) {
    const item = document.createElement("li");
    const [name, state, bar, cached, prompt, generated, count] =
      ["span", "span", "span", "i", "i", "i", "span"].map(tag => document.createElement(tag));
    bar.className = "bar";
    bar.setAttribute("aria-hidden", "true");
    [cached.className, prompt.className, generated.className] = ["cached", "prompt", "generated"];
    [name.className, state.className, count.className] = ["name", "state", "count"];
    bar.append(cached, prompt, generated);
    item.append(name, state, count, bar);
    for (const on of ["pointerenter", "focus"]) item.addEventListener(on, () => this.map.focus(id));
    for (const off of ["pointerleave", "blur"]) item.addEventListener(off, () => this.map.focus(null));
    return { item, name, state, cached, prompt, generated, count };
  }

  fill(row, s) {
    const all = Math.max(1, s.prompt + s.max_tokens), share = n => `${100 * Math.max(0, n) / all}%`;
    row.name.textContent = `Request ${s.request}`;
    row.state.textContent = STATES[s.state] ?? s.state;
    row.item.dataset.state = s.state;
    const computed = Math.min(s.computed, s.prompt), cached = Math.min(s.cached, computed);
    row.cached.style.width = share(cached);
    row.prompt.style.width = share(computed - cached);
    row.generated.style.width = share(s.generated);
    row.generated.style.left = share(s.prompt);
    row.prompt.style.left = share(cached);
    row.count.textContent = s.state === "waiting" || s.state === "prefill"
      ? `${whole.format(computed)} of ${whole.format(s.prompt)} prompt tokens`
      : `${whole.format(s.prompt)} + ${whole.format(s.generated)} of ${whole.format(s.max_tokens)}`;
    row.item.title = `${s.cached} of ${s.prompt} prompt tokens were cached; ${(s.age_ms / 1000).toFixed(1)} s old`;
  }
}
