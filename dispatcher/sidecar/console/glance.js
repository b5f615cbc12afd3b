// The first glance: is it fine, and if not what, since when, and what to do. Then the figures and the parts.

import { BACKLOG_BOUND, DEAD_BOUND, at, byId, count, el, lasting, latency, pieces, plural, rate, refill, when, write } from "./words.js";

const WORDS = { fine: "Fine", note: "Fine", warn: "Attention", bad: "Trouble" };
const PARTS = {
  database: ["Postgres", "connected", "away"],
  redis: ["Redis (breaker)", "takes entries (closed)", "takes none (open)"],
  listener: ["Doorbell", "writers wake it", "works on its tick"],
  backpressure: ["Backpressure", "off", "on: waits for a group"],
  audit: ["Watch for losses in Redis", "on", "off"],
  paused: ["Pause", "not paused", "paused"],
  layout: ["Layout of the streams", "as in Postgres", "differs"],
  disabled: ["Enabled", "yes", "no: takes no event"],
};
let said = "";

export function glance(seen) {
  const findings = seen.findings.filter((finding) => finding.level !== "note");
  const notes = seen.findings.filter((finding) => finding.level === "note");
  const first = findings[0];
  const section = byId("glance");
  section.dataset.level = first ? first.level : "fine";
  write(byId("headline"), first ? first.what : "All is well");
  write(byId("when"), first ? since(first.since, seen.now) : calm(seen));
  write(byId("todo"), first ? first.do : "");
  byId("todo").hidden = !first;
  const others = [...findings.slice(1), ...notes];
  refill(byId("others"), others.map((finding) => finding.kind), () => others.map((finding) => el("li", { "data-level": finding.level },
    el("details", {}, el("summary", {}, el("span", {}), el("span", { class: "muted" })), el("p", {})))));
  for (const [i, item] of [...byId("others").children].entries()) { // written into, or an open one would close
    const [what, lasts] = item.querySelectorAll("summary span");
    write(what, others[i].what);
    write(lasts, others[i].since ? ` · ${since(others[i].since, seen.now)}` : "");
    write(item.querySelector("p"), others[i].do);
  }
  const tab = first ? `${first.level === "bad" ? "✕" : "!"} ${first.what}` : "✓ Dispatcher";
  if (document.title !== tab) document.title = tab;
  const words = `${WORDS[seen.level]}. ${first ? first.what : "All is well"}`;
  if (words !== said) write(byId("say"), said = words); // said once, not at every look
  tiles(seen);
  parts(seen);
  groups(seen);
  alive(seen);
}

function since(moment, now) {
  return moment ? `since ${at(moment)}, for ${lasting(Math.max(0, now - moment))}` : "in the last minute";
}

function calm(seen) {
  const { p95, count: events } = seen.latency;
  const speed = p95 == null ? "No event in the last minute" : `${plural(events, "event")} in the last minute, 95 % within ${latency(p95)}`;
  return `${speed}. ${seen.backlog ? `${count(seen.backlog, BACKLOG_BOUND)} on their way.` : "Nothing waits."}`;
}

function tiles(seen) {
  const { latency: speed, stream, totals } = seen;
  write(byId("tile-events"), rate(seen.events_per_s));
  write(byId("tile-events-more"), `${count(totals.published)} since ${at(seen.started_at, { seconds: false })}`);
  write(byId("tile-latency"), latency(speed.p95));
  write(byId("tile-latency-more"), speed.p95 == null ? `no event in a minute; promised: ${speed.sla_s} s`
    : pieces(`p50 ${latency(speed.p50)}`, `p99 ${latency(speed.p99)}`, `promised ${speed.sla_s} s`));
  tone("tile-latency", speed.p95 != null && speed.p95 > speed.sla_s ? "bad" : "");
  write(byId("tile-backlog"), count(seen.backlog, BACKLOG_BOUND));
  write(byId("tile-backlog-more"), seen.backlog == null ? "not known yet"
    : pieces(seen.backlog ? `oldest ${lasting(seen.oldest_age_s)} overdue` : "nothing waits", ...stale(seen)));
  tone("tile-backlog", seen.findings.some((finding) => finding.kind === "late") ? "warn" : "");
  write(byId("tile-dead"), count(seen.dead, DEAD_BOUND));
  write(byId("tile-dead-more"), totals.dead ? `${count(totals.dead)} given up since ${at(seen.started_at, { seconds: false })}`
    : `none new since ${at(seen.started_at, { seconds: false })}`);
  tone("tile-dead", seen.findings.some((finding) => finding.kind === "buried") ? "bad" : "");
  write(byId("stream"), stream.length == null ? `${stream.name}: length not known`
    : `${stream.name}: ${count(stream.length)} of about ${count(stream.maxlen)} entries`);
  const [name, ...more] = seen.names;
  write(byId("name"), more.length ? `${seen.names.length} processes` : name ?? "");
  write(byId("version"), `Dispatcher ${seen.version}, up for ${lasting(seen.now - seen.started_at)}`);
}

/** When the backlog was counted, once that is long ago for a figure of now. */
function stale(seen) {
  const age = seen.now - seen.sampled_at;
  return age < 10 ? [] : [`counted ${lasting(age)} ago`];
}

function tone(id, name) {
  byId(id).dataset.level = name;
}

function parts(seen) {
  refill(byId("parts"), [seen.states, Math.floor(seen.now / 10)], () => seen.states.map((state) => {
    const [name, good, bad] = PARTS[state.kind];
    const more = state.ok ? null : el("span", { class: "muted" }, [state.reason, since(state.since, seen.now)].filter(Boolean).join(" · "));
    return el("li", { "data-ok": String(state.ok) }, el("span", { class: "dot", "aria-hidden": "true" }),
      el("span", { class: "name" }, name), el("span", { class: "value" }, state.ok ? good : bad), more);
  }));
}

function groups(seen) {
  const { groups: found, length, maxlen } = seen.stream;
  const none = length == null ? "Not known: Redis does not say." : "No group reads this stream.";
  refill(byId("groups"), [found, maxlen, none], () => (found.length ? found.map((group) => {
    const share = Math.min(1, group.lag / maxlen);
    return el("li", { "data-level": share >= 0.8 ? "bad" : share >= 0.5 ? "warn" : "" },
      el("span", { class: "name" }, group.name), el("span", { class: "value" }, `${count(group.lag)} unread`),
      el("meter", { min: 0, max: 1, high: 0.5, optimum: 0, value: share, "aria-label": `${group.name}: share of what the stream keeps that is unread` }));
  }) : el("li", { class: "muted" }, none)));
}

function alive(seen) {
  const found = seen.dispatchers;
  if (found === null) {
    refill(byId("alive"), [seen.names], () => el("li", { class: "muted" }, "Not known yet: Postgres has not answered."));
    return;
  }
  refill(byId("alive"), [found, seen.names, Math.floor(seen.now / 30)], () => (found.length ? found.map((one) =>
    el("li", {}, el("span", { class: "name" }, one.name, seen.names.includes(one.name) ? el("b", { class: "you" }, "this one") : null),
      el("span", { class: "muted" }, [one.version, `up ${lasting(Math.max(0, seen.now - one.started_at))}`].filter(Boolean).join(" · "))))
    : el("li", { class: "muted" }, "None is enrolled: disabled, starting, or behind a transaction pooler.")));
}
