// The list of runs, with those that are going on above it.
import { age, ago, badge, bdi, counted, duration, el, iso, line, resultClass, say } from "./text.js";
import { asQuery, choice, get, heads, main, named, runLink, typed } from "./page.js";

const CARDS = 24;
const LINES = 10;
const HEARD = 8; // cards that show the newest line of their output
const RESULTS = ["success", "failure", "timeout", "cancellation", "skip", "error"];
const SINCE = [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]];

// Every phase as its mark; a name and a result on hover, all of it for who does not see it.
export const strip = (run) => {
  const counts = new Map();
  for (const [, result] of run.phases) counts.set(result, (counts.get(result) || 0) + 1);
  const told = [...counts].map(([result, number]) => `${number} ${line(result, 30)}`).join(", ");
  const rest = run.phases_total - run.phases.length;
  return el("span", { class: "strip", role: "img", "aria-label": run.phases_total ? `${counted(run.phases_total, "phase")}: ${told}` : "no phase" },
    ...run.phases.map(([name, result, seconds]) => el("span", { class: `badge r-${resultClass(result)}`, title: line(`${name}: ${result || "unknown"}${result === "skip" ? "" : `, ${duration(seconds * 1e6)}`}`, 200) })),
    rest > 0 ? el("span", { class: "soft", text: ` +${rest}` }) : null);
};

export const version = (run) => run.branch || run.commit ? el("span", { class: "soft version" }, bdi(run.branch || "", 60), run.branch && run.commit ? " " : "", run.commit ? el("span", { class: "mono", title: line(run.commit, 64), text: line(run.commit.slice(0, 8), 8) }) : "") : null;

const errorOf = (run) => {
  if (!run.failed_phase && !run.error) return bdi(run.error_type || "", 80);
  return el("div", {}, run.failed_phase ? el("strong", {}, bdi(run.failed_phase, 60)) : "", run.failed_phase && run.error ? ": " : "", bdi(run.error || run.error_type || "", 160),
    run.output && run.output !== run.error ? el("div", { class: "mono soft" }, bdi(run.output, 160)) : null);
};

// How long a workflow usually takes, asked once a minute at most.
const usual = new Map();
const usualOf = (run) => {
  const key = `${run.project}\n${run.workflow}`, known = usual.get(key);
  if (!known || Date.now() - known.at > 60000) {
    const entry = { at: Date.now(), said: known?.said || null };
    usual.set(key, entry);
    if (run.workflow) get(`/view/usual?${asQuery({ workflow: run.workflow, project: run.project })}`).then((said) => { entry.said = said; }).catch(() => null);
  }
  return usual.get(key).said;
};

// Time so far against the usual time.
const progress = (soFarUs, usualUs) => usualUs
  ? [el("progress", { max: 100, value: Math.min(100, Math.round((soFarUs / usualUs) * 100)), "aria-label": "time so far, of the usual time" }), " ", el("span", { class: "soft", text: `${duration(soFarUs)}, usually ${duration(usualUs)}` })]
  : [el("span", { class: "soft", text: duration(soFarUs) })];

// What is open, waits or ended, in the order of the plan.
const linesOf = (run, live) => {
  const phases = new Map();
  for (const span of run.spans.values()) if (span.level === "phase") phases.set(span.name, span);
  const ended = new Set([...phases.values()].filter((span) => span.result).map((span) => span.name));
  const planned = (run.plan || []).filter((each) => !phases.has(each.name)).map((each) => ({ name: each.name, waits: each.needs.filter((need) => !ended.has(need)) }));
  const lines = [...[...phases.values()].map((span) => ({ span, name: span.name })), ...(run.state === "running" ? planned : [])];
  const shown = lines.length > LINES ? lines.filter((each) => !ended.has(each.name) || each.span.result !== "success").slice(0, LINES) : lines;
  const nodes = shown.map(({ span, name, waits }) => {
    if (!span) return el("li", {}, el("span", {}, badge("waiting"), " ", bdi(name, 60)), el("span", { class: "soft" }, waits.length ? bdi(`for ${waits.join(", ")}`, 60) : ""));
    const us = span.result ? span.ended_at_us - span.started_at_us : live.untilUs(run) - span.started_at_us;
    return el("li", {}, el("span", {}, badge(span.result || (run.state === "running" ? "running" : run.state)), " ", bdi(name, 60)), el("span", { class: "soft", text: duration(Math.max(0, us)) }));
  });
  if (shown.length < lines.length) nodes.push(el("li", { class: "soft", text: `and ${counted(lines.length - shown.length, "phase")} more` }));
  return nodes;
};

export const showRuns = async (query, stage) => {
  const { live } = stage;
  const filters = Object.fromEntries(["project", "workflow", "result", "since", "q"].map((name) => [name, query.get(name) || ""]));
  let limit = Math.min(Number(query.get("limit")) || 100, 1000);
  let tries = 0, again = 0, asked = 0, drawn = 0;
  const place = () => { const next = String(asQuery({ ...filters, limit: limit === 100 ? "" : limit })); return `#/runs${next ? `?${next}` : ""}`; };
  const set = (name) => (value) => { filters[name] = value; history[name === "q" ? "replaceState" : "pushState"](null, "", place()); load(true).catch(stage.failed); };
  const project = choice("project", "Project", filters.project, [["", "all"]], set("project"));
  const workflow = choice("workflow", "Workflow", filters.workflow, [["", "all"]], set("workflow"));
  const search = typed("Name or run id", filters.q, set("q"));
  const form = el("form", { class: "filters", role: "search", on: { submit: (event) => { event.preventDefault(); set("q")(search.querySelector("input").value); } } }, project, workflow,
    choice("result", "Result", filters.result, [["", "all"], ["failed", "all that failed"], ...RESULTS.map((value) => [value, value])], set("result")),
    choice("since", "Started", filters.since, SINCE, set("since")), search);
  const cards = el("ul", { class: "cards" });
  const liveHeading = el("h2", { text: "Running now" });
  const liveBox = el("section", { "aria-label": "Running now" }, liveHeading, cards);
  const body = el("tbody");
  const table = el("table", { class: "runs" }, heads([["Result"], ["Workflow"], ["Phases", "wide"], ["First error", "wide"], ["Started"], ["Took", "number"], ["Run", "wider"]]), body);
  const list = el("section", { "aria-label": "Runs" });
  main.replaceChildren(el("h1", { text: "Runs" }), liveBox, form, list);

  // A card stays the same element while its run goes on: a link that is being clicked, or has the focus, is not taken away.
  const made = new Map();
  const card = (runId) => {
    if (!made.has(runId)) {
      const one = { state: el("span"), link: el("a", { href: runLink(runId) }), of: el("span", { class: "soft" }), far: el("p"), phases: el("ul"), heard: el("div", { class: "heard" }), shown: "" };
      made.set(runId, { ...one, node: el("li", { class: "card", "data-run": line(runId, 100) }, el("h3", {}, one.state, " ", one.link, " ", one.of), one.far, one.phases, one.heard) });
    }
    return made.get(runId);
  };
  const drawLive = () => {
    age();
    const runs = [...live.runs.values()].filter((run) => run.state !== "ended" && !(run.state === "killed" && run.listed)).reverse();
    liveBox.hidden = runs.length === 0;
    const heading = runs.length > CARDS ? `Running now: the newest ${CARDS} of ${runs.length}` : "Running now";
    if (liveHeading.textContent !== heading) liveHeading.textContent = heading;
    const nodes = runs.slice(0, CARDS).map((run) => {
      const one = card(run.run_id);
      if (one.shown !== run.state) { one.shown = run.state; one.state.replaceChildren(badge(run.state)); }
      one.link.replaceChildren(bdi(run.workflow || run.run_id, 80));
      one.of.replaceChildren(bdi(run.project || "", 60));
      const began = Math.min(...[...run.spans.values()].map((span) => span.started_at_us));
      const said = usualOf(run);
      if (Number.isFinite(began)) one.far.replaceChildren(...progress(Math.max(0, live.untilUs(run) - began), said?.run_s ? said.run_s * 1e6 : 0));
      one.phases.replaceChildren(...linesOf(run, live));
      return one.node;
    });
    if (nodes.length !== cards.children.length || nodes.some((node, at) => cards.children[at] !== node)) cards.replaceChildren(...nodes);
  };
  // The newest line that each command writes, as it comes.
  let hearing = 0;
  const hear = async () => {
    const runs = document.hidden ? [] : [...live.runs.values()].filter((run) => run.state === "running").reverse().slice(0, HEARD);
    await Promise.all(runs.map(async (run) => {
      const said = await get(`/view/newest?${asQuery({ run: run.run_id })}`).catch(() => null);
      if (said && stage.isCurrent()) card(run.run_id).heard.replaceChildren(...said.lines.map((each) => el("p", { class: "soft mono" }, bdi(each.tool || each.phase, 40), " | ", bdi(each.line, 160))));
    }));
    if (stage.isCurrent()) hearing = setTimeout(hear, 1000);
  };
  const row = (run) => el("tr", {},
    el("td", {}, badge(run.result)),
    el("td", {}, el("a", { href: runLink(run.run_id) }, bdi(run.workflow || "(no name)", 100)), el("div", { class: "of soft" }, bdi(run.project || "", 60), " ", version(run)), run.error ? el("div", { class: "of narrow" }, errorOf(run)) : null),
    el("td", { class: "wide" }, strip(run)), el("td", { class: "wide said-error" }, errorOf(run)),
    el("td", { class: "when" }, ago(iso(run.started_at))), el("td", { class: "number", text: run.result === "skip" ? "" : duration(run.duration_s * 1e6) }), el("td", { class: "wider mono" }, bdi(run.run_id, 40)));
  const load = async (told = false) => {
    const mine = asked += 1;
    const found = await get(`/view/runs?${asQuery({ ...filters, limit })}`);
    if (!stage.isCurrent() || mine < drawn) return; // an answer that was overtaken by a later one
    drawn = mine;
    for (const run of found.runs) { const known = live.runs.get(run.run_id); if (known) known.listed = true; }
    drawLive();
    const waiting = [...live.runs.values()].some((run) => run.state === "killed" && !run.listed);
    if (waiting && tries < 15) { tries += 1; clearTimeout(again); again = setTimeout(() => load().catch(stage.failed), 2000); } // its spans are stored by whoever comes by
    project.fill([["", "all"], ...named(found.projects)], filters.project);
    workflow.fill([["", "all"], ...named(found.workflows)], filters.workflow);
    body.replaceChildren(...found.runs.map(row));
    const parts = [found.runs.length ? table : el("p", { class: "empty", text: Object.values(filters).some(Boolean) ? "No run matches." : "No run yet. In another terminal: spanbus run" })];
    if (found.more && limit < 1000) parts.push(el("p", {}, el("button", { type: "button", text: "Show more", on: { click: () => { limit = Math.min(1000, limit * 3); history.replaceState(null, "", place()); load(true).catch(stage.failed); } } })));
    if (found.more && limit >= 1000) parts.push(el("p", { class: "soft", text: "Older runs are found with the filters." }));
    list.replaceChildren(...parts);
    if (told) say(counted(found.runs.length, "row"));
  };
  drawLive();
  const timer = setInterval(drawLive, 500);
  stage.show({
    changed: drawLive, find: () => search.querySelector("input").focus(),
    ended: () => { drawLive(); tries = 0; clearTimeout(again); again = setTimeout(() => load().catch(stage.failed), 400); }, close: () => { clearInterval(timer); clearTimeout(again); clearTimeout(hearing); },
  });
  hear().catch(stage.failed);
  await load();
};
