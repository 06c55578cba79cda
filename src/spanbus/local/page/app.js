// The page: runs, one run, phases over time; live runs move.
import { badge, bdi, copy, duration, el, iso, line, resultClass, say, when } from "./text.js";
import { Live } from "./live.js";
import { Waterfall } from "./waterfall.js";

const main = document.getElementById("main");
let view = null;
let generation = 0;

const get = async (path) => {
  const answer = await fetch(path, { headers: { accept: "application/json" }, cache: "no-store" });
  if (answer.status === 401) { location.assign("/login"); throw new Error("log in"); }
  if (!answer.ok) throw Object.assign(new Error(`${answer.status}`), { status: answer.status });
  return answer.json();
};

const live = new Live({
  closed: () => get("/view/runs?limit=1").catch(() => null), // another token since the backend started again: to the login
  changed: (runId) => view?.changed?.(runId),
  ended: (runId) => view?.ended?.(runId),
  link: (text) => { const place = document.getElementById("link"); if (place.textContent !== text) place.textContent = text; },
});

const CARDS = 24;
const named = (names) => names.filter(Boolean).map((name) => [name, name]);

// --- runs ---------------------------------------------------------------------------------------------------------------

const showRuns = async (query) => {
  const filters = { workflow: query.get("workflow") || "", result: query.get("result") || "", q: query.get("q") || "", since: query.get("since") || "" };
  const limit = Math.min(Number(query.get("limit")) || 100, 1000);
  const go = () => {
    const next = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
    location.hash = `#/runs${String(next) ? `?${next}` : ""}`;
  };
  const choice = (name, label, options) => {
    const select = el("select", { name, on: { change: (event) => { filters[name] = event.target.value; go(); } } });
    for (const [value, text] of options) select.append(el("option", { value, text: line(text, 80), selected: value === filters[name] }));
    return el("label", {}, label, select);
  };
  const cards = el("ul", { class: "cards" });
  const liveHeading = el("h2", { text: "Running now" });
  const liveBox = el("section", { "aria-label": "Running now" }, liveHeading, cards);
  const body = el("tbody");
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...[["Result"], ["Workflow"], ["Started"], ["Duration", "number"], ["Error", "wide"], ["Run", "wide"]]
    .map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), body);
  const list = el("section", { "aria-label": "Runs" });
  const workflowSlot = el("span");
  const search = el("input", { type: "search", name: "q", value: filters.q, maxlength: 200, on: { change: (event) => { filters.q = event.target.value; go(); } } });
  const form = el("form", { class: "filters", role: "search", on: { submit: (event) => { event.preventDefault(); filters.q = search.value; go(); } } },
    workflowSlot,
    choice("result", "Result", [["", "all"], ["failed", "all that failed"], ...["success", "failure", "timeout", "cancellation", "skip", "error"].map((value) => [value, value])]),
    choice("since", "Started", [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]]),
    el("label", {}, "Name or run id", search));
  main.replaceChildren(el("h1", { text: "Runs" }), liveBox, form, list);

  // A card stays the same element while its run goes on: a link that is being clicked, or has the focus, is not taken away.
  const made = new Map();
  const card = (runId) => {
    if (!made.has(runId)) {
      const one = { state: el("span"), link: el("a", { href: `#/run/${encodeURIComponent(runId)}` }), phases: el("ul"), shown: "" };
      made.set(runId, { ...one, node: el("li", { class: "card", "data-run": line(runId, 100) }, el("h3", {}, one.state, " ", one.link), one.phases) });
    }
    return made.get(runId);
  };
  const drawLive = () => {
    const runs = [...live.runs.values()].filter((run) => run.state !== "ended" && !(run.state === "killed" && run.listed));
    liveBox.hidden = runs.length === 0;
    const heading = runs.length > CARDS ? `Running now: the newest ${CARDS} of ${runs.length}` : "Running now";
    if (liveHeading.textContent !== heading) liveHeading.textContent = heading;
    const nodes = runs.slice(-CARDS).map((run) => {
      const one = card(run.run_id);
      if (one.shown !== run.state) { one.shown = run.state; one.state.replaceChildren(badge(run.state)); }
      one.link.replaceChildren(bdi(run.workflow || run.run_id, 80));
      one.phases.replaceChildren(...[...run.spans.values()].filter((span) => span.level === "phase").slice(-8).map((span) => {
        const us = span.result ? span.ended_at_us - span.started_at_us : live.untilUs(run) - span.started_at_us;
        const state = span.result || (run.state === "running" ? "running" : run.state);
        return el("li", {}, el("span", {}, badge(state), " ", bdi(span.name, 60)), el("span", { class: "soft", text: duration(Math.max(0, us)) }));
      }));
      return one.node;
    });
    if (nodes.length !== cards.children.length || nodes.some((node, at) => cards.children[at] !== node)) cards.replaceChildren(...nodes);
  };
  const load = async () => {
    const asked = new URLSearchParams({ ...Object.fromEntries(Object.entries(filters).filter(([, value]) => value)), limit });
    const mine = generation;
    const found = await get(`/view/runs?${asked}`);
    if (mine !== generation) return;
    for (const run of found.runs) { const known = live.runs.get(run.run_id); if (known) known.listed = true; }
    drawLive();
    const waiting = [...live.runs.values()].some((run) => run.state === "killed" && !run.listed);
    if (waiting && tries < 15) { tries += 1; clearTimeout(again); again = setTimeout(() => load().catch(failed), 2000); } // its spans are stored by whoever comes by
    workflowSlot.replaceChildren(choice("workflow", "Workflow", [["", "all"], ...named(found.workflows)]));
    body.replaceChildren(...found.runs.map((run) => el("tr", {},
      el("td", {}, badge(run.result)), el("td", {}, el("a", { href: `#/run/${encodeURIComponent(run.run_id)}` }, bdi(run.workflow || "(no name)", 100))),
      el("td", { class: "when", text: when(iso(run.started_at)) }), el("td", { class: "number", text: duration(run.duration_s * 1e6) }),
      el("td", { class: "wide" }, bdi(run.error_type || "", 80)), el("td", { class: "wide mono" }, bdi(run.run_id, 40)))));
    const parts = [found.runs.length ? table : el("p", { class: "empty", text: Object.values(filters).some(Boolean) ? "No run matches." : "No run yet. In another terminal: spanbus run" })];
    if (found.more && limit < 1000) parts.push(el("p", {}, el("a", { href: `#/runs?${new URLSearchParams({ ...Object.fromEntries(asked), limit: Math.min(1000, limit * 3) })}`, text: "Show more" })));
    list.replaceChildren(...parts);
  };
  drawLive();
  const timer = setInterval(drawLive, 500);
  let again = 0;
  let tries = 0;
  view = { changed: drawLive, ended: () => { drawLive(); tries = 0; clearTimeout(again); again = setTimeout(() => load().catch(failed), 400); }, close: () => { clearInterval(timer); clearTimeout(again); } };
  await load();
};

// --- one run ------------------------------------------------------------------------------------------------------------

const rowsOfLive = (run) => {
  const spans = [...run.spans.values()];
  const ids = new Set(spans.map((span) => span.span_id));
  const children = new Map();
  for (const span of spans) {
    const key = ids.has(span.parent_span_id) ? span.parent_span_id : "";
    if (!children.has(key)) children.set(key, []);
    children.get(key).push(span);
  }
  const start = Math.min(...spans.map((span) => span.started_at_us));
  const rows = [];
  const walk = (span, depth) => {
    if (depth > 100) return;
    const events = run.events.get(span.span_id) || [];
    const row = {
      id: span.span_id, parent: span.parent_span_id, depth, level: span.level, name: span.name, error_type: span.error_type, error: span.error,
      result: span.result || (run.state === "running" ? "running" : run.state), start: span.started_at_us - start,
      length: span.result ? span.ended_at_us - span.started_at_us : null, attempt: span.attempt, attempts: span.attempts, events: events.length,
      marks: events.map((event) => [event.at_us - start, event.name]), flags: [], size: 0,
    };
    const at = rows.push(row);
    for (const child of (children.get(span.span_id) || []).sort((a, b) => a.started_at_us - b.started_at_us)) walk(child, depth + 1);
    row.size = rows.length - at;
  };
  for (const span of (children.get("") || []).sort((a, b) => a.started_at_us - b.started_at_us)) walk(span, 0);
  return { rows, start };
};

const showRun = async (runId) => {
  const mine = generation;
  const place = el("div");
  main.replaceChildren(el("p", {}, el("a", { href: "#/runs", text: "← Runs" })), place);
  let fall = null;
  let stored = false;
  let timer = 0;

  const head = (title, result, facts, document) => {
    const list = el("dl", { class: "facts" });
    for (const [name, value] of facts) if (value) list.append(el("div", {}, el("dt", { text: name }), el("dd", {}, value instanceof Node ? value : bdi(value, 200))));
    const tools = el("div", { class: "tools" },
      el("button", { type: "button", text: "Fold all", on: { click: () => fall?.foldAll(true) } }), el("button", { type: "button", text: "Unfold all", on: { click: () => fall?.foldAll(false) } }),
      el("button", { type: "button", text: "Next failure (n)", on: { click: () => fall?.nextFailure(1) } }),
      document ? el("button", { type: "button", text: "Copy run as JSON", on: { click: () => copy(document()) } }) : null);
    return [el("h1", {}, title instanceof Node ? title : bdi(title, 200), " ", result instanceof Node ? result : badge(result)), list, tools];
  };

  const now = { title: el("bdi"), state: el("span"), started: el("bdi"), far: el("bdi"), shown: "" };
  const drawLive = () => {
    const run = live.runs.get(runId);
    if (stored || !run || !run.spans.size) return;
    const { rows, start } = rowsOfLive(run);
    const edge = Math.max(live.untilUs(run) - start, ...rows.map((row) => row.start + (row.length || 0)));
    if (fall) { fall.startUs = start; fall.renew(rows, edge * 1.05); } else {
      fall = new Waterfall({ rows, startUs: start, lengthUs: edge * 1.05, label: "Spans of the run",
        detail: async (row) => ({ events: (live.runs.get(runId)?.events.get(row.id) || []), attributes: {} }) });
      place.replaceChildren(...head(now.title, now.state, [["run", runId], ["started", now.started], ["so far", now.far]]), fall.node);
    }
    // Only texts change from here on: what has the focus keeps it, what was scrolled stays there.
    now.title.textContent = line(run.workflow || runId, 200);
    now.started.textContent = when(start);
    now.far.textContent = duration(edge);
    if (now.shown !== run.state) { now.shown = run.state; now.state.replaceChildren(badge(run.state)); }
  };

  const drawStored = async () => {
    let found;
    try { found = await get(`/view/runs/${encodeURIComponent(runId)}`); } catch (error) {
      if (error.status === 404) return false;
      throw error;
    }
    if (mine !== generation) return true;
    stored = true;
    clearInterval(timer);
    fall?.close();
    const jaeger = found.jaeger ? el("a", { href: found.jaeger, rel: "noreferrer", target: "_blank", text: "in Jaeger" }) : null;
    const id = (row) => `/view/runs/${encodeURIComponent(runId)}/spans/${encodeURIComponent(row.id)}`;
    fall = new Waterfall({ rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, detail: (row) => get(id(row)).catch(() => null), label: "Spans of the run" });
    const run = found.run;
    place.replaceChildren(...head(run.workflow, run.result, [
      ["run", run.run_id], ["trace", run.trace_id], ["started", when(iso(run.started_at))], ["took", duration(run.duration_s * 1e6)],
      ["error type", run.error_type], ["spans", String(found.rows.length)], ["", jaeger]],
      () => ({ ...run, phases: fall.subtree(found.rows[0]).children })), fall.node);
    fall.draw();
    fall.view.focus({ preventScroll: true });
    return true;
  };

  let tries = 0;
  const settle = async () => {
    if (mine !== generation || stored) return;
    if (await drawStored().catch(() => false)) return;
    tries += 1;
    if (tries < 40) setTimeout(settle, 500);
  };
  view = { changed: (id) => { if (id === runId) drawLive(); }, ended: (id) => { if (id === runId) { drawLive(); settle(); } }, close: () => { clearInterval(timer); fall?.close(); } };
  if (!(await drawStored())) {
    if (mine !== generation) return;
    timer = setInterval(drawLive, 500);
    drawLive();
    if (!live.runs.get(runId)) place.replaceChildren(el("p", { class: "empty", text: "This run is not stored, and it is not running." }));
    else if (live.runs.get(runId).state === "ended") settle();
  }
};

// --- phases over time -----------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const dots = (points, label) => {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 300 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const most = Math.max(...points.map((point) => point[1]), 1e-6);
  points.forEach(([, seconds, result], at) => {
    const bad = ["failure", "error", "timeout"].includes(result);
    const height = Math.max(2, (seconds / most) * 34);
    const bar = document.createElementNS(SVG, "rect");
    const width = 300 / Math.max(points.length, 12);
    bar.setAttribute("x", String(at * width));
    bar.setAttribute("width", String(Math.max(1, width * 0.75)));
    bar.setAttribute("y", String(40 - height));
    bar.setAttribute("height", String(height));
    bar.setAttribute("class", `p b-${resultClass(result)}`);
    svg.append(bar);
    if (bad) {
      const cross = document.createElementNS(SVG, "rect");
      for (const [name, value] of [["x", at * width], ["y", 0], ["width", Math.max(1, width * 0.75)], ["height", 3]]) cross.setAttribute(name, String(value));
      cross.setAttribute("class", `p b-${resultClass(result)}`);
      svg.append(cross);
    }
  });
  return svg;
};

const showPhases = async (query) => {
  const mine = generation;
  const since = query.get("since") || "604800";
  const workflow = query.get("workflow") || "";
  const found = await get(`/view/phases?${new URLSearchParams({ since, workflow })}`);
  if (mine !== generation) return;
  const select = (label, value, options, name) => {
    const box = el("select", { name, on: { change: (event) => { const next = new URLSearchParams({ since, workflow }); next.set(name, event.target.value); location.hash = `#/phases?${next}`; } } });
    for (const [key, text] of options) box.append(el("option", { value: key, text: line(text, 80), selected: key === value }));
    return el("label", {}, label, box);
  };
  const body = el("tbody");
  for (const phase of found.phases) {
    const ratio = phase.runs ? phase.failures / phase.runs : 0;
    body.append(el("tr", {}, el("td", { class: "short" }, bdi(phase.workflow || "(no name)", 80)), el("th", { scope: "row" }, bdi(phase.phase || "(no name)", 80)),
      el("td", { class: "number wide", text: String(phase.runs) }), el("td", { class: "number wide", text: phase.runs ? duration(phase.p50_s * 1e6) : "–" }),
      el("td", { class: "number", text: phase.runs ? duration(phase.p95_s * 1e6) : "–" }),
      el("td", { class: "number", text: phase.runs ? `${(ratio * 100).toFixed(ratio && ratio < 0.1 ? 1 : 0)} % (${phase.failures})` : "–" }),
      el("td", {}, phase.last_failure ? el("a", { href: `#/run/${encodeURIComponent(phase.last_failure.run_id)}`, text: when(iso(phase.last_failure.at)) }) : "none"),
      el("td", { class: "wide" }, dots(phase.points, line(`${phase.points.length} durations of ${phase.phase}, oldest first; failures have a mark at the top`, 200)))));
  }
  main.replaceChildren(el("h1", { text: "Phases over time" }),
    el("form", { class: "filters" }, select("Workflow", workflow, [["", "all"], ...named(found.workflows)], "workflow"),
      select("Period", since, [["3600", "last hour"], ["86400", "last day"], ["604800", "last week"], ["2592000", "last 30 days"]], "since")),
    found.phases.length ? el("table", {}, el("thead", {}, el("tr", {}, ...[["Workflow"], ["Phase"], ["Runs", "number wide"], ["p50", "number wide"], ["p95", "number"], ["Failed", "number"], ["Last failure"], ["Durations", "wide"]]
      .map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), body) : el("p", { class: "empty", text: "No phase in this period." }));
  let again = 0;
  view = { ended: () => { clearTimeout(again); again = setTimeout(() => { if (mine === generation) route(); }, 800); }, close: () => clearTimeout(again) };
};

// --- traces of other programs ---------------------------------------------------------------------------------------------

const showTraces = async (query) => {
  const mine = generation;
  const filters = { service: query.get("service") || "", since: query.get("since") || "", q: query.get("q") || "" };
  const limit = Math.min(Number(query.get("limit")) || 100, 1000);
  const asked = new URLSearchParams({ ...Object.fromEntries(Object.entries(filters).filter(([, value]) => value)), limit });
  const found = await get(`/view/traces?${asked}`);
  if (mine !== generation) return;
  const go = () => { const next = new URLSearchParams(Object.entries(filters).filter(([, value]) => value)); location.hash = `#/traces${String(next) ? `?${next}` : ""}`; };
  const choice = (name, label, options) => {
    const select = el("select", { name, on: { change: (event) => { filters[name] = event.target.value; go(); } } });
    for (const [value, text] of options) select.append(el("option", { value, text: line(text, 80), selected: value === filters[name] }));
    return el("label", {}, label, select);
  };
  const search = el("input", { type: "search", name: "q", value: filters.q, maxlength: 200, on: { change: (event) => { filters.q = event.target.value; go(); } } });
  const body = el("tbody");
  for (const trace of found.traces) {
    body.append(el("tr", {}, el("td", {}, badge(trace.result)), el("td", {}, bdi(trace.service, 80)), el("td", {}, el("a", { href: `#/trace/${trace.trace_id}` }, bdi(trace.name || "(no name)", 100))),
      el("td", { class: "when", text: when(iso(trace.started_at)) }), el("td", { class: "number", text: duration(trace.duration_s * 1e6) }), el("td", { class: "wide mono", text: trace.trace_id })));
  }
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...[["Result"], ["Service"], ["Name"], ["Started"], ["Duration", "number"], ["Trace", "wide"]]
    .map(([text, kind]) => el("th", { scope: "col", class: kind, text })))), body);
  const parts = [found.traces.length ? table : el("p", { class: "empty", text: Object.values(filters).some(Boolean) ? "No trace matches." : "No trace of another program yet. Any OpenTelemetry SDK can send here: OTEL_EXPORTER_OTLP_ENDPOINT is the address of this page." })];
  if (found.more && limit < 1000) parts.push(el("p", {}, el("a", { href: `#/traces?${new URLSearchParams({ ...Object.fromEntries(asked), limit: Math.min(1000, limit * 3) })}`, text: "Show more" })));
  main.replaceChildren(el("h1", { text: "Traces of other programs" }),
    el("form", { class: "filters", role: "search", on: { submit: (event) => { event.preventDefault(); filters.q = search.value; go(); } } },
      choice("service", "Service", [["", "all"], ...named(found.services)]),
      choice("since", "Started", [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]]),
      el("label", {}, "Name or trace id", search)),
    el("section", { "aria-label": "Traces" }, ...parts));
};

const showTrace = async (traceId) => {
  const mine = generation;
  const back = el("p", {}, el("a", { href: "#/traces", text: "← Traces" }));
  let found;
  try { found = await get(`/view/traces/${encodeURIComponent(traceId)}`); } catch (error) {
    if (error.status !== 404 && error.status !== 400) throw error;
    if (mine === generation) main.replaceChildren(back, el("p", { class: "empty", text: "This trace is not stored." }));
    return;
  }
  if (mine !== generation) return;
  const one = (row) => get(`/view/traces/${found.trace_id}/spans/${row.id}`).catch(() => null);
  const fall = new Waterfall({ rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, detail: one, label: "Spans of the trace", services: true });
  view = { close: () => fall.close() };
  const facts = el("dl", { class: "facts" });
  for (const [name, value] of [["trace", found.trace_id], ["services", found.services.join(", ")], ["started", when(found.start_us)], ["took", duration(found.length_us)], ["spans", String(found.rows.length)]]) {
    facts.append(el("div", {}, el("dt", { text: name }), el("dd", {}, bdi(value, 300))));
  }
  if (found.jaeger) facts.append(el("div", {}, el("dt", { text: "" }), el("dd", {}, el("a", { href: found.jaeger, rel: "noreferrer", target: "_blank", text: "in Jaeger" }))));
  main.replaceChildren(back, el("h1", {}, bdi(found.rows[0].name, 200), " ", badge(found.rows[0].result)), facts,
    el("div", { class: "tools" }, el("button", { type: "button", text: "Fold all", on: { click: () => fall.foldAll(true) } }), el("button", { type: "button", text: "Unfold all", on: { click: () => fall.foldAll(false) } }),
      el("button", { type: "button", text: "Next failure (n)", on: { click: () => fall.nextFailure(1) } })), fall.node);
  fall.draw();
  fall.view.focus({ preventScroll: true });
};

// --- the frame ------------------------------------------------------------------------------------------------------------

const failed = (error) => {
  if (error.message === "log in") return;
  main.replaceChildren(el("h1", { text: "Not available" }), el("p", { class: "error", text: `The backend did not answer (${line(error.message, 100)}).` }), el("button", { type: "button", text: "Try again", on: { click: route } }));
};

const route = () => {
  view?.close?.();
  view = null;
  generation += 1;
  const [path, search] = (location.hash.slice(1) || "/runs").split("?");
  const query = new URLSearchParams(search || "");
  const name = path.startsWith("/phases") ? "phases" : path.startsWith("/trace") ? "traces" : "runs";
  for (const link of document.querySelectorAll("header nav a")) if (link.dataset.view === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  let runId = null;
  if (path.startsWith("/run/")) { try { runId = decodeURIComponent(path.slice(5)); } catch { runId = path.slice(5); } }
  const traceId = path.startsWith("/trace/") ? path.slice(7) : null;
  const shows = { phases: ["Phases", showPhases], traces: ["Traces", showTraces], runs: ["Runs", showRuns] }[name];
  document.title = `${runId || traceId ? line(runId || traceId, 12) : shows[0]} · spanbus`;
  return (runId ? showRun(runId) : traceId ? showTrace(traceId) : shows[1](query)).catch(failed);
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
addEventListener("hashchange", async () => {
  const at = document.activeElement;
  const name = at?.closest?.("form.filters") ? at.name : "";
  if (!name) { route(); main.focus({ preventScroll: true }); return; }
  await route(); // who steps through a filter with the keyboard stays in it
  main.querySelector(`form.filters [name="${name}"]`)?.focus({ preventScroll: true });
  const count = main.querySelectorAll("section tbody tr, main > table tbody tr").length;
  say(count === 1 ? "1 row" : `${count} rows`);
});
live.connect();
route();
