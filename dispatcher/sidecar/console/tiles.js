// The four figures of now. Each takes the colour of its threshold, whatever explains it.

import { BACKLOG_BOUND, DEAD_BOUND, at, byId, count, lasting, latency, pieces, plural, rate, write } from "./words.js";

export function tiles(seen) {
  const { latency: speed, totals } = seen;
  const start = at(seen.started_at, { seconds: false });
  const waits = seen.backlog ? seen.overdue_s + Math.max(0, seen.now - seen.sampled_at) : 0; // the oldest, if it is still there
  tile("events", rate(seen.events_per_s), seen.silent_s == null ? `${count(totals.published)}${others(seen) ? " by this dispatcher" : ""} since ${start}${seen.others_per_s == null ? "; the rate is of it alone" : ""}`
    : seen.ever_sent ? `nothing sent for ${lasting(seen.silent_s)}` : `nothing sent since this dispatcher started, ${lasting(seen.silent_s)} ago`, seen);
  write(byId("tile-latency-label"), `Latency, p95${seen.silent_s != null ? "" : ` of ${speed.now != null ? `the last ${Math.round(speed.now_s)} s` : "the last minute"}`}`);
  tile("latency", seen.silent_s == null ? latency(speed.now ?? speed.p95) : waits ? `> ${lasting(waits)}` : "–", late(speed, seen, waits), seen);
  const away = seen.states.some((state) => state.kind === "database" && !state.ok);
  tile("backlog", away ? "?" : count(seen.backlog, BACKLOG_BOUND), backlog(seen, away), seen);
  tile("dead", away ? "?" : count(seen.dead, DEAD_BOUND), dead(seen, start, away), seen);
}

/** Whether other dispatchers run: what is counted here is of this one alone. */
export function others(seen) {
  return (seen.dispatchers ?? []).some((one) => !seen.names.includes(one.name));
}

function tile(name, figure, more, seen) {
  write(byId(`tile-${name}`), figure);
  write(byId(`tile-${name}-more`), more);
  byId(`tile-${name}`).closest(".tile").dataset.level = seen.levels[name];
}

function late(speed, seen, waits) {
  if (seen.silent_s != null) return waits ? "the oldest waits for so long already" : "nothing arrives";
  if (speed.now != null && speed.now <= speed.sla_s && speed.p95 > speed.sla_s) return `over: in the last minute it was ${latency(speed.p95)}`;
  if (speed.now == null && speed.p95 > speed.sla_s && seen.findings.some((finding) => finding.kind === "over" || finding.kind === "catching-up")) return "of what waited for the end of an outage or a pause";
  if (speed.p95 == null) return `no event by this dispatcher in a minute; promised: ${speed.sla_s} s`;
  return `in a minute: ${pieces(`p50 ${latency(speed.p50)}`, `p99 ${latency(speed.p99)}`, `promised ${speed.sla_s} s`)}`;
}

/** While Postgres is away nobody can know: the figure of before would look like one of now. */
function backlog(seen, away) {
  if (seen.backlog == null) return "not known yet";
  if (away) return `${count(seen.backlog, BACKLOG_BOUND)} when last counted, ${lasting(seen.now - seen.sampled_at)} ago`;
  const { held_head: head } = seen;
  const waits = !(seen.overdue_s > 0) && head?.waiting ? `${count(head.waiting)} ${head.waiting === 1 ? "waits" : "wait"} behind event ${head.id}, oldest ${lasting(head.oldest_s)}`
    : seen.overdue_s > 0 ? `oldest ${lasting(seen.overdue_s)} overdue` : "none is overdue";
  return pieces(seen.backlog ? waits : "nothing waits", ...stale(seen));
}

/** One figure counts events that wait for a decision, the other deaths: an event that is retried and dies again has two. */
function dead(seen, start, away) {
  const { dead: left, totals } = seen;
  if (left == null) return "not known yet";
  if (away) return `${count(left, DEAD_BOUND)} when last counted, ${lasting(seen.now - seen.sampled_at)} ago`;
  if (!left && !totals.dead) return "none waits for a decision";
  return totals.dead > left ? `${plural(totals.dead, "death")} since ${start}; one that was retried and died again has two` : newest(seen);
}

/** Of all dispatchers: what died at another one is news too. */
function newest({ newest_dead_at: died }) {
  return died == null ? "it is not known when they died" : `the latest died at ${at(died)}`;
}

/** When the backlog was counted, once that is long ago for a figure of now. */
function stale(seen) {
  const age = seen.now - seen.sampled_at;
  return age < 10 ? [] : [`counted ${lasting(age)} ago`];
}
