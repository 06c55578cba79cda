// Everything that came from somebody else's program is put on the page as text, through these functions.

// Control characters, bidirectional overrides and other invisible characters are written out, so that no name can look like another one.
// Those of the tag block are among them, in which whole sentences can be written that nobody sees. So are variation selectors but for one behind
// an emoji, and marks that stack on one letter beyond what any language writes. The same set as _sanitize.py.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufe00-\ufe0d\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d159}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|[\t\n]|(?<![\u00a9\u00ae\u203c-\u3299\u{1f000}-\u{1faff}])[\ufe0e\ufe0f](?:(?<![0-9#*][\ufe0e\ufe0f])|(?!\u20e3))/gu;
const STACKED = /(\p{M}{4})(\p{M}+)/gu;

const spelled = (c) => {
  const code = c.codePointAt(0);
  return c === "\n" ? "\\n" : c === "\t" ? "\\t" : code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
};

const unstacked = (_, kept, rest) => kept + Array.from(rest, spelled).join("");

export const line = (value, limit = 300) => {
  const text = String(value ?? "").slice(0, limit * 2).replace(HIDDEN, spelled).replace(STACKED, unstacked);
  return text.length > limit ? text.slice(0, limit) + "…" : text.trim() === "" && text !== "" ? "(blank)" : text;
};

// Of several lines: line ends and tabs stay.
export const block = (value) => String(value ?? "").replace(/\r\n?/g, "\n").replace(HIDDEN, (c) => c === "\n" || c === "\t" ? c : spelled(c)).replace(STACKED, unstacked);

export const el = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
};

export const bdi = (value, limit) => el("bdi", { text: line(value, limit), title: String(value ?? "").length > 40 ? line(value, 1000) : undefined });

// As _runs/format.py writes it.
export const duration = (us) => {
  if (us === null || us === undefined || Number.isNaN(us)) return "–";
  const s = us / 1e6;
  if (s > 0 && s < 0.0009995) return `${Math.round(us)} µs`;
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.995) return `${s.toFixed(2)} s`;
  if (s < 59.95) return `${s.toFixed(1)} s`;
  const whole = Math.floor(s + 0.5), two = (number) => String(number).padStart(2, "0");
  const h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
  return h ? `${h} h ${two(m)} min` : `${m} min ${two(whole % 60)} s`;
};

const KNOWN = new Set(["success", "failure", "timeout", "cancellation", "skip", "error", "running", "stalled", "killed", "ended", "waiting"]);
export const resultClass = (result) => KNOWN.has(result) ? result : "unknown";
export const badge = (result) => el("span", { class: `badge r-${resultClass(result)}`, text: line(result || "unknown", 14) });

const SHORT = { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" };
const FULL = { dateStyle: "medium", timeStyle: "medium" };
export const when = (us) => us ? new Date(us / 1000).toLocaleString(undefined, globalThis.matchMedia?.("(max-width: 640px)").matches ? SHORT : FULL) : "–";
export const iso = (text) => Date.parse(text) * 1000;


// "5 min ago" with the exact time on hover; what is in the future, or long ago, is a date.
const relative = (us) => {
  const s = Date.now() / 1000 - us / 1e6;
  if (s < -5 || s > 14 * 86400) return new Date(us / 1000).toLocaleString(undefined, SHORT);
  if (s < 10) return "just now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return s < 172800 ? `${Math.floor(s / 3600)} h ago` : `${Math.floor(s / 86400)} days ago`;
};
export const ago = (us) => us ? el("time", { datetime: new Date(us / 1000).toISOString(), title: when(us), "data-us": us, text: relative(us) }) : "–";
export const age = () => { for (const node of document.querySelectorAll("time[data-us]")) { const text = relative(Number(node.dataset.us)); if (node.textContent !== text) node.textContent = text; } };

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

let silence = 0;
export const say = (text) => {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { place.textContent = ""; }, 4000);
};

export const copy = async (value) => {
  const text = JSON.stringify(value, null, 2);
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    const area = el("textarea", { "aria-label": "JSON" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    say(done ? "Copied" : "The browser did not allow copying");
  }
};
