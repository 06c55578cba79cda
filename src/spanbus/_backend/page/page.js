// What the views share: questions to the backend, filters, lists that grow as one scrolls.
import { counted, el, line } from "./text.js";

export const main = document.getElementById("main");

export const get = async (path) => {
  const answer = await fetch(path, { headers: { accept: "application/json" }, cache: "no-store" });
  if (answer.status === 401) { location.assign("/login"); throw new Error("log in"); }
  if (!answer.ok) throw Object.assign(new Error(`${answer.status}`), { status: answer.status });
  return answer.json();
};

export const asQuery = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined));
export const runLink = (runId) => `#/run/${encodeURIComponent(runId)}`;
export const named = (names) => names.filter(Boolean).map((name) => [name, name]);

// A select with its label; where its options come later, `fill` gives it others without taking the focus.
export const choice = (name, label, value, options, changed) => {
  const select = el("select", { name, on: { change: () => changed(select.value) } });
  const node = el("label", {}, label, select);
  node.fill = (found, chosen) => {
    const all = found.some(([each]) => each === chosen) ? found : [...found, [chosen, chosen]];
    const text = JSON.stringify(all);
    if (node.filled !== text) { node.filled = text; select.replaceChildren(...all.map(([each, shown]) => el("option", { value: each, text: line(shown, 80) }))); }
    select.value = chosen;
  };
  node.fill(options, value);
  return node;
};

// A search field that filters while one types.
export const typed = (label, value, changed) => {
  let wait = 0;
  const input = el("input", { type: "search", name: "q", value, maxlength: 200, on: { input: () => { clearTimeout(wait); wait = setTimeout(() => changed(input.value), 200); } } });
  return el("label", {}, label, input);
};

// Of a trace that was larger than its room in the store.
export const missing = (found) => found.missing ? el("p", { class: "soft", text: `${counted(found.missing, "span")} of it ${found.missing === 1 ? "is" : "are"} no longer stored.` }) : "";

export const heads = (columns) => el("thead", {}, el("tr", {}, ...columns.map(([text, kind]) => el("th", { scope: "col", class: kind, text }))));

const PIECE = 200;

// Rows that are made when they are about to be seen.
export const growing = (body, items, row) => {
  let made = 0;
  const end = el("div", { class: "end" });
  const more = () => { body.append(...items.slice(made, made + PIECE).map(row)); made += PIECE; if (made >= items.length) { observer.disconnect(); end.remove(); } };
  const observer = new IntersectionObserver((seen) => { if (seen.some((each) => each.isIntersecting)) { more(); if (end.isConnected) { observer.unobserve(end); observer.observe(end); } } }, { rootMargin: "600px" });
  more();
  if (made < items.length) observer.observe(end);
  return { end, close: () => observer.disconnect() };
};
