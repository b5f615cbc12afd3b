// Figures, times and elements: how anything is written on the page. Text only ever enters as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false,
});

const year = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false,
});

export const BACKLOG_BOUND = 1000001;
export const DEAD_BOUND = 10001;

/** A count; `bound` is where counting stopped. */
export function count(n, bound = Infinity) {
  if (n == null) return "–";
  return n >= bound ? `${whole.format(bound - 1)}+` : whole.format(n);
}

export function compact(n) {
  return n < 10000 ? (n < 10 ? one : whole).format(n) : short.format(n);
}

/** A rate: one digit after the point while it is small. */
export function rate(n) {
  return n == null ? "–" : (n < 100 ? one : whole).format(n);
}

/** Seconds, as one or two units. 60 is where the histogram ends. */
export function latency(s) {
  if (s == null) return "–";
  if (s >= 60) return "60 s or more";
  if (s >= 1) return `${(s < 10 ? s.toFixed(2) : s.toFixed(1)).replace(/\.?0+$/, "")} s`;
  const ms = s * 1000;
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}

/** How fast, in a sentence: what is in the last part of the histogram was not within anything that it knows. */
export function within(s) {
  return s >= 60 ? `p95: it was ${latency(s)}` : `95 % within ${latency(s)}`;
}

/** How long something lasts, in words. */
export function lasting(s) {
  if (s == null) return "–";
  if (s < 1) return s < 0.05 ? "0 s" : `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** Unix seconds to a time of day, with the day when it was not today, and the year when that is another one. */
export function at(seconds, { seconds: withSeconds = true } = {}) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  if (today) return (withSeconds ? clock : minute).format(date);
  return (date.getFullYear() === new Date().getFullYear() ? day : year).format(date);
}

/** How long ago, or how soon, in words. */
export function ago(seconds) {
  if (Math.abs(seconds) < 1) return "now";
  const words = lasting(Math.abs(seconds));
  return seconds > 0 ? `${words} ago` : `in ${words}`;
}

/** A <time>: the moment, then how long ago; `tellTimes` keeps the latter true. `value`: Unix seconds or ISO 8601. */
export function when(value, { short: brief = false } = {}) {
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  if (value == null || Number.isNaN(date.getTime())) return el("span", {}, "–");
  const node = el("time", { datetime: date.toISOString(), title: `${date.toISOString()} (UTC)`, "data-brief": brief });
  tell(node);
  return node;
}

function tell(node) {
  const moment = new Date(node.dateTime).getTime() / 1000;
  const words = ago(Date.now() / 1000 - moment);
  write(node, "brief" in node.dataset ? words : `${at(moment)} · ${words}`);
}

/** Write the relative times on the page anew. */
export function tellTimes() {
  for (const node of document.querySelectorAll("time[datetime]")) tell(node);
}

export function plural(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** How many keys there are to read: shards where all are of one stream, else streams. */
export function keys(streams) {
  const of = new Set(streams.map((one) => one.name.replace(/:\{\d+\}$/, "")));
  return `${streams.length} ${of.size === 1 ? "shards" : "streams"}`;
}

/** Short texts in a row: a line ends between two of them, not within one. */
export function pieces(...texts) {
  return texts.map((text) => text.replaceAll(" ", "\u00a0")).join(", ");
}

export function byId(id) {
  return document.getElementById(id);
}

/** An element. A property that is a function is a listener; children are nodes or text. */
export function el(tag, properties = {}, ...children) {
  return dress(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function dress(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** Set a text only when it changed, so that a selection and a screen reader are left in peace. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const shown = new WeakMap();

/** Replace the children only when what they are made of changed. */
export function refill(node, from, make) {
  const key = JSON.stringify(from);
  if (shown.get(node) === key) return;
  shown.set(node, key);
  node.replaceChildren(...[make()].flat());
}

/** The time zone of the times on the page, such as Europe/Berlin (UTC+2). */
export function zone() {
  const minutes = -new Date().getTimezoneOffset();
  const clock = `${Math.floor(Math.abs(minutes) / 60)}${minutes % 60 ? `:${String(Math.abs(minutes) % 60).padStart(2, "0")}` : ""}`;
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const from_utc = minutes ? `UTC${minutes < 0 ? "−" : "+"}${clock}` : "UTC";
  return name && name !== "UTC" ? `${name} (${from_utc})` : from_utc;
}
