// A run as rows on a time axis. Only the rows that are in view exist as elements, so that 10,000 spans scroll smoothly.
import { badge, bdi, block, copy, duration, el, line, resultClass, when } from "./text.js";

const ROW = 28;
const MORE = 12;

// A row: {id, parent, depth, level, name, result, error_type, error, start, length, attempt, attempts, events, marks, flags, output, size}
// start in µs since the beginning of the run, length in µs (null while open), size = number of rows beneath it.
export class Waterfall {
  constructor({ rows, startUs, lengthUs, detail, label, services = false }) {
    this.services = services;
    this.folded = new Set();
    this.selected = 0;
    this.detailOf = detail;
    this.startUs = startUs;
    this.pool = new Map();
    this.ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    this.space = el("div", { class: "space", role: "presentation" });
    this.view = el("div", { class: "rows", role: "treegrid", tabindex: "0", "aria-label": label, on: {
      scroll: () => this.draw(), keydown: (event) => this.key(event), click: (event) => this.click(event), dblclick: (event) => this.fold(this.at(event)),
    } }, this.space);
    this.pane = el("section", { class: "detail", "aria-label": "Details", "aria-live": "polite" });
    this.node = el("div", {},
      el("div", { class: "grid" }, el("div", { class: "axis" }, el("div", { text: "Span" }), this.ticks, el("div", { text: "Duration" })), this.view), this.pane);
    this.observer = new ResizeObserver(() => { this.axis(); this.draw(); });
    this.observer.observe(this.view);
    this.set(rows, lengthUs);
    const bad = (row) => ["failure", "error", "timeout"].includes(row.result);
    const first = [(row) => row.level === "phase" && bad(row), (row) => row.depth > 0 && bad(row)].map((test) => this.shown.findIndex(test)).find((at) => at >= 0);
    this.select(first ?? 0, false);
  }

  set(rows, lengthUs) {
    this.rows = rows;
    this.lengthUs = Math.max(lengthUs, 1);
    this.axis();
    this.layout();
  }

  // Later rows of the same run: what is selected stays selected, and its details follow when something became of it.
  renew(rows, lengthUs) {
    const before = this.shown[this.selected];
    this.set(rows, lengthUs);
    const at = this.shown.findIndex((row) => row.id === before?.id);
    if (at >= 0 && at !== this.selected) { this.selected = at; this.layout(); }
    const now = this.shown[this.selected];
    if (now && (now.id !== before?.id || now.result !== before.result || now.events !== before.events)) this.detail(now);
  }

  close() { this.observer.disconnect(); }

  axis() {
    const step = niceStep(this.lengthUs / Math.max(1, Math.floor((this.ticks.clientWidth || 600) / 90)));
    const marks = [];
    for (let at = 0; at <= this.lengthUs * 0.93; at += step) {
      const tick = el("span", { class: "tick", text: at ? duration(at) : "0" });
      tick.style.left = `${(at / this.lengthUs) * 100}%`;
      marks.push(tick);
    }
    this.ticks.replaceChildren(...marks);
  }

  layout() {
    const shown = [];
    for (let at = 0; at < this.rows.length; at += 1) {
      const row = this.rows[at];
      shown.push(row);
      if (this.folded.has(row.id)) at += row.size;
    }
    this.shown = shown;
    this.space.style.height = `${shown.length * ROW}px`;
    this.view.setAttribute("aria-rowcount", String(shown.length));
    for (const node of this.pool.values()) node.remove();
    this.pool.clear();
    this.selected = Math.min(this.selected, Math.max(0, shown.length - 1));
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
    const tries = row.attempts > 1 ? `${row.attempts} attempts` : "";
    const fold = el("span", { class: "fold", "aria-hidden": "true", text: row.size ? (folded ? "▸" : "▾") : "" });
    const name = el("div", { class: "name", role: "gridcell" }, fold, el("span", { class: `badge r-${state}`, title: row.result || "open" }),
      bdi(row.name, 200), el("span", { class: "kind", text: [this.services ? line(row.service, 60) : "", row.level === "attempt" ? `attempt ${row.attempt}` : row.level, tries].filter(Boolean).join(" · ") }));
    name.style.paddingLeft = `${Math.min(row.depth, 24) * 14 + 4}px`;
    const bar = el("div", { class: `bar b-${state}` });
    const length = row.length ?? Math.max(0, this.lengthUs - row.start);
    bar.style.left = `${Math.min(100, (row.start / this.lengthUs) * 100)}%`;
    bar.style.width = `${Math.min(100, (length / this.lengthUs) * 100)}%`;
    const lane = el("div", { class: "lane", role: "presentation" }, bar);
    for (const [mark, what] of row.marks.slice(0, 120)) {
      const node = el("div", { class: "mark", title: line(what, 120) });
      node.style.left = `${Math.min(100, (mark / this.lengthUs) * 100)}%`;
      lane.append(node);
    }
    const node = el("div", {
      class: "row", role: "row", id: `row-${at}`, "data-at": at, "aria-level": row.depth + 1, "aria-rowindex": at + 1,
      "aria-selected": at === this.selected ? "true" : "false", "aria-expanded": row.size ? String(!folded) : undefined,
      "aria-label": line([`${row.level} ${row.name}`, row.result || "open", took(row), tries, row.events === 1 ? "1 event" : `${row.events} events`].filter(Boolean).join(", "), 400),
    }, name, lane, el("div", { class: "time", role: "gridcell", text: row.length === null ? "…" : took(row) }));
    node.style.top = `${at * ROW}px`;
    return node;
  }

  at(event) {
    const node = event.target.closest(".row");
    return node ? Number(node.dataset.at) : -1;
  }

  click(event) {
    const at = this.at(event);
    if (at < 0) return;
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

  nextFailure(step) {
    const bad = (row) => ["failure", "error", "timeout"].includes(row.result);
    for (let n = 1; n <= this.shown.length; n += 1) {
      const at = (this.selected + step * n + this.shown.length * n) % this.shown.length;
      if (bad(this.shown[at])) { this.select(at); return; }
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = this.shown[this.selected];
    const page = Math.max(1, Math.floor(this.view.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    if (event.key in moves) this.select(this.selected + moves[event.key]);
    else if (event.key === "ArrowLeft") {
      if (row?.size && !this.folded.has(row.id)) this.fold(this.selected, true);
      else { const up = this.shown.findIndex((each) => each.id === row?.parent); if (up >= 0) this.select(up); }
    } else if (event.key === "ArrowRight") { if (row?.size && this.folded.has(row.id)) this.fold(this.selected, false); }
    else if (event.key === "Enter" || event.key === " ") this.fold(this.selected);
    else if (event.key === "n") this.nextFailure(1);
    else if (event.key === "p") this.nextFailure(-1);
    else if (event.key === "c") this.copySubtree(row);
    else return;
    event.preventDefault();
  }

  subtree(row) {
    const at = this.rows.indexOf(row);
    const plain = ({ id, parent, level, name, result, error_type, error, start, length, attempt, attempts, events, flags, output }) => ({
      span_id: id, parent_span_id: parent, kind: level, name, result, error_type, error, start_us: start, duration_us: length, attempt, attempts, events, flags, output, children: [],
    });
    const top = plain(row);
    const stack = [[row.depth, top]];
    for (const each of this.rows.slice(at + 1, at + 1 + row.size)) {
      const node = plain(each);
      while (stack.at(-1)[0] >= each.depth) stack.pop();
      stack.at(-1)[1].children.push(node);
      stack.push([each.depth, node]);
    }
    return top;
  }

  copySubtree(row) { if (row) copy(this.subtree(row)); }

  async detail(row) {
    if (!row) { this.pane.replaceChildren(); return; }
    const heading = el("h2", {}, bdi(row.name, 300), " ", badge(row.result || "running"));
    const facts = el("dl", { class: "facts" });
    const fact = (name, value) => { if (value !== undefined && value !== null && value !== "") facts.append(el("div", {}, el("dt", { text: name }), el("dd", {}, bdi(value, 500)))); };
    fact("service", this.services ? row.service : null);
    fact("kind", row.level);
    fact("starts after", duration(row.start));
    fact("started", when(this.startUs + row.start));
    fact("takes", took(row));
    fact("attempts", row.attempts > 1 ? row.attempts : null);
    fact("attempt", row.attempt > 1 ? row.attempt : null);
    fact("events", row.events);
    fact("error type", row.error_type);
    fact("flags", (row.flags || []).join(", "));
    fact("span id", row.id);
    const parts = [heading, facts];
    if (row.error) parts.push(el("p", { class: "error" }, bdi(row.error, 2000)));
    if (row.output) parts.push(el("h2", { text: "Output" }), el("pre", { class: "output", tabindex: "0", text: block(row.output) }));
    parts.push(el("div", { class: "tools" }, el("button", { type: "button", text: "Copy as JSON", on: { click: () => this.copySubtree(row) } })));
    this.pane.replaceChildren(...parts);
    const more = await this.detailOf?.(row);
    if (!more || this.shown[this.selected] !== row) return;
    if (more.events?.length) {
      const body = el("tbody");
      for (const event of more.events) {
        body.append(el("tr", {}, el("td", { class: "number", text: after(event.at_us - this.startUs) }), el("td", { class: "event" }, bdi(event.name, 200)), payload(event.attributes)));
      }
      this.pane.append(el("h2", { text: "Events" }), el("table", { class: "events" }, el("thead", {}, el("tr", {}, el("th", { class: "number", text: "At" }), el("th", { text: "Event" }), el("th", { text: "Payload" }))), body));
    }
    const attributes = Object.entries(more.attributes || {}).filter(([key]) => key !== "spanbus.output.tail");
    if (attributes.length) {
      const body = el("tbody");
      for (const [key, value] of attributes) body.append(el("tr", {}, el("th", { scope: "row" }, bdi(key, 200)), el("td", {}, bdi(typeof value === "string" ? value : JSON.stringify(value), 2000))));
      this.pane.append(el("h2", { text: "Attributes" }), el("table", {}, body));
    }
  }
}

// What was skipped took no time, not zero of it.
const took = (row) => row.result === "skip" ? "" : duration(row.length);

const after = (us) => us < 0 ? `−${duration(-us)}` : `+${duration(us)}`;

const payload = (attributes) => {
  const cell = el("td", { class: "payload" });
  for (const [key, value] of Object.entries(attributes || {})) {
    const name = el("span", { class: "key" }, bdi(key.replace(/^spanbus\.(payload\.)?/, ""), 200));
    const text = typeof value === "string" ? value : JSON.stringify(value);
    const long = text.includes("\n");
    cell.append(el(long ? "div" : "span", { class: "pair" }, name, " ", long ? el("pre", { class: "output", tabindex: "0", text: block(text) }) : bdi(text, 2000)), " ");
  }
  return cell;
};

const niceStep = (us) => {
  const scale = 10 ** Math.floor(Math.log10(Math.max(us, 1)));
  return [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= us) || us;
};
