// What is known of one span: first what went wrong and the end of the output, the rest folded.
import { badge, bdi, block, counted, duration, el, line, when } from "./text.js";
import { causeOf, isFailed, saying, selfTime } from "./tree.js";

const KEPT = 400000; // characters of a running output on the page

// What was skipped, or waits, took no time, not zero of it.
export const took = (row) => row.result === "skip" || row.result === "waiting" ? "" : duration(row.length ?? row.so_far);
const after = (us) => us < 0 ? `−${duration(-us)}` : `+${duration(us)}`;
const isList = (value) => Array.isArray(value) && value.every((each) => typeof each === "string");
const plain = (value) => typeof value === "string" ? value : isList(value) ? value.join(" ") : JSON.stringify(value);

const ID = /(^|[._])(id|ids|uuid|digest|step_id)$/;
const TIME = /(^|[._])(timestamp|time|at|ts|start_time|end_time)$/;
const isAside = (key, value) => key === "spanbus.event.source" || ID.test(key) || (TIME.test(key) && Number(value) > 1e8);
const SECONDS = /(^|[._])duration(_s|_seconds)?$/;

const pair = (key, value) => {
  const name = el("span", { class: "key" }, bdi(key.replace(/^spanbus\.(payload\.)?/, ""), 200));
  const text = plain(value);
  if (typeof value === "number" && SECONDS.test(key)) return el("span", { class: "pair" }, name, " ", el("span", { title: text, text: duration(value * 1e6) }));
  return text.includes("\n") ? el("div", { class: "pair" }, name, " ", output(text, key)) : el("span", { class: "pair" }, name, " ", bdi(text, 2000));
};

// Ids and times are folded, and an output that is shown above.
const payload = (attributes, tail) => {
  const cell = el("td", { class: "payload" });
  const aside = [];
  for (const [key, value] of Object.entries(attributes || {})) if (isAside(key, value) || (tail && /output_tail$/.test(key))) aside.push(pair(key, value)); else cell.append(pair(key, value), " ");
  if (aside.length) cell.append(el("details", {}, el("summary", { text: "more" }), ...aside.flatMap((each) => [each, " "])));
  return cell;
};

export const output = (text, of) => el("pre", { class: "output", tabindex: "0", role: "region", "aria-label": line(`Output of ${of}`, 100), text: block(text) });
export const toEnd = (node) => { node.scrollTop = node.scrollHeight; requestAnimationFrame(() => { node.scrollTop = node.scrollHeight; }); }; // at once, and when it is on the page

export class Details {
  // more: async (row) => {attributes, events}; outputs: {of: async (row) => [{file, tool, …}], read: async (file, after) => {text, at, …}}, where output is kept.
  // isAbove: (row, rows) => whether the end of its output stands above the rows already.
  constructor({ more, outputs, services, isAbove = () => false }) {
    this.more = more;
    this.isAbove = isAbove;
    this.outputs = outputs;
    this.services = services;
    this.node = el("section", { class: "detail", "aria-label": "Details" });
    this.whole = false;
    this.row = null;
  }

  close() { this.row = null; clearTimeout(this.timer); }

  async show(row, rows, startUs, copyRow) {
    const another = this.row?.id !== row?.id;
    this.row = row;
    clearTimeout(this.timer);
    if (another) this.whole = false;
    if (!row) { this.node.replaceChildren(); return; }
    const cause = isFailed(row) ? causeOf(rows, row) : row;
    const parts = [el("h2", {}, bdi(row.name, 300), " ", badge(row.result || "running"))];
    if (row.error) parts.push(el("p", { class: "error" }, bdi(row.error, 2000)));
    if (cause !== row) {
      const says = saying(cause) && cause.error !== row.error ? [": ", el("span", { class: "error" }, bdi(cause.error, 2000))] : [];
      parts.push(el("p", {}, "in ", el("span", { text: cause.level }), " ", bdi(cause.name, 200), ...says));
    }
    if (row.waits) parts.push(el("p", {}, row.waits.length ? `waits for ${line(row.waits.join(", "), 500)}` : "waits for its turn"));
    this.place = el("div", { class: "outputs" });
    this.tail = this.isAbove(cause, rows) ? "" : cause.output;
    if (this.tail) this.place.append(el("h3", { text: "The end of its output" }), output(this.tail, cause.name));
    parts.push(this.place);
    const facts = el("dl", { class: "facts" });
    const fact = (name, value) => { if (value !== undefined && value !== null && value !== "") facts.append(el("div", {}, el("dt", { text: name }), el("dd", {}, bdi(value, 500)))); };
    fact("service", this.services ? row.service : null);
    fact("kind", row.level);
    fact("starts after", row.result === "waiting" ? null : duration(row.start));
    fact("started", row.result === "waiting" ? null : when(startUs + row.start));
    fact("takes", row.length === null ? null : took(row));
    fact("self time", row.size && row.length ? duration(selfTime(rows, row)) : null);
    fact("critical path", row.critical ? "yes" : null);
    fact("attempts", row.attempts > 1 ? row.attempts : null);
    fact("attempt", row.attempt > 1 ? row.attempt : null);
    fact("events", row.events || null);
    fact("error type", row.error_type);
    fact("flags", (row.flags || []).join(", "));
    this.buttons = el("div", { class: "tools" }, el("button", { type: "button", text: "Copy as JSON", on: { click: copyRow } }));
    parts.push(this.buttons, facts);
    this.node.replaceChildren(...parts);
    for (const node of this.node.querySelectorAll("pre.output")) toEnd(node);
    this.showOutputs(row);
    const more = await this.more?.(row);
    if (!more || this.row !== row) return;
    const attributes = Object.entries(more.attributes || {}).filter(([key]) => key !== "spanbus.output.tail");
    const reason = more.attributes?.["spanbus.skip.reason"];
    if (reason) this.node.querySelector("h2").after(el("p", {}, "skipped: ", bdi(reason, 500)));
    if (more.events?.length) {
      const body = el("tbody");
      for (const event of more.events) {
        body.append(el("tr", {}, el("td", { class: "number", text: after(event.at_us - startUs) }), el("td", { class: "event" }, bdi(event.name, 200)), payload(event.attributes, cause.output)));
      }
      const head = el("tr", {}, el("th", { scope: "col", class: "number", text: "At" }), el("th", { scope: "col", text: "Event" }), el("th", { scope: "col", text: "It says" }));
      this.node.append(el("h3", { text: "Events" }), el("table", { class: "events" }, el("thead", {}, head), body));
      for (const node of this.node.querySelectorAll(".events pre.output")) toEnd(node);
    }
    const body = el("tbody");
    for (const [key, value] of [...attributes, ["span id", row.id]]) body.append(el("tr", {}, el("th", { scope: "row" }, bdi(key, 200)), el("td", {}, bdi(plain(value), 2000))));
    this.node.append(el("details", { class: "attributes" }, el("summary", {}, el("h3", { text: "Attributes" }), " ", el("span", { class: "soft", text: String(attributes.length) })), el("table", {}, body)));
  }

  async showOutputs(row) {
    const found = await this.outputs?.of(row).catch(() => []);
    if (!found?.length || this.row !== row) return;
    this.found = found;
    this.button = el("button", { type: "button", "aria-expanded": String(this.whole), text: "Full output (o)", on: { click: () => this.toggle() } });
    this.buttons.prepend(this.button);
    if (this.whole || row.result === "running") { this.whole = true; await this.read(row); }
  }

  // The whole output in place of its end, and back.
  toggle() {
    if (!this.button?.isConnected) return;
    this.whole = !this.whole;
    this.button.setAttribute("aria-expanded", String(this.whole));
    if (this.whole) { this.read(this.row).then(() => this.place.querySelector("pre")?.focus({ preventScroll: true })); return; }
    clearTimeout(this.timer);
    this.place.replaceChildren(...(this.tail ? [el("h3", { text: "The end of its output" }), output(this.tail, this.row.name)] : []));
    for (const node of this.place.querySelectorAll("pre")) toEnd(node);
  }

  async read(row) {
    const shown = this.found.map((each) => ({ each, at: "", pre: output("", each.tool || each.phase), note: el("p", { class: "soft" }) }));
    const nodes = shown.flatMap(({ each, pre, note }) => [
      el("h3", {}, bdi([each.tool || each.phase, each.attempt > 1 ? `attempt ${each.attempt}` : ""].filter(Boolean).join(", "), 200)), note, pre]);
    for (const { pre } of shown) pre.classList.add("whole");
    const step = async () => {
      let running = false;
      for (const one of shown) {
        const said = await this.outputs.read(one.each.file, one.at).catch(() => null);
        if (this.row?.id !== row.id || !this.whole) return;
        if (!said) continue;
        const atEnd = one.pre.scrollTop + one.pre.clientHeight >= one.pre.scrollHeight - 30;
        if (said.text) one.pre.append(block(said.text));
        if (one.pre.textContent.length > KEPT * 2) { one.pre.textContent = one.pre.textContent.slice(-KEPT); said.left_out = true; }
        if (said.left_out) one.note.textContent = "The beginning is not shown; spanbus logs prints all of it.";
        one.at = said.at;
        running ||= said.running;
        if (atEnd) toEnd(one.pre);
        one.pre.classList.toggle("none", !one.pre.textContent);
        if (!one.pre.textContent) one.note.textContent = said.running ? "No output yet." : "No output."; else if (!said.left_out && one.note.textContent.startsWith("No ")) one.note.textContent = "";
      }
      if (nodes.length && !nodes[0].isConnected) { this.place.replaceChildren(...nodes); for (const { pre } of shown) toEnd(pre); }
      if (running) this.timer = setTimeout(step, 1000);
    };
    await step();
  }
}

export const attemptsOf = (row) => row.attempts > 1 ? counted(row.attempts, "attempt") : "";
