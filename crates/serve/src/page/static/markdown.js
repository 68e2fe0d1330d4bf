// A little Markdown, as models write it: paragraphs, headings, lists, quotes, fenced code, and within
// lines code, strong and emphasis. Text becomes text nodes and nothing else, so nothing in it is run
// or loaded; links stay as they are written.

/** Cuts a text into blocks { kind, text, level, start }. An open fence reaches to the end. */
export function blocks(source) {
  const out = [];
  let open = null;
  const push = (kind, line, more) => {
    if (open?.kind === kind && kind !== "heading") open.lines.push(line);
    else out.push(open = { kind, lines: [line], ...more });
  };
  let fence = null;
  for (const line of source.split("\n")) {
    const mark = /^\s{0,3}(```+|~~~+)\s*(\S*)/.exec(line);
    let m;
    if (fence) {
      if (mark && mark[1].startsWith(fence) && !mark[2]) fence = open = null;
      else open.lines.push(line);
    } else if (mark) {
      fence = mark[1];
      out.push(open = { kind: "code", lines: [], language: mark[2] });
    } else if (/^\s*$/.test(line)) {
      // A blank line within a list may be followed by its next item.
      open = open && /^(ul|ol)$/.test(open.kind) ? open : null;
    } else if ((m = /^(#{1,6})\s+(.*)/.exec(line))) {
      push("heading", m[2], { level: m[1].length });
      open = null;
    } else if ((m = /^\s*[-*+]\s+(.*)/.exec(line))) {
      push("ul", m[1]);
    } else if ((m = /^\s*(\d{1,9})[.)]\s+(.*)/.exec(line))) {
      push("ol", m[2], { start: +m[1] });
    } else if ((m = /^\s{0,3}>\s?(.*)/.exec(line))) {
      push("quote", m[1]);
    } else if (open && /^(ul|ol)$/.test(open.kind) && /^\s/.test(line)) {
      open.lines[open.lines.length - 1] += "\n" + line.trim();
    } else {
      push("p", line);
    }
  }
  return out;
}

/** `code`, **strong** and *emphasis*; marks without a partner stay as they are. */
function inline(parent, text) {
  const pattern = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?\S|\S)\*\*|(?<![\w*])\*(?=\S)([^*\n]*?[^\s*])\*(?![\w*])/gs;
  let at = 0;
  for (const m of text.matchAll(pattern)) {
    parent.append(text.slice(at, m.index));
    at = m.index + m[0].length;
    const element = document.createElement(m[2] !== undefined ? "code" : m[3] !== undefined ? "strong" : "em");
    if (m[2] !== undefined) element.textContent = m[2].replace(/^ (.+) $/s, "$1");
    else inline(element, m[3] ?? m[4]);
    parent.append(element);
  }
  parent.append(text.slice(at));
}

function build({ kind, lines, level, start, language }) {
  if (kind === "code") {
    const pre = document.createElement("pre"), code = document.createElement("code");
    code.textContent = lines.join("\n");
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", language ? `Code in ${language}` : "Code");
    pre.append(code);
    return pre;
  }
  const name = { heading: `h${Math.min(6, (level ?? 1) + 2)}`, quote: "blockquote" }[kind] ?? kind;
  const element = document.createElement(name);
  if (kind === "ol" && start !== 1) element.start = start;
  if (kind !== "ul" && kind !== "ol") {
    inline(element, lines.join("\n"));
    return element;
  }
  for (const line of lines) {
    const item = document.createElement("li");
    inline(item, line);
    element.append(item);
  }
  return element;
}

/** Shows a text in an element; blocks that it showed before and that have not changed stay untouched. */
export function render(element, source) {
  const had = element.markdown ?? [];
  const keys = [];
  blocks(source).forEach((block, i) => {
    const key = JSON.stringify(block);
    keys.push(key);
    if (had[i] === key) return;
    const made = build(block);
    if (element.children[i]) element.children[i].replaceWith(made);
    else element.append(made);
  });
  while (element.children.length > keys.length) element.lastElementChild.remove();
  element.markdown = keys;
}
