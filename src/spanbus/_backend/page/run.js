// One run: what failed first, its waterfall, its output; while it goes on, and when it is stored.
import { ago, badge, bdi, copy, duration, el, iso, line, say, when } from "./text.js";
import { asQuery, get, main, missing } from "./page.js";
import { output, toEnd } from "./detail.js";
import { causeOf, firstFailure, isFailed, saying } from "./tree.js";
import { version } from "./runs.js";
import { KEYS, Waterfall } from "./waterfall.js";

const waitingRows = (run, start, edge) => {
  const phases = [...run.spans.values()].filter((span) => span.level === "phase");
  const known = new Set(phases.map((span) => span.name)), ended = new Set(phases.filter((span) => span.result).map((span) => span.name));
  const top = [...run.spans.values()].find((span) => span.level === "run");
  if (!run.plan || !top || run.state !== "running") return [];
  return run.plan.filter((each) => !known.has(each.name)).map((each) => ({
    id: `waiting ${each.name}`, parent: top.span_id, depth: 1, level: "phase", name: each.name, result: "waiting", waits: each.needs.filter((need) => !ended.has(need)),
    start: edge, length: 0, attempt: 1, attempts: 1, events: 0, marks: [], flags: [], size: 0,
  }));
};

const rowsOfLive = (run, now) => {
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
      length: span.result ? span.ended_at_us - span.started_at_us : null, so_far: Math.max(0, now - span.started_at_us), attempt: span.attempt, attempts: span.attempts, events: events.length,
      marks: events.map((event) => [event.at_us - start, event.name]), flags: [], size: 0,
    };
    const at = rows.push(row);
    for (const child of (children.get(span.span_id) || []).sort((a, b) => a.started_at_us - b.started_at_us)) walk(child, depth + 1);
    row.size = rows.length - at;
  };
  for (const span of (children.get("") || []).sort((a, b) => a.started_at_us - b.started_at_us)) walk(span, 0);
  const edge = Math.max(now - start, ...rows.map((row) => row.start + (row.length || 0)));
  const waiting = waitingRows(run, start, edge);
  if (waiting.length && rows[0]?.depth === 0) { rows.push(...waiting); rows[0].size += waiting.length; }
  return { rows, start, edge };
};

// The output that is kept of a run's commands.
const outputsOf = (runId, phaseOf) => {
  let all = null, asked = 0;
  const list = async () => {
    if (!all || Date.now() - asked > 1000) { asked = Date.now(); all = get(`/view/outputs?${asQuery({ run: runId })}`); }
    return (await all).outputs;
  };
  return {
    of: async (row) => (await list()).filter((each) => each.span_id === row.id || (row.level === "phase" && each.phase === row.name) || (row.level === "attempt" && each.phase === phaseOf(row) && each.attempt === row.attempt)),
    read: (file, after) => get(`/view/output?${asQuery({ run: runId, file, after })}`),
  };
};

// Details stand below the rows. Then the end of the first failure's output stands above them.
const below = matchMedia("(max-width: 1199px)");
const isAbove = (row, rows) => below.matches && row === causeOf(rows, firstFailure(rows) || row);

// The line that says why, above everything.
const why = (rows, fall) => {
  const first = firstFailure(rows);
  if (!first) return null;
  const cause = causeOf(rows, first);
  const error = saying(cause) || saying(first) || cause.error || first.error || first.error_type;
  const end = cause.output && below.matches ? output(cause.output, `the first failure, ${cause.name}`) : null;
  if (end) { end.classList.add("first"); toEnd(end); }
  const said = el("p", { class: "why" }, "First ", badge(first.result), ": ", el("button", { type: "button", class: "link", on: { click: () => { fall().selectRow(first); fall().view.focus(); } } }, bdi(first.name, 100)),
    cause !== first ? [" › ", bdi(cause.name, 100)].map((each) => each instanceof Node ? each : document.createTextNode(each)).reduce((span, each) => { span.append(each); return span; }, el("span")) : null,
    error ? el("span", {}, ": ", el("span", { class: "error" }, bdi(error, 300))) : null);
  return el("div", {}, said, end);
};

export const showRun = async (runId, stage) => {
  const { live } = stage;
  const place = el("div");
  main.replaceChildren(el("p", {}, el("a", { href: "#/runs", text: "← Runs" })), place);
  const headBox = el("div"), reason = el("div"), missingBox = el("div");
  let fall = null, stored = false, timer = 0, shownRows = [];

  const head = (title, result, facts) => {
    const list = el("dl", { class: "facts" });
    for (const [name, value] of facts) if (value) list.append(el("div", {}, el("dt", { text: name }), el("dd", {}, value instanceof Node ? value : bdi(value, 200))));
    return [el("h1", {}, title instanceof Node ? title : bdi(title, 200), " ", result instanceof Node ? result : badge(result)), list];
  };

  // The waterfall is put on the page once: what is moved about loses its focus and its place.
  const shown = () => { if (!fall.node.isConnected) place.replaceChildren(headBox, reason, missingBox, fall.node); };
  const drawReason = () => reason.replaceChildren(why(shownRows, () => fall) || "");

  const now = { title: el("bdi"), state: el("span"), started: el("bdi"), far: el("bdi"), shown: "" };
  const drawLive = () => {
    const run = live.runs.get(runId);
    if (stored || !run || !run.spans.size) return;
    const { rows, start, edge } = rowsOfLive(run, live.untilUs(run));
    if (fall) { fall.startUs = start; fall.renew(rows, edge * 1.05); } else {
      const phase = (row) => live.runs.get(runId)?.spans.get(row.parent)?.name;
      fall = new Waterfall({ rows, startUs: start, lengthUs: edge * 1.05, label: "Spans of the run", outputs: outputsOf(runId, phase), isAbove,
        detail: async (row) => ({ events: (live.runs.get(runId)?.events.get(row.id) || []), attributes: {} }) });
      const open = rows.findLastIndex((row) => row.result === "running");
      if (open > 0 && !rows.some(isFailed)) fall.select(open); // its output comes as it is written
      headBox.replaceChildren(...head(now.title, now.state, [["project", run.project], ["run", runId], ["started", now.started], ["so far", now.far]]));
      shown();
    }
    // Only texts change from here on: what has the focus keeps it, what was scrolled stays there.
    now.title.textContent = line(run.workflow || runId, 200);
    now.started.textContent = when(start);
    now.far.textContent = duration(edge);
    shownRows = rows;
    const first = firstFailure(rows)?.id || "";
    if (now.first !== first) { now.first = first; drawReason(); }
    if (now.shown !== run.state) { now.shown = run.state; now.state.replaceChildren(badge(run.state)); }
  };

  const compare = async (run) => {
    const { runs } = await get(`/view/runs?${asQuery({ workflow: run.workflow, project: run.project, limit: 100 })}`);
    const before = runs.find((each) => each.run_id !== run.run_id && iso(each.started_at) <= iso(run.started_at));
    if (before) location.hash = `#/compare?${asQuery({ a: before.run_id, b: run.run_id })}`; else say("There is no earlier run of this workflow");
  };

  const drawStored = async () => {
    let found;
    try { found = await get(`/view/runs/${encodeURIComponent(runId)}`); } catch (error) {
      if (error.status === 404) return false;
      throw error;
    }
    if (!stage.isCurrent()) return true;
    stored = true;
    clearInterval(timer);
    const run = found.run;
    const jaeger = found.jaeger ? el("a", { href: found.jaeger, rel: "noreferrer", target: "_blank", text: "in Jaeger" }) : null;
    const id = (row) => `/view/runs/${encodeURIComponent(runId)}/spans/${encodeURIComponent(row.id)}`;
    const phase = (row) => found.rows.find((each) => each.id === row.parent)?.name;
    const said = { rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, detail: (row) => get(id(row)).catch(() => null), outputs: outputsOf(run.run_id, phase),
      tools: [el("button", { type: "button", text: "Copy run as JSON", on: { click: () => copy({ ...run, phases: fall.subtree(found.rows[0]).children }) } }), el("button", { type: "button", text: "Compare with the run before", on: { click: () => compare(run).catch(stage.failed) } })] };
    headBox.replaceChildren(...head(run.workflow, run.result, [
      ["project", run.project], ["", version(run)], ["started", el("span", {}, ago(iso(run.started_at)), el("span", { class: "soft", text: ` (${when(iso(run.started_at))})` }))], ["took", duration(run.duration_s * 1e6)],
      ["error type", run.error_type], ["spans", String(found.rows.length)], ["run", run.run_id], ["trace", run.trace_id], ["", jaeger]]));
    missingBox.replaceChildren(missing(found));
    if (fall) fall.complete(said); else {
      fall = new Waterfall({ ...said, isAbove, label: "Spans of the run" });
      shown();
      fall.axis();
      fall.draw();
      fall.view.focus({ preventScroll: true });
    }
    shownRows = found.rows;
    drawReason();
    return true;
  };

  // Folds, zoom and selection stay; only the output moves to where there is room.
  const turned = () => { if (fall) { drawReason(); fall.detail(fall.shown[fall.selected]); } };
  below.addEventListener("change", turned);
  let tries = 0;
  const settle = async () => {
    if (!stage.isCurrent() || stored) return;
    if (await drawStored().catch(() => false)) return;
    tries += 1;
    if (tries < 40) setTimeout(settle, 500);
  };
  stage.show({
    keys: KEYS, find: () => fall?.search.focus(), changed: (id) => { if (id === runId) drawLive(); },
    ended: (id) => { if (id === runId) { drawLive(); settle(); } }, close: () => { clearInterval(timer); fall?.close(); below.removeEventListener("change", turned); },
  });
  if (live.runs.get(runId)?.state === "running" || !(await drawStored())) {
    if (!stage.isCurrent()) return;
    timer = setInterval(drawLive, 500);
    drawLive();
    if (!live.runs.get(runId)) place.replaceChildren(el("h1", {}, bdi(runId, 100)), el("p", { class: "empty", text: "This run is not stored, and it is not running." }));
    else if (live.runs.get(runId).state === "ended") settle();
  }
};

