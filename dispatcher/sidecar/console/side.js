// What stands below the charts: the parts, the event types, the groups, the dispatchers.

import { switchPause } from "./act.js";
import { since } from "./glance.js";
import { to } from "./route.js";
import { at, byId, count, el, keys, lasting, latency, plural, rate, refill, write } from "./words.js";

const OLD_S = 15; // every five seconds Postgres and Redis are looked at
const PARTS = { // name, how it is when all is well, how it is when not
  database: ["Postgres", "connected", "away"],
  redis: ["Redis", "takes entries", "takes none"],
  listener: ["Doorbell", "writers wake it", "works on its tick"],
  backpressure: ["Backpressure", "off", "on: waits for a group"],
  audit: ["Losses in Redis", "would be noticed", "would go unnoticed"],
  layout: ["Layout of the streams", "as in Postgres", "differs"],
  slots: ["Slots of the order", "none lacks an owner", "some have no owner"],
  paused: ["Pause", "not paused", "paused"],
  handlers: ["Handlers", "have free places", "too many are stuck"],
  "notify-queue": ["Notification queue", "empty", "fills up"],
  refused: ["Rights in Postgres", "suffice", "something is refused"],
  disabled: ["Enabled", "yes", "no: takes no event"],
};

export function side(seen) {
  parts(seen);
  types(seen);
  groups(seen);
  alive(seen);
}

/** Those that are well share a line; one that is not has a line of its own. */
function parts(seen) {
  refill(byId("parts"), [seen.states, seen.lost_at, Math.floor(seen.now / 10)], () => seen.states
    .toSorted((a, b) => Number(a.ok) - Number(b.ok)).map((state) => {
      const [name, good, bad] = PARTS[state.kind];
      const more = state.ok ? null : el("span", { class: "muted" }, [state.reason, since(state.since, seen.now)].filter(Boolean).join(" · "));
      return el("li", { "data-ok": String(state.ok), "data-known": String(state.known), "data-level": state.ok ? null : state.level }, el("span", { class: "dot", "aria-hidden": "true" }),
        el("span", { class: "name" }, name), el("span", { class: "value" }, state.ok ? state.known ? noticed(state, seen) ?? good : "not known while Postgres is away" : bad), more);
    }));
  const paused = seen.states.some((state) => state.kind === "paused" && !state.ok);
  const button = byId("pause");
  write(button, paused ? "Resume …" : "Pause all …");
  button.onclick = async () => {
    const words = await switchPause(!paused, seen);
    if (words) write(byId("did"), words);
  };
}

/** Of a loss in the last day the time: that one would be noticed is no news then. */
function noticed({ kind }, { lost_at: lost }) {
  return kind === "audit" && lost ? `one was noticed at ${at(lost)}` : null;
}

function types(seen) {
  const found = seen.types ?? [];
  byId("types-card").hidden = !found.length;
  const most = Math.max(...found.map((type) => type.events_per_s), 0.001);
  refill(byId("types"), [found, seen.more_types, seen.latency.sla_s], () => [...found.map((type) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: to("events", { event_type: type.name }) }, type.name),
      el("meter", { min: 0, max: most, value: type.events_per_s, "aria-hidden": "true" })),
    el("td", { class: "n" }, rate(type.events_per_s)),
    el("td", { class: "n" }, latency(type.p50)),
    el("td", { class: "n", "data-level": type.p95 > seen.latency.sla_s ? "bad" : null }, latency(type.p95)))), seen.more_types ? el("tr", {}, el("td", { class: "muted", colspan: 4 }, `and ${plural(seen.more_types, "more type")} with fewer events`)) : ""]);
}

/** When the figures of Postgres and Redis were looked at, if that is not now. */
function asOf(seen) {
  const away = seen.states.some((state) => state.kind === "database" && !state.ok);
  return seen.sampled_at && (away || seen.now - seen.sampled_at > OLD_S) ? `as of ${at(seen.sampled_at)}` : "";
}

/** Also what lies in keys that the group is not on: no lag counts that. */
function unread({ lag, not_read: left }) {
  if (lag == null) return "lag not known";
  return left ? `${count(lag + left)} unread, ${count(left)} of them in keys that it does not read` : `${count(lag)} unread`;
}

export function groupRow(group, maxlen, holds) {
  const share = maxlen && group.lag != null ? Math.min(1, group.lag / maxlen) : 0;
  const read = group.last_read_age_s;
  return el("li", { "data-level": group.exempt ? "" : share >= 0.8 ? "bad" : share >= 0.5 ? "warn" : "" },
    el("span", { class: "name" }, group.name), el("span", { class: "value" }, unread(group)),
    el("meter", { min: 0, max: 1, high: group.exempt ? 1 : 0.5, optimum: 0, value: share, "aria-label": `${group.name}: share of what the stream keeps that is unread` }),
    holds ? el("strong", {}, `holds publishing back since ${at(holds.since)}`) : null,
    read == null ? null : el("span", { class: "muted" }, `last read ${lasting(read)} ago`));
}

function groups(seen) {
  const { groups: found, length, maxlen, name } = seen.stream;
  const each = seen.streams ?? [];
  const old = asOf(seen);
  const held = seen.states.find((state) => state.kind === "backpressure" && !state.ok);
  const holds = (group) => (held?.reason === group.name ? held : null);
  write(byId("stream"), (length == null ? `${name}: length not known`
    : each.length > 1 ? `${keys(each)}, ${count(length)} entries in all; of each group the one with the most unread`
      : `${name}: ${count(length)} of about ${count(maxlen)} entries`) + (old ? `, ${old}` : ""));
  byId("each-stream").hidden = each.length < 2;
  refill(byId("streams"), [each, maxlen], () => each.map((one) => {
    const slowest = one.groups.reduce((most, group) => (most && most.lag >= group.lag ? most : group), null);
    const share = slowest ? slowest.lag / maxlen : 0;
    return el("tr", {}, el("th", { scope: "row" }, one.name), el("td", { class: "n" }, count(one.length)),
      el("td", { class: "n", "data-level": share >= 0.8 ? "bad" : null }, slowest ? `${count(slowest.lag)} (${slowest.name})` : "no group"));
  }));
  const none = length == null ? "Not known: Redis does not say." : "No group reads this stream.";
  refill(byId("groups"), [found, maxlen, none, held], () => (found.length ? found.map((group) => groupRow(group, maxlen, holds(group))) : el("li", { class: "muted" }, none)));
}

function alive(seen) {
  const found = seen.dispatchers;
  const old = asOf(seen);
  byId("alive-when").hidden = !old;
  write(byId("alive-when"), old && `${old}, when Postgres last answered`);
  if (found === null) {
    refill(byId("alive"), [seen.names], () => el("li", { class: "muted" }, "Not known yet: Postgres has not answered."));
    return;
  }
  refill(byId("alive"), [found, seen.names, Math.floor(seen.now / 30)], () => (found.length ? found.map((one) =>
    el("li", {}, el("span", { class: "name" }, one.name, seen.names.includes(one.name) ? el("b", { class: "you" }, "this one") : null),
      el("span", { class: "muted" }, [one.version, `up ${lasting(Math.max(0, seen.now - one.started_at))}`].filter(Boolean).join(" · "))))
    : el("li", { class: "muted" }, "None is enrolled: disabled, starting, or behind a transaction pooler.")));
}
