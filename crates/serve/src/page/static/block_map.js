// The pool of blocks on a canvas, a cell a block (or several, if there are very many).

const STATES = { f: "free", i: "idle", u: "used", s: "shared" };
const WORDS = { f: "free", i: "cached, used by nobody", u: "used", s: "shared" };

/** `"u2sf3"` to one letter a cell. */
export function decode(cells) {
  return cells.replace(/([a-z])(\d+)/g, (_, letter, times) => letter.repeat(Number(times)));
}

export class BlockMap {
  /** `legend` has an element of each state's class, whose background is that state's colour. */
  constructor(canvas, tip, legend) {
    Object.assign(this, { canvas, tip, legend, snapshot: null, cells: "", pointer: null, focused: null });
    canvas.addEventListener("pointermove", event => this.point(event));
    canvas.addEventListener("pointerdown", event => this.point(event));
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    this.pointer = [event.clientX - box.left, event.clientY - box.top];
    this.draw();
  }

  update(snapshot) {
    this.snapshot = snapshot;
    this.cells = decode(snapshot.blocks.cells);
    const { total, used, shared, idle, free } = snapshot.blocks;
    this.canvas.setAttribute("aria-label",
      `Map of ${total} blocks: ${used} used, ${shared} of them shared, ${idle} cached, ${free} free`);
    this.draw();
  }

  /** Marks the blocks of one sequence; null for none. */
  focus(id) {
    this.focused = id;
    this.draw();
  }

  /** The largest cells with which everything fits into the width and a bounded height. */
  layout(width, count) {
    const most = Math.max(96, Math.min(320, innerHeight * .3));
    let side = Math.min(18, width);
    while (side > 2 && Math.ceil(count / Math.floor(width / side)) * side > most) side -= .5;
    const columns = Math.max(1, Math.floor(width / side));
    // Fill the width.
    side = width / columns;
    return { side, columns, height: Math.max(1, Math.ceil(count / columns)) * side };
  }

  draw() {
    const { canvas, snapshot, cells } = this;
    const width = canvas.parentElement.clientWidth;
    if (!snapshot || width === 0) return;
    const { side, columns, height } = this.layout(width, cells.length);
    const ratio = devicePixelRatio || 1;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) {
      [canvas.width, canvas.height] = pixels;
      canvas.style.height = `${height}px`;
    }
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const gap = side >= 5 ? 1 : side >= 3.5 ? .5 : 0, size = side - gap;
    const rect = i => c.rect((i % columns) * side, Math.floor(i / columns) * side, size, size);
    for (const letter in STATES) {
      c.beginPath();
      for (let i = cells.indexOf(letter); i >= 0; i = cells.indexOf(letter, i + 1)) rect(i);
      c.fillStyle = getComputedStyle(this.legend.querySelector("." + STATES[letter])).backgroundColor;
      c.fill();
    }
    const hovered = this.hovered(side, columns);
    const owners = hovered === null ? [] : this.owners(hovered);
    const marked = new Set(owners.map(o => o.sequence));
    for (const s of snapshot.sequences) if (s.id === this.focused) marked.add(s);
    c.beginPath();
    for (const { table } of marked) for (const [first, len] of table) {
      for (let b = first; b < first + len; b += 1) rect(Math.floor(b / snapshot.blocks.blocks_per_cell));
    }
    c.strokeStyle = getComputedStyle(canvas).color;
    c.lineWidth = side >= 5 ? 1.5 : 1;
    c.stroke();
    this.explain(hovered, owners, width);
  }

  hovered(side, columns) {
    if (!this.pointer) return null;
    const [x, y] = this.pointer;
    const column = Math.floor(x / side);
    const at = Math.floor(y / side) * columns + column;
    return column >= 0 && column < columns && at >= 0 && at < this.cells.length ? at : null;
  }

  /** The sequences that hold a block of a cell, and which positions of theirs lie there. */
  owners(cell) {
    const { block_size: size, blocks_per_cell: per } = this.snapshot.blocks;
    const out = [];
    for (const sequence of this.snapshot.sequences) {
      let at = 0;
      for (const [first, len] of sequence.table) {
        const low = Math.max(first, cell * per), high = Math.min(first + len, (cell + 1) * per);
        if (low < high) {
          const from = (at + low - first) * size;
          out.push({ sequence, from, to: from + (high - low) * size - 1 });
        }
        at += len;
      }
    }
    return out;
  }

  explain(cell, owners, width) {
    this.tip.hidden = cell === null;
    if (cell === null) return;
    const { total, blocks_per_cell: per } = this.snapshot.blocks;
    const last = Math.min(total, (cell + 1) * per) - 1;
    const name = per === 1 ? `Block ${cell}` : `Blocks ${cell * per} to ${last}, mostly`;
    const lines = [`${name}: ${WORDS[this.cells[cell]]}`];
    for (const { sequence, from, to } of owners.slice(0, 6))
      lines.push(`request ${sequence.request}${owners.length > 1 ? `, sequence ${sequence.id}` : ""}: positions ${from} to ${to}`);
    if (owners.length > 6) lines.push(`and ${owners.length - 6} more`);
    this.tip.textContent = lines.join("\n");
    const [x, y] = this.pointer;
    this.tip.style.left = `${Math.max(0, Math.min(x + 12, width - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${y + 18}px`;
  }
}
