// The frame of the page: which view is shown, the live stream, the theme.
import { el, line, say } from "./text.js";
import { Live } from "./live.js";
import { listen } from "./keys.js";
import { get, main } from "./page.js";
import { showCompare } from "./compare.js";
import { showPhase, showPhases } from "./phases.js";
import { showRun } from "./run.js";
import { showRuns } from "./runs.js";
import { showTrace, showTraces } from "./traces.js";

let view = null;
let generation = 0;

const live = new Live({
  closed: () => get("/view/runs?limit=1").catch(() => null), // another token since the backend started again: to the login
  changed: (runId) => view?.changed?.(runId),
  ended: (runId) => view?.ended?.(runId),
  link: (text) => { const place = document.getElementById("link"); if (place.textContent !== text) place.textContent = text; },
});

const failed = (error) => {
  if (error.message === "log in") return;
  main.replaceChildren(el("h1", { text: "Not available" }), el("p", { class: "error", text: `The backend did not answer (${line(error.message, 100)}).` }), el("button", { type: "button", text: "Try again", on: { click: route } }));
};

// By the first word of the place: the entry of the navigation, the title, the view.
const VIEWS = {
  runs: ["runs", "Runs", (rest, query, stage) => showRuns(query, stage)], run: ["runs", "", (rest, query, stage) => showRun(rest, stage)],
  phases: ["phases", "Phases", (rest, query, stage) => showPhases(query, stage)], phase: ["phases", "Phase", (rest, query, stage) => showPhase(query, stage)],
  compare: ["runs", "Compare", (rest, query, stage) => showCompare(query, stage)],
  traces: ["traces", "Traces", (rest, query, stage) => showTraces(query, stage)], trace: ["traces", "", (rest, query, stage) => showTrace(rest, stage)],
};

const route = () => {
  view?.close?.();
  view = null;
  const mine = generation += 1;
  const stage = { live, failed, isCurrent: () => mine === generation, show: (shown) => { if (mine === generation) view = shown; } };
  const [path, search] = (location.hash.slice(1) || "/runs").split("?");
  const [, word, rest] = /^\/([a-z]*)\/?(.*)$/s.exec(path) || ["", "runs", ""];
  const [entry, title, show] = Object.hasOwn(VIEWS, word) ? VIEWS[word] : VIEWS.runs;
  let id = rest;
  try { id = decodeURIComponent(rest); } catch { id = rest; }
  for (const link of document.querySelectorAll("header nav a")) if (link.dataset.view === entry) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  document.title = `${title || line(id, 12)} · spanbus`;
  return show(id, new URLSearchParams(search || ""), stage).catch(failed);
};

const themes = ["auto", "dark", "light"];
const button = document.getElementById("theme");
const setTheme = (theme) => {
  if (theme === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  button.setAttribute("aria-label", `Colour theme: ${theme}`);
  try { localStorage.setItem("theme", theme); } catch { /* private mode: not remembered */ }
};
let theme = "auto";
try { theme = themes.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto"; } catch { theme = "auto"; }
setTheme(theme);
button.addEventListener("click", () => { theme = themes[(themes.indexOf(theme) + 1) % 3]; setTheme(theme); say(`Theme: ${theme}`); });
listen(() => view);
addEventListener("hashchange", async () => {
  const at = document.activeElement;
  const name = at?.closest?.("form.filters") ? at.name : "";
  if (!name) { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); return; }
  await route(); // who steps through a filter with the keyboard stays in it
  main.querySelector(`form.filters [name="${name}"]`)?.focus({ preventScroll: true });
});
live.connect();
route();
