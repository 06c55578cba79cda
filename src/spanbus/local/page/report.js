// A run in one file: the same waterfall as on the page, with the data that stand in the file.
import { el, say } from "./text.js";
import { Waterfall } from "./waterfall.js";

const found = JSON.parse(document.getElementById("data").textContent);
const fall = new Waterfall({ rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, label: "Spans of the run", detail: async (row) => found.details[row.id] || null });
document.getElementById("waterfall").replaceChildren(
  el("div", { class: "tools" },
    el("button", { type: "button", text: "Fold all", on: { click: () => fall.foldAll(true) } }),
    el("button", { type: "button", text: "Unfold all", on: { click: () => fall.foldAll(false) } }),
    el("button", { type: "button", text: "Next failure (n)", on: { click: () => fall.nextFailure(1) } })),
  fall.node);
fall.draw();
if (found.left_out) say(`Details of ${found.left_out === 1 ? "1 span" : `${found.left_out} spans`} are not in this file`);
