// Phases over time, and the history of one.
import { ago, badge, bdi, counted, duration, el, iso, line, resultClass, say, when } from "./text.js";
import { asQuery, choice, get, growing, heads, main, named, runLink, typed } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const PERIODS = [["3600", "last hour"], ["86400", "last day"], ["604800", "last week"], ["2592000", "last 30 days"]];
const ORDERS = [["", "name"], ["failures", "most failures"], ["flaky", "most flaky"], ["slow", "slowest"], ["trend", "getting slower"]];

const shape = (name, properties) => { const node = document.createElementNS(SVG, name); for (const [key, value] of Object.entries(properties)) node.setAttribute(key, String(value)); return node; };
const isFailure = (result) => ["failure", "error", "timeout"].includes(result);

// Durations as bars on one scale from 0 to the longest; a failure has a block at the top, a pass on a retry a dot.
const chart = (points, label, height) => {
  const svg = shape("svg", { class: "spark", viewBox: `0 0 300 ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  const most = Math.max(...points.map((point) => point[1]), 1e-6), width = 300 / Math.max(points.length, 12), wide = Math.max(0.4, width * 0.75);
  points.forEach(([at, seconds, result, , attempts], number) => {
    const tall = result === "skip" ? 1 : Math.max(2, (seconds / most) * (height - 7));
    const bar = shape("rect", { x: number * width, width: wide, y: height - tall, height: tall, class: `p b-${resultClass(result)}` });
    const title = shape("title", {});
    title.textContent = line(`${when(iso(at))}: ${result}, ${duration(seconds * 1e6)}${attempts > 1 ? `, ${attempts} attempts` : ""}`, 200);
    bar.append(title);
    svg.append(bar);
    if (isFailure(result)) svg.append(shape("rect", { x: number * width, y: 0, width: wide, height: 4, class: `p b-${resultClass(result)}` }));
    else if (result === "success" && attempts > 1) svg.append(shape("rect", { x: number * width, y: 1, width: wide, height: 2, class: "p b-stalled" }));
  });
  return { svg, most };
};

const rate = (phase) => { const share = phase.runs ? phase.failures / phase.runs : 0; return phase.runs ? `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} % (${phase.failures})` : "–"; };
const FEWEST = 8; // successes; as _runs/over_time.py has it
const trend = (phase) => phase.trend === null ? (phase.runs - phase.failures < FEWEST ? "–" : "steady") : `${phase.trend > 0 ? "▲ +" : "▼ −"}${Math.abs(phase.trend * 100).toFixed(0)} %`;
const label = (phase) => line(`${counted(phase.points.length, "duration")} of ${phase.phase}, oldest first, from 0 to the longest; failures have a mark at the top`, 200);
const place = (phase, since) => `#/phase?${asQuery({ project: phase.project, workflow: phase.workflow, phase: phase.phase, since })}`;
const by = { "": () => 0, failures: (a, b) => b.failures - a.failures, flaky: (a, b) => b.flaky - a.flaky, slow: (a, b) => b.p95_s - a.p95_s, trend: (a, b) => (b.trend ?? 0) - (a.trend ?? 0) };

export const showPhases = async (query, stage) => {
  const filters = { since: query.get("since") || "604800", project: query.get("project") || "", workflow: query.get("workflow") || "", q: query.get("q") || "", order: query.get("order") || "" };
  let found = { phases: [] }, list = null, again = 0;
  const here = () => `#/phases?${asQuery(filters)}`;
  const set = (name, ask) => (value) => {
    filters[name] = value;
    history[name === "q" ? "replaceState" : "pushState"](null, "", here());
    if (ask) load(true).catch(stage.failed); else draw(true);
  };
  const project = choice("project", "Project", filters.project, [["", "all"]], set("project", true));
  const workflow = choice("workflow", "Workflow", filters.workflow, [["", "all"]], set("workflow", true));
  const search = typed("Phase", filters.q, set("q", false));
  const slot = el("section", { "aria-label": "Phases" });
  main.replaceChildren(el("h1", { text: "Phases over time" }), el("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } }, project, workflow,
    choice("since", "Period", filters.since, PERIODS, set("since", true)), choice("order", "Order", filters.order, ORDERS, set("order", false)), search), slot);
  const row = (phase) => {
    const { svg, most } = chart(phase.points, label(phase), 40);
    return el("tr", {},
      el("td", { class: "short soft" }, bdi(phase.project, 60), " ", bdi(phase.workflow || "(no name)", 80)),
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", on: { click: () => { location.hash = place(phase, filters.since); } } }, bdi(phase.phase || "(no name)", 80))),
      el("td", { class: "number wide", text: String(phase.runs) }), el("td", { class: "number wide", text: phase.runs ? duration(phase.p50_s * 1e6) : "–" }), el("td", { class: "number", text: phase.runs ? duration(phase.p95_s * 1e6) : "–" }),
      el("td", { class: "number", text: rate(phase) }), el("td", { class: "when" }, phase.last_failure ? el("a", { href: runLink(phase.last_failure.run_id) }, ago(iso(phase.last_failure.at))) : "none"),
      el("td", { class: "number wide", text: phase.flaky ? `${phase.flaky}×` : "" }), el("td", { class: "number wide", text: trend(phase) }),
      el("td", { class: "wide chart" }, el("div", { class: "plot" }, svg, el("span", { class: "soft scale", text: phase.runs ? duration(most * 1e6) : "" }))));
  };
  const draw = (told = false) => {
    const wanted = filters.q.trim().toLowerCase();
    const phases = found.phases.filter((phase) => !wanted || phase.phase.toLowerCase().includes(wanted)).sort(by[filters.order] || by[""]);
    list?.close();
    const body = el("tbody");
    list = growing(body, phases, row);
    const table = el("table", {}, heads([["Workflow"], ["Phase"], ["Runs", "number wide"], ["p50", "number wide"], ["p95", "number"], ["Failed", "number"], ["Last failure"], ["Passed on a retry", "number wide"], ["Trend", "number wide"], ["Durations", "wide"]]), body);
    const rest = found.more ? el("p", { class: "soft", text: "Of the newest 10,000 durations; a shorter period or one workflow shows all of its own." }) : "";
    slot.replaceChildren(rest, ...(phases.length ? [table, list.end] : [el("p", { class: "empty", text: found.phases.length ? "No phase matches." : "No phase in this period." })]));
    if (told) say(counted(phases.length, "row"));
  };
  const load = async (told = false) => {
    const said = await get(`/view/phases?${asQuery({ since: filters.since, workflow: filters.workflow, project: filters.project })}`);
    if (!stage.isCurrent()) return;
    found = said;
    project.fill([["", "all"], ...named(found.projects)], filters.project);
    workflow.fill([["", "all"], ...named(found.workflows)], filters.workflow);
    draw(told);
  };
  stage.show({ find: () => search.querySelector("input").focus(), close: () => { clearTimeout(again); list?.close(); }, ended: () => { clearTimeout(again); again = setTimeout(() => { if (stage.isCurrent() && scrollY < 200) load().catch(stage.failed); }, 800); } });
  await load();
};

export const showPhase = async (query, stage) => {
  const asked = { project: query.get("project") || "", workflow: query.get("workflow") || "", phase: query.get("phase") || "", since: query.get("since") || "2592000" };
  const back = el("p", {}, el("a", { href: "#/phases", text: "← Phases" }));
  const period = choice("since", "Period", asked.since, PERIODS, (value) => { location.hash = `#/phase?${asQuery({ ...asked, since: value })}`; });
  const form = el("form", { class: "filters" }, period);
  let found = null;
  try { found = (await get(`/view/phase?${asQuery(asked)}`)).phase; } catch (error) { if (error.status !== 404) throw error; }
  if (!stage.isCurrent()) return;
  const title = el("h1", {}, bdi(asked.phase || "(no name)", 100), " ", el("span", { class: "soft" }, bdi(`${asked.project} ${asked.workflow}`, 160)));
  if (!found) { main.replaceChildren(back, title, form, el("p", { class: "empty", text: "It did not run in this period." })); return; }
  const facts = el("dl", { class: "facts" });
  for (const [name, value] of [["runs", String(found.runs)], ["failed", rate(found)], ["passed on a retry", String(found.flaky)], ["p50", duration(found.p50_s * 1e6)], ["p95", duration(found.p95_s * 1e6)], ["trend", trend(found)]])
    facts.append(el("div", {}, el("dt", { text: name }), el("dd", { text: value })));
  const { svg, most } = chart(found.points, label(found), 160);
  svg.classList.add("tall");
  const body = el("tbody");
  const list = growing(body, [...found.points].reverse(), ([at, seconds, result, runId, attempts]) => el("tr", {}, el("td", {}, badge(result)), el("td", { class: "when" }, ago(iso(at))), el("td", { class: "number", text: result === "skip" ? "" : duration(seconds * 1e6) }),
    el("td", { class: "number", text: attempts > 1 ? `${attempts}` : "" }), el("td", { class: "mono" }, el("a", { href: runLink(runId) }, bdi(runId, 40)))));
  main.replaceChildren(back, title, form, facts, el("div", { class: "history" }, el("div", { class: "soft scale" }, el("span", { text: duration(most * 1e6) }), el("span", { text: duration(most * 5e5) }), el("span", { text: "0" })), svg),
    el("section", { "aria-label": "Runs" }, el("table", {}, heads([["Result"], ["Started"], ["Took", "number"], ["Attempts", "number"], ["Run"]]), body), list.end));
  stage.show({ close: () => list.close() });
};
