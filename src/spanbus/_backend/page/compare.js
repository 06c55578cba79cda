// Two runs side by side, as `spanbus diff` compares them.
import { ago, badge, bdi, duration, el, iso, line, resultClass } from "./text.js";
import { asQuery, choice, get, heads, main, runLink } from "./page.js";
import { version } from "./runs.js";

const WORSE = new Set(["slower", "newly_failing", "still_failing"]);

export const showCompare = async (query, stage) => {
  const a = query.get("a") || "", b = query.get("b") || "";
  const back = el("p", {}, el("a", { href: runLink(b), text: "← Run" }));
  let found = null;
  try { found = await get(`/view/diff?${asQuery({ baseline: a, candidate: b })}`); } catch (error) { if (error.status !== 404) throw error; }
  if (!stage.isCurrent()) return;
  if (!found) { main.replaceChildren(back, el("h1", { text: "Compare" }), el("p", { class: "empty", text: "One of these runs is not stored." })); return; }
  const [before, after] = found.runs;
  const { runs } = await get(`/view/runs?${asQuery({ workflow: after.workflow, project: after.project, limit: 100 })}`);
  if (!stage.isCurrent()) return;
  const options = (own) => (runs.some((run) => run.run_id === own.run_id) ? runs : [own, ...runs]).map((run) => [run.run_id, `${new Date(iso(run.started_at) / 1000).toLocaleString()} ${run.result} ${run.branch || ""} ${run.run_id.slice(0, 12)}`]);
  const go = (next) => { location.hash = `#/compare?${asQuery(next)}`; };
  const side = (run, title) => el("div", { class: "card" }, el("h2", { text: title }), el("p", {}, badge(run.result), " ", el("a", { href: runLink(run.run_id) }, bdi(run.workflow, 80)), " ", version(run)),
    el("p", { class: "soft" }, ago(iso(run.started_at)), ` · ${duration(run.duration_s * 1e6)}`), run.error ? el("p", { class: "error" }, run.failed_phase ? bdi(`${run.failed_phase}: `, 80) : "", bdi(run.error, 300)) : null);
  const most = Math.max(1e-6, ...found.phases.flatMap((phase) => [phase.before_s || 0, phase.after_s || 0]));
  const bars = (phase) => el("div", { class: "pair-of-bars", "aria-hidden": "true" }, ...[["before", phase.before_s, phase.before_result], ["after", phase.after_s, phase.after_result]].map(([, seconds, result]) => {
    const bar = el("div", { class: `flat b-${resultClass(result || "ended")}` });
    bar.style.width = `${((seconds || 0) / most) * 100}%`;
    return bar;
  }));
  const time = (seconds) => seconds === null ? "–" : duration(seconds * 1e6);
  const row = (phase, of) => el("tr", { class: WORSE.has(phase.change) ? "worse" : "" }, el("th", { scope: "row" }, of ? el("em", { text: of }) : bdi(phase.name, 80)),
    el("td", { class: "number" }, phase.before_result ? el("span", { class: `badge r-${resultClass(phase.before_result)}`, title: line(phase.before_result, 30) }) : "", time(phase.before_s)),
    el("td", { class: "number" }, phase.after_result ? el("span", { class: `badge r-${resultClass(phase.after_result)}`, title: line(phase.after_result, 30) }) : "", time(phase.after_s)),
    el("td", { class: "number wide", text: phase.ratio === null ? "" : `×${phase.ratio.toFixed(2)}` }), el("td", { text: line(phase.change.replaceAll("_", " "), 30) }), el("td", { class: "wide chart" }, of ? "" : bars(phase)));
  const body = el("tbody", {}, ...found.phases.map((phase) => row(phase, "")), row(found.run, "whole run"));
  main.replaceChildren(back, el("h1", { text: "Compare two runs" }),
    el("form", { class: "filters runs" }, choice("a", "Before", before.run_id, options(before), (value) => go({ a: value, b })), choice("b", "After", after.run_id, options(after), (value) => go({ a, b: value })),
      el("button", { type: "button", text: "Swap", on: { click: () => go({ a: b, b: a }) } })),
    el("div", { class: "cards sides" }, side(before, "Before"), side(after, "After")),
    before.workflow === after.workflow ? "" : el("p", { class: "soft", text: "These are runs of different workflows; phases are matched by their names." }),
    el("section", { "aria-label": "Phases" }, el("table", {}, heads([["Phase"], ["Before", "number"], ["After", "number"], ["Ratio", "number wide"], ["Change"], ["Durations, before above after", "wide"]]), body)));
  stage.show({});
};
