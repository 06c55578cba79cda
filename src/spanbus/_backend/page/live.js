// The live stream: a model of the runs that are going on, kept up to date over one WebSocket (docs/live.md, version 1).

const SPANS = 20000;
const EVENTS = 200;

export class Live {
  constructor({ changed, ended, link, closed }) {
    this.runs = new Map();
    this.tell = { changed, ended, link, closed };
    this.epoch = "";
    this.lastId = 0;
    this.wait = 250;
    this.skew = 0;
    this.dirty = new Set();
    this.missed = 0;
  }

  // Until when the open spans of a run are known to have been open.
  untilUs(run) { return run.state === "killed" ? run.killedAtUs : this.nowUs(); }

  nowUs() { return Date.now() * 1000 + this.skew; }

  connect() {
    const resume = this.epoch ? `?after=${this.lastId}&epoch=${this.epoch}` : "";
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live${resume}`);
    socket.onmessage = (frame) => { this.wait = 250; this.frame(JSON.parse(frame.data)); };
    socket.onclose = () => {
      this.tell.link("not connected, trying again");
      this.tell.closed();
      setTimeout(() => this.connect(), this.wait + Math.random() * this.wait);
      this.wait = Math.min(this.wait * 2, 8000);
    };
  }

  frame(frame) {
    if (frame.v !== 1) { this.tell.link("reload: the backend is another version"); return; }
    if (frame.type === "hello") {
      this.epoch = frame.epoch;
      this.lastId = frame.last_id;
      if (!frame.resumed) this.replace(frame.runs);
      this.tell.link("live");
    } else if (frame.type === "missed") {
      this.missed += frame.count;
      this.lastId = frame.next_id - 1;
      this.replace(frame.runs);
      this.tell.link(`live, ${this.missed === 1 ? "1 message" : `${this.missed} messages`} missed`);
    } else if (frame.type === "messages") {
      for (const message of frame.messages) { this.lastId = message.id; this.message(message); }
    }
    this.later();
  }

  replace(runs) {
    const known = new Set(runs.map((run) => run.run_id));
    for (const run of this.runs.values()) if (!known.has(run.run_id) && run.state !== "ended") { run.state = "ended"; this.tell.ended(run.run_id); }
    for (const each of runs) {
      const run = this.run(each.run_id);
      run.state = each.state;
      if (each.state === "killed") run.killedAtUs ??= this.nowUs();
      for (const span of [each.span, ...each.closed, ...each.open]) if (span) this.span(run, span);
      this.dirty.add(run.run_id);
    }
  }

  run(runId) {
    if (!this.runs.has(runId)) {
      if (this.runs.size > 300) for (const [id, run] of this.runs) if (run.state === "ended") { this.runs.delete(id); break; }
      this.runs.set(runId, { run_id: runId, workflow: "", project: "", plan: null, state: "running", spans: new Map(), events: new Map() });
    }
    return this.runs.get(runId);
  }

  span(run, span) {
    const known = run.spans.get(span.span_id);
    if (known?.result && !span.result) return; // told twice, the start after the end
    if (known || run.spans.size < SPANS) run.spans.set(span.span_id, span);
    if (span.workflow) run.workflow = span.workflow;
    if (span.project) run.project = span.project;
    if (Array.isArray(span.plan)) run.plan = span.plan.filter((each) => typeof each?.name === "string" && Array.isArray(each.needs));
  }

  message(message) {
    if (message.type === "forgotten") this.tell.link("live, more runs at once than are followed");
    if (!message.run_id) return;
    if (message.type === "event") {
      const run = this.runs.get(message.run_id);
      if (!run) return;
      const events = run.events.get(message.span_id) || [];
      if (events.length < EVENTS) events.push(message);
      run.events.set(message.span_id, events);
    } else if (message.type === "opened" || message.type === "closed") {
      const run = this.run(message.run_id);
      if (message.type === "opened" && message.level === "run" && run.state !== "running") { run.state = "running"; run.plan = null; run.spans.clear(); run.events.clear(); }
      this.span(run, message);
      if (message.type === "closed" && message.level === "run") { run.state = "ended"; this.tell.ended(message.run_id); }
    } else if (message.type === "run_state") {
      const run = this.run(message.run_id);
      run.state = message.state;
      if (message.state === "killed") run.killedAtUs = message.at_us;
      if (["ended", "killed"].includes(message.state)) this.tell.ended(message.run_id);
    } else return;
    this.dirty.add(message.run_id);
  }

  later() {
    if (this.asked || !this.dirty.size) return;
    this.asked = true;
    setTimeout(() => {
      this.asked = false;
      const all = [...this.dirty];
      this.dirty.clear();
      for (const runId of all) this.tell.changed(runId);
    }, 100);
  }
}
