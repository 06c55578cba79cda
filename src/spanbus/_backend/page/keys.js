// Keys that work wherever the focus is, and the list of all of them.
import { el } from "./text.js";

const EVERYWHERE = [["/", "find, or filter the list"], ["?", "this list"]];

const show = (keys) => {
  const opened = document.querySelector("dialog.keys");
  if (opened) { opened.close(); return; }
  const body = el("tbody");
  for (const [key, does] of [...keys, ...EVERYWHERE]) body.append(el("tr", {}, el("th", { scope: "row" }, el("kbd", { text: key })), el("td", { text: does })));
  const dialog = el("dialog", { class: "keys", "aria-labelledby": "keys-heading" }, el("h2", { id: "keys-heading", text: "Keys" }), el("table", {}, body),
    el("form", { method: "dialog" }, el("button", { text: "Close" })));
  const back = document.activeElement;
  dialog.addEventListener("close", () => { dialog.remove(); back?.focus?.({ preventScroll: true }); });
  document.body.append(dialog);
  dialog.showModal();
};

export const keysButton = (keys) => el("button", { type: "button", text: "Keys (?)", on: { click: () => show(keys) } });

// `current` gives what is shown now: {find, keys}.
export const listen = (current) => addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea")) return;
  if (event.key === "?") show(current()?.keys || []);
  else if (event.key === "/" && current()?.find && !document.querySelector("dialog[open]")) current().find();
  else return;
  event.preventDefault();
});
