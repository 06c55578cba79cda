// Traces of other programs: the list, and one of them.
import { ago, badge, bdi, counted, duration, el, iso, say, when } from "./text.js";
import { asQuery, choice, get, heads, main, missing, named, typed } from "./page.js";
import { KEYS, Waterfall } from "./waterfall.js";

const SINCE = [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]];
const NONE = "No trace of another program yet. Any OpenTelemetry SDK can send here: OTEL_EXPORTER_OTLP_ENDPOINT is the address of this page.";

export const showTraces = async (query, stage) => {
  const filters = { service: query.get("service") || "", since: query.get("since") || "", q: query.get("q") || "" };
  let limit = Math.min(Number(query.get("limit")) || 100, 1000), asked = 0, drawn = 0;
  const here = () => { const next = String(asQuery(filters)); return `#/traces${next ? `?${next}` : ""}`; };
  const set = (name) => (value) => { filters[name] = value; history[name === "q" ? "replaceState" : "pushState"](null, "", here()); load(true).catch(stage.failed); };
  const service = choice("service", "Service", filters.service, [["", "all"]], set("service"));
  const search = typed("Name or trace id", filters.q, set("q"));
  const list = el("section", { "aria-label": "Traces" });
  main.replaceChildren(el("h1", { text: "Traces of other programs" }), el("form", { class: "filters", role: "search", on: { submit: (event) => { event.preventDefault(); set("q")(search.querySelector("input").value); } } },
    service, choice("since", "Started", filters.since, SINCE, set("since")), search), list);
  const load = async (told = false) => {
    const mine = asked += 1;
    const found = await get(`/view/traces?${asQuery({ ...filters, limit })}`);
    if (!stage.isCurrent() || mine < drawn) return; // an answer that was overtaken by a later one
    drawn = mine;
    service.fill([["", "all"], ...named(found.services)], filters.service);
    const body = el("tbody", {}, ...found.traces.map((trace) => el("tr", {}, el("td", {}, badge(trace.result)), el("td", {}, bdi(trace.service, 80)), el("td", {}, el("a", { href: `#/trace/${trace.trace_id}` }, bdi(trace.name || "(no name)", 100))),
      el("td", { class: "when" }, ago(iso(trace.started_at))), el("td", { class: "number", text: duration(trace.duration_s * 1e6) }), el("td", { class: "wide mono", text: trace.trace_id }))));
    const table = el("table", {}, heads([["Result"], ["Service"], ["Name"], ["Started"], ["Took", "number"], ["Trace", "wide"]]), body);
    const parts = [found.traces.length ? table : el("p", { class: "empty", text: Object.values(filters).some(Boolean) ? "No trace matches." : NONE })];
    if (found.more && limit < 1000) parts.push(el("p", {}, el("button", { type: "button", text: "Show more", on: { click: () => { limit = Math.min(1000, limit * 3); load(true).catch(stage.failed); } } })));
    list.replaceChildren(...parts);
    if (told) say(counted(found.traces.length, "row"));
  };
  stage.show({ find: () => search.querySelector("input").focus() });
  await load();
};

export const showTrace = async (traceId, stage) => {
  const back = el("p", {}, el("a", { href: "#/traces", text: "← Traces" }));
  let found;
  try { found = await get(`/view/traces/${encodeURIComponent(traceId)}`); } catch (error) {
    if (error.status !== 404 && error.status !== 400) throw error;
    if (stage.isCurrent()) main.replaceChildren(back, el("h1", {}, bdi(traceId, 40)), el("p", { class: "empty", text: "This trace is not stored." }));
    return;
  }
  if (!stage.isCurrent()) return;
  const one = (row) => get(`/view/traces/${found.trace_id}/spans/${row.id}`).catch(() => null);
  const fall = new Waterfall({ rows: found.rows, startUs: found.start_us, lengthUs: found.length_us, detail: one, label: "Spans of the trace", services: true });
  stage.show({ keys: KEYS, find: () => fall.search.focus(), close: () => fall.close() });
  const facts = el("dl", { class: "facts" });
  for (const [name, value] of [["trace", found.trace_id], ["services", found.services.join(", ")], ["started", when(found.start_us)], ["took", duration(found.length_us)], ["spans", String(found.rows.length)]]) {
    facts.append(el("div", {}, el("dt", { text: name }), el("dd", {}, bdi(value, 300))));
  }
  if (found.jaeger) facts.append(el("div", {}, el("dt", { text: "" }), el("dd", {}, el("a", { href: found.jaeger, rel: "noreferrer", target: "_blank", text: "in Jaeger" }))));
  main.replaceChildren(back, el("h1", {}, bdi(found.rows[0].name, 200), " ", badge(found.rows[0].result)), facts, missing(found), fall.node);
  fall.axis();
  fall.draw();
  fall.view.focus({ preventScroll: true });
};
