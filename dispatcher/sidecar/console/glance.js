// The first glance: is it fine, and if not who must act, on what, since when, and how. Then what else there is.

import { switchPause } from "./act.js";
import { route, to } from "./route.js";
import { others } from "./tiles.js";
import { BACKLOG_BOUND, at, byId, count, el, lasting, plural, rate, refill, within, write } from "./words.js";

const WORDS = { fine: "Fine", note: "Fine", warn: "Attention", bad: "Trouble" };
const NEEDS = { now: "Needs somebody now.", "by morning": "Needs somebody by morning.", no: "Needs nobody." };
const LINKS = {
  dead: ["dead", {}, "Look at the dead letters"],
  groups: ["groups", {}, "Look at the consumer groups"],
  held: ["held", {}, "Look at the held aggregates"],
  events: ["events", {}, "Look at the events that wait"],
  retry: ["events", { status: "retry" }, "Look at the events that are tried again"],
};
let said = "";
let latest = null; // the last answer

export function glance(seen) {
  latest = seen;
  const findings = [...seen.findings.filter((finding) => finding.level !== "note"),
    ...seen.findings.filter((finding) => finding.level === "note")];
  const first = findings[0]?.level === "note" ? null : findings[0] ?? null;
  const others = first ? findings.slice(1) : findings.filter((finding) => finding.kind !== "over"); // that one is said above
  byId("glance").dataset.level = first ? first.level : "fine";
  write(byId("headline"), first ? first.what : "All is well");
  write(byId("needs"), first ? NEEDS[first.needs_somebody] : "");
  write(byId("when"), first ? whenOf(first, seen) : calm(seen));
  coded(byId("todo"), first ? first.do : "");
  byId("todo").hidden = !first;
  refill(byId("steps"), first && [first.kind, first.link, first.page], () => (first ? steps(first) : []));
  refill(byId("others"), others.map((finding) => [finding.kind, finding.level, finding.link]), () => others.map((finding) => el("li", { "data-level": finding.level },
    el("details", {}, el("summary", {}, el("span", {}), el("span", { class: "muted" })), el("p", {}), el("div", { class: "steps" }, steps(finding))))));
  for (const [i, item] of [...byId("others").children].entries()) { // written into, or an open one would close
    const [what, lasts] = item.querySelectorAll("summary span");
    write(what, others[i].what);
    write(lasts, [others[i].level === "note" ? "" : NEEDS[others[i].needs_somebody], others[i].since ? whenOf(others[i], seen) : ""].filter(Boolean).map((part) => ` · ${part.replace(/\.$/, "")}`).join(""));
    coded(item.querySelector("p"), others[i].do);
  }
  const tab = first ? `${first.level === "bad" ? "✕" : "!"} ${first.what}` : "✓ Dispatcher";
  const named = seen.deployment ? `${tab} · ${seen.deployment}` : tab;
  if (document.title !== named) document.title = named;
  const words = `${WORDS[first ? first.level : "fine"]}. ${first ? first.what : "All is well"}`;
  if (words !== said) write(byId("say"), said = words); // said once, not at every look
}

/** A text with what stands between backticks as code. */
function coded(node, text) {
  refill(node, text, () => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part.split(" ").flatMap((word, n) => [n ? " " : null, el("span", {}, word)])) : part)));
}

/** What to press, and which page of the runbook to open. */
function steps(finding) {
  const [view, query, words] = LINKS[finding.link] ?? [];
  return [
    finding.kind === "paused" && el("button", { type: "button", class: "main", click: () => resume() }, "Resume …"),
    view && el("a", { class: "button", href: to(view, query) }, words),
    finding.page && runbook(finding.page),
  ].filter(Boolean);
}

/** A page of the runbook: a link, once an answer said where the runbook is read. */
export function runbook(page) {
  const name = el("code", {}, `docs/runbook/${page}.md`);
  return el("span", { class: "muted" }, "Runbook: ", latest ? el("a", { href: `${latest.runbook}${page}.md`, target: "_blank", rel: "noopener noreferrer" }, name) : name);
}

async function resume() {
  const words = await switchPause(false, latest);
  if (words) write(byId("did"), words);
}

/** On the other views one line is enough, and none when all is well. */
export function shorten() {
  const now = route().name === "now";
  byId("glance").classList.toggle("slim", !now);
}

/** Of dead events when the first and the latest died: there may be long between them. */
function whenOf({ kind, level, since: moment }, { now, dead_groups: groups }) {
  if (!moment || level === "note" || !["dead", "buried"].includes(kind)) return since(moment, now);
  if (groups && groups.since >= moment - 1) return since(groups.since, now);
  const first = groups ? `since ${at(groups.since)}, when the first died; ` : "";
  return `${first}the latest died at ${at(moment)}, ${lasting(Math.max(0, now - moment))} ago`;
}

export function since(moment, now) {
  return moment ? `since ${at(moment)}, for ${lasting(Math.max(0, now - moment))}` : "";
}

function calm(seen) {
  const { p95, now, sla_s: sla, count: events } = seen.latency;
  const ours = others(seen) ? " by this dispatcher" : "";
  const over = now != null && now <= sla && p95 > sla;
  const speed = over ? `In the last ${Math.round(seen.latency.now_s)} s ${within(now)}; in the last minute ${within(p95)}`
    : p95 == null ? `No event${ours} in the last minute` : `${plural(events, "event")}${ours} in the last minute, ${within(p95)}`;
  const theirs = !others(seen) ? "" : seen.others_per_s == null ? " What others send is not known yet." : ` Others send ${rate(seen.others_per_s)} a second.`;
  const past = seen.findings.find((finding) => finding.kind === "over");
  if (past) return `${past.what}. ${past.do} ${seen.backlog ? `${count(seen.backlog, BACKLOG_BOUND)} on their way.` : "Nothing waits."}`;
  return `${speed}.${theirs} ${seen.backlog ? `${count(seen.backlog, BACKLOG_BOUND)} on their way.` : "Nothing waits."}`;
}
