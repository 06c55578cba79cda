// A run in one file: the same waterfall as on the page, with the data that stand in the file.
import { counted, el, say } from "./text.js";
import { listen } from "./keys.js";
import { KEYS, Waterfall } from "./waterfall.js";

const packed = Uint8Array.from(atob(document.getElementById("data").textContent.trim()), (c) => c.charCodeAt(0));
const found = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
const fall = new Waterfall({ rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, label: "Spans of the run", detail: async (row) => found.details[row.id] || null });
document.getElementById("waterfall").replaceChildren(el("h2", { class: "hidden", text: "Spans" }), fall.node);
fall.axis();
fall.draw();
requestAnimationFrame(() => performance.mark("shown"));
listen(() => ({ keys: KEYS, find: () => fall.search.focus() }));
if (found.left_out) say(`Details of ${counted(found.left_out, "span")} are not in this file`);
