// A run as rows on a time axis. Only the rows that are in view exist as elements, so that 10,000 spans scroll smoothly.
import { bdi, copy, counted, duration, el, line, resultClass, say } from "./text.js";
import { beneath, criticalPath, firstFailure, isFailed } from "./tree.js";
import { Details, attemptsOf, took } from "./detail.js";
import { keysButton } from "./keys.js";

const ROW = 28;
const MORE = 12;
const DRAG = 5;
const TICK = 56; // the label of a tick, in pixels

export const KEYS = [
  ["↑ ↓  j k", "the row above, below"], ["← →", "fold, unfold; then to the parent"], ["Enter", "fold or unfold"], ["n  p", "next, previous failure"],
  ["o", "the full output, and back"], ["z", "zoom to the row's time; or drag over the bars"], ["+  -", "zoom in, out"], ["Shift ← →", "earlier, later, when zoomed"], ["0", "the whole time"],
  ["x", "the critical path alone"], ["c", "copy the row and what is beneath it as JSON"],
];

// A row: {id, parent, depth, level, name, result, error_type, error, start, length, attempt, attempts, events, marks, flags, output, size}
// skipped: why it was. start in µs since the beginning of the run, length in µs (null while open), size = number of rows beneath it.
export class Waterfall {
  constructor({ rows, startUs, lengthUs, detail, outputs, label, isAbove, services = false, tools = [] }) {
    this.services = services;
    this.folded = new Set();
    this.selected = 0;
    this.startUs = startUs;
    this.pool = new Map();
    this.needle = "";
    this.only = null;
    this.range = null;
    this.chosen = false; // whether the reader has moved the selection
    this.details = new Details({ more: detail, outputs, services, isAbove });
    this.ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    this.band = el("div", { class: "band", hidden: true });
    this.space = el("div", { class: "space", role: "presentation" });
    this.view = el("div", { class: "rows", role: "treegrid", tabindex: "0", "aria-label": label, on: {
      scroll: () => this.draw(), keydown: (event) => this.key(event), click: (event) => this.click(event), dblclick: (event) => this.fold(this.at(event)),
    } }, this.space);
    this.search = el("input", { type: "search", maxlength: 200, "aria-label": "Find in run (/)", placeholder: "Find in run (/)", on: { input: () => this.find(this.search.value), keydown: (event) => this.findKey(event) } });
    this.hits = el("span", { class: "soft hits" });
    const button = (text, does) => el("button", { type: "button", text, on: { click: does } });
    this.reset = button("Whole time (0)", () => this.zoom(null));
    this.path = el("button", { type: "button", "aria-pressed": "false", text: "Critical path (x)", on: { click: () => this.criticalOnly() } });
    this.keys = keysButton(KEYS);
    this.tools = el("div", { class: "tools" }, this.search, this.hits, button("Next failure (n)", () => this.nextFailure(1)), this.path, button("Fold all", () => this.foldAll(true)), button("Unfold all", () => this.foldAll(false)), this.reset, ...tools, this.keys);
    this.grid = el("div", { class: "grid", on: { pointerdown: (event) => this.press(event) } },
      el("div", { class: "axis" }, el("div", { text: "Span" }), this.ticks, el("div", { text: "Duration" })), this.view, this.band);
    this.node = el("div", {}, this.tools, el("div", { class: "fall" }, this.grid, this.details.node));
    this.observer = new ResizeObserver(() => { this.axis(); this.draw(); });
    this.observer.observe(this.view);
    this.set(rows, lengthUs);
    const first = firstFailure(this.shown);
    this.select(first ? this.shown.indexOf(first) : 0, first !== null);
  }

  set(rows, lengthUs) {
    this.rows = rows;
    this.lengthUs = Math.max(lengthUs, 1);
    const path = criticalPath(rows);
    for (const row of rows) row.critical = row.depth > 0 && path.has(row.id);
    this.find(this.needle);
    this.axis();
    this.layout();
  }

  // Later rows of the same run: what is selected stays selected, and its details follow when something became of it.
  // Only who has chosen nothing yet is led to what failed.
  renew(rows, lengthUs) {
    const before = this.shown[this.selected];
    if (this.range && this.range[1] > lengthUs) this.range = null;
    this.set(rows, lengthUs);
    const first = this.chosen ? null : firstFailure(this.shown);
    const at = this.shown.findIndex((row) => row.id === (first || before)?.id);
    if (at >= 0 && at !== this.selected) { this.selected = at; this.layout(); }
    const now = this.shown[this.selected];
    if (now && (now.id !== before?.id || now.result !== before.result || now.events !== before.events)) this.detail(now);
  }

  // The same run when it is stored: everything is known of it now.
  complete({ rows, startUs, lengthUs, detail, outputs, tools }) {
    this.startUs = startUs;
    this.details.more = detail;
    this.details.outputs = outputs;
    for (const tool of tools) this.keys.before(tool);
    this.renew(rows, lengthUs);
    this.detail(this.shown[this.selected]);
  }

  close() { this.observer.disconnect(); this.details.close(); }

  // --- the time axis ------------------------------------------------------------------------------------------------------

  get from() { return this.range ? this.range[0] : 0; }
  get span() { return this.range ? this.range[1] - this.range[0] : this.lengthUs; }
  place(us) { return ((us - this.from) / this.span) * 100; }

  axis() {
    this.ticks.parentElement.style.paddingRight = `${this.view.offsetWidth - this.view.clientWidth}px`;
    const wide = this.ticks.clientWidth || 600, room = 1 - Math.min(0.5, TICK / wide);
    const step = niceStep(this.span / Math.max(1, Math.floor(wide / 90)));
    const marks = [];
    for (let at = Math.ceil(this.from / step) * step; at <= this.from + this.span * room; at += step) {
      const tick = el("span", { class: "tick", text: at ? duration(at) : "0" });
      tick.style.left = `${this.place(at)}%`;
      marks.push(tick);
    }
    this.ticks.replaceChildren(...marks);
    this.reset.disabled = !this.range;
    this.grid.classList.toggle("zoomed", Boolean(this.range));
  }

  // To [from, to] in µs, or back to all of it.
  zoom(range) {
    if (range) {
      const least = Math.max(20, this.lengthUs / 1e6);
      const from = Math.max(0, Math.min(range[0], this.lengthUs - least)), to = Math.min(this.lengthUs, Math.max(range[1], from + least));
      this.range = from <= 0 && to >= this.lengthUs ? null : [from, to];
    } else this.range = null;
    this.axis();
    this.redraw();
  }

  zoomBy(factor) {
    const row = this.shown[this.selected];
    const middle = row ? Math.min(this.from + this.span, Math.max(this.from, row.start + (row.length ?? 0) / 2)) : this.from + this.span / 2;
    const wide = Math.min(this.lengthUs, this.span * factor), from = Math.max(0, Math.min(middle - wide / 2, this.lengthUs - wide));
    this.zoom([from, from + wide]);
  }

  zoomTo(row) { if (row) { const room = Math.max(20, (row.length ?? this.lengthUs - row.start) * 0.05); this.zoom([row.start - room, row.start + (row.length ?? this.lengthUs - row.start) + room]); } }

  pan(share) { if (this.range) { const by = Math.max(-this.from, Math.min(this.span * share, this.lengthUs - this.range[1])); this.zoom([this.range[0] + by, this.range[1] + by]); } }

  press(event) {
    if (event.button !== 0 || event.pointerType === "touch" || !event.target.closest(".lane, .ticks")) return;
    const box = this.ticks.getBoundingClientRect(), grid = this.grid.getBoundingClientRect();
    const inside = (x) => Math.max(box.left, Math.min(x, box.right));
    const began = inside(event.clientX);
    const move = (now) => {
      const to = inside(now.clientX);
      this.band.hidden = Math.abs(to - began) < DRAG;
      this.band.style.left = `${Math.min(began, to) - grid.left}px`;
      this.band.style.width = `${Math.abs(to - began)}px`;
    };
    const done = (now) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", done);
      removeEventListener("pointercancel", done);
      this.band.hidden = true;
      const ends = [began, inside(now.clientX)].sort((a, b) => a - b).map((x) => this.from + ((x - box.left) / box.width) * this.span);
      if (now.type === "pointerup" && Math.abs(inside(now.clientX) - began) >= DRAG) { this.dragged = true; setTimeout(() => { this.dragged = false; }); this.zoom(ends); }
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", done);
    addEventListener("pointercancel", done);
    event.preventDefault();
    this.view.focus({ preventScroll: true });
  }

  // --- rows ---------------------------------------------------------------------------------------------------------------

  layout() {
    const shown = [];
    for (let at = 0; at < this.rows.length; at += 1) {
      const row = this.rows[at];
      if (!this.only || row.depth === 0 || row[this.only]) shown.push(row);
      if (this.folded.has(row.id)) at += row.size;
    }
    this.shown = shown;
    this.space.style.height = `${shown.length * ROW}px`;
    this.view.setAttribute("aria-rowcount", String(shown.length));
    this.selected = Math.min(this.selected, Math.max(0, shown.length - 1));
    this.redraw();
  }

  redraw() {
    for (const node of this.pool.values()) node.remove();
    this.pool.clear();
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - MORE);
    const last = Math.min(this.shown.length, Math.ceil((this.view.scrollTop + (this.view.clientHeight || 600)) / ROW) + MORE);
    for (const [at, node] of this.pool) if (at < first || at >= last) { node.remove(); this.pool.delete(at); }
    const fresh = document.createDocumentFragment();
    for (let at = first; at < last; at += 1) {
      if (this.pool.has(at)) continue;
      const node = this.row(this.shown[at], at);
      this.pool.set(at, node);
      fresh.append(node);
    }
    this.space.append(fresh);
    const current = this.pool.get(this.selected);
    if (current) this.view.setAttribute("aria-activedescendant", current.id); else this.view.removeAttribute("aria-activedescendant");
  }

  row(row, at) {
    const folded = this.folded.has(row.id);
    const state = resultClass(row.result);
    const tries = attemptsOf(row);
    const fold = el("span", { class: "fold", "aria-hidden": "true", text: row.size ? (folded ? "▸" : "▾") : "" });
    const kind = row.level !== "attempt" ? row.level : row.name.endsWith(` attempt ${row.attempt}`) ? "" : `attempt ${row.attempt}`;
    const name = el("div", { class: "name", role: "gridcell" }, fold, el("span", { class: `badge r-${state}`, title: row.result || "open" }),
      bdi(row.name, 200), el("span", { class: "kind", text: [this.services ? line(row.service, 60) : "", kind, tries].filter(Boolean).join(" · ") }));
    name.style.paddingLeft = `${Math.min(row.depth, 24) * 14 + 4}px`;
    const lane = el("div", { class: "lane", role: "presentation" });
    if (row.result === "waiting") lane.append(el("span", { class: "waits", text: row.waits?.length ? `waits for ${line(row.waits.join(", "), 120)}` : "waits for its turn" }));
    else if (row.result === "skip" && row.skipped) lane.append(el("span", { class: "waits", title: line(row.skipped, 300), text: line(row.skipped, 120) }));
    else {
      const bar = el("div", { class: `bar b-${state}${row.critical ? " critical" : ""}` });
      const begin = this.place(row.start), end = this.place(row.start + (row.length ?? Math.max(0, this.lengthUs - row.start)));
      const left = Math.max(-1, Math.min(101, begin));
      bar.style.left = begin > 100 ? `${left}%` : `min(${left}%, 100% - 2px)`; // what began at the very end is seen too
      bar.style.width = `${Math.max(0, Math.min(101, end) - left)}%`;
      lane.append(bar);
      for (const [mark, what] of row.marks.slice(0, 120)) {
        const where = this.place(mark);
        if (where < 0 || where > 100) continue;
        const node = el("div", { class: "mark", title: line(what, 120) });
        node.style.left = `${where}%`;
        lane.append(node);
      }
    }
    const node = el("div", {
      class: `row${row.found ? " found" : ""}`, role: "row", id: `row-${at}`, "data-at": at, "aria-level": row.depth + 1, "aria-rowindex": at + 1,
      "aria-selected": at === this.selected ? "true" : "false", "aria-expanded": row.size ? String(!folded) : undefined,
      "aria-label": line([`${row.level} ${row.name}`, row.result || "open", took(row), tries, row.critical ? "critical path" : "", row.events === 1 ? "1 event" : `${row.events} events`].filter(Boolean).join(", "), 400),
    }, name, lane, el("div", { class: "time", role: "gridcell", text: took(row) }));
    node.style.top = `${at * ROW}px`;
    return node;
  }

  at(event) {
    const node = event.target.closest(".row");
    return node ? Number(node.dataset.at) : -1;
  }

  click(event) {
    const at = this.at(event);
    if (at < 0 || this.dragged) return;
    this.chosen = true;
    if (event.target.classList.contains("fold")) this.fold(at); else this.select(at);
  }

  fold(at, how) {
    const row = this.shown[at];
    if (!row || !row.size) return;
    const close = how ?? !this.folded.has(row.id);
    if (close) this.folded.add(row.id); else this.folded.delete(row.id);
    this.layout();
  }

  foldAll(close) {
    this.folded = new Set(close ? this.rows.filter((row) => row.size && row.depth > 0).map((row) => row.id) : []);
    this.layout();
  }

  select(at, scroll = true) {
    if (!this.shown.length) return;
    const old = this.pool.get(this.selected);
    if (old) old.setAttribute("aria-selected", "false");
    this.selected = Math.max(0, Math.min(at, this.shown.length - 1));
    if (scroll) {
      const top = this.selected * ROW;
      if (top < this.view.scrollTop) this.view.scrollTop = top;
      else if (top + ROW > this.view.scrollTop + this.view.clientHeight) this.view.scrollTop = top + ROW - this.view.clientHeight;
    }
    this.draw();
    const now = this.pool.get(this.selected);
    if (now) now.setAttribute("aria-selected", "true");
    this.detail(this.shown[this.selected]);
  }

  // A row of the run, also where it is folded away or left out.
  selectRow(row) {
    const at = this.rows.indexOf(row);
    if (at < 0) return;
    this.chosen = true;
    if (this.only && !row[this.only]) this.filter(null);
    for (let above = at - 1, depth = row.depth; above >= 0 && depth > 0; above -= 1) if (this.rows[above].depth < depth) { depth = this.rows[above].depth; this.folded.delete(this.rows[above].id); }
    this.layout();
    this.select(this.shown.indexOf(row));
  }

  nextFailure(step) {
    for (let n = 1; n <= this.shown.length; n += 1) {
      const at = (this.selected + step * n + this.shown.length * n) % this.shown.length;
      if (isFailed(this.shown[at])) { this.select(at); return; }
    }
    say("Nothing failed");
  }

  filter(only) {
    const row = this.shown[this.selected];
    this.only = only;
    this.path.setAttribute("aria-pressed", String(only === "critical"));
    this.layout();
    const at = this.shown.indexOf(row);
    this.select(at >= 0 ? at : 0);
  }

  criticalOnly() { this.filter(this.only ? null : "critical"); say(this.only ? `${counted(this.shown.length - 1, "span")} on the critical path` : "All spans"); }

  // --- finding ------------------------------------------------------------------------------------------------------------

  find(text) {
    this.needle = text;
    const wanted = text.trim().toLowerCase();
    this.matching = [];
    for (const row of this.rows) {
      row.found = Boolean(wanted) && [row.name, row.level, row.error_type, row.error, row.service].some((each) => each && each.toLowerCase().includes(wanted));
      if (row.found) this.matching.push(row);
    }
    this.hits.textContent = wanted ? (this.matching.length ? counted(this.matching.length, "match", "matches") : "no match") : "";
    if (this.shown) this.redraw();
  }

  nextMatch(step) {
    if (!this.matching.length) { say("No match"); return; }
    const current = this.rows.indexOf(this.shown[this.selected]);
    const order = step > 0 ? this.matching : [...this.matching].reverse();
    const next = order.find((row) => step > 0 ? this.rows.indexOf(row) > current : this.rows.indexOf(row) < current) || order[0];
    this.selectRow(next);
    const text = `${this.matching.indexOf(next) + 1} of ${counted(this.matching.length, "match", "matches")}`;
    this.hits.textContent = text;
    say(`${text}: ${line(next.name, 80)}`);
  }

  findKey(event) {
    if (event.key === "Enter") this.nextMatch(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape" && this.search.value) { this.search.value = ""; this.find(""); this.view.focus({ preventScroll: true }); }
    else if (event.key === "ArrowDown") this.view.focus({ preventScroll: true });
    else return;
    event.preventDefault();
  }

  // --- keys ---------------------------------------------------------------------------------------------------------------

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = this.shown[this.selected];
    const page = Math.max(1, Math.floor(this.view.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    const does = {
      Enter: () => this.fold(this.selected), " ": () => this.fold(this.selected), n: () => this.nextFailure(1), p: () => this.nextFailure(-1), c: () => this.copySubtree(row),
      o: () => this.details.toggle(), z: () => this.zoomTo(row), "+": () => this.zoomBy(0.5), "=": () => this.zoomBy(0.5), "-": () => this.zoomBy(2), 0: () => this.zoom(null), x: () => this.criticalOnly(),
      Escape: () => this.zoom(null),
    };
    if (event.shiftKey && event.key === "ArrowLeft") this.pan(-0.3);
    else if (event.shiftKey && event.key === "ArrowRight") this.pan(0.3);
    else if (event.key in moves) this.select(this.selected + moves[event.key]);
    else if (event.key === "ArrowLeft") {
      if (row?.size && !this.folded.has(row.id)) this.fold(this.selected, true);
      else { const up = this.shown.findIndex((each) => each.id === row?.parent); if (up >= 0) this.select(up); }
    } else if (event.key === "ArrowRight") { if (row?.size && this.folded.has(row.id)) this.fold(this.selected, false); }
    else if (Object.hasOwn(does, event.key)) does[event.key]();
    else return;
    this.chosen = true;
    event.preventDefault();
  }

  subtree(row) {
    const plain = ({ id, parent, level, name, result, error_type, error, start, length, attempt, attempts, events, flags, output }) => ({
      span_id: id, parent_span_id: parent, kind: level, name, result, error_type, error, start_us: start, duration_us: length, attempt, attempts, events, flags, output, children: [],
    });
    const top = plain(row);
    const stack = [[row.depth, top]];
    for (const each of beneath(this.rows, row)) {
      const node = plain(each);
      while (stack.at(-1)[0] >= each.depth) stack.pop();
      stack.at(-1)[1].children.push(node);
      stack.push([each.depth, node]);
    }
    return top;
  }

  copySubtree(row) { if (row) copy(this.subtree(row)); }

  detail(row) { this.details.show(row, this.rows, this.startUs, () => this.copySubtree(row)); }
}

const niceStep = (us) => {
  const scale = 10 ** Math.floor(Math.log10(Math.max(us, 1)));
  return [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= us) || us;
};
