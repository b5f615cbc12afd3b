// The dead letters, grouped by what they died of: on the first view the largest groups, on their own view all.

import { DISCARD, RETRY, act, withAll } from "./act.js";
import { ask } from "./ask.js";
import { go, route, to } from "./route.js";
import { DEAD_BOUND, at, byId, count, el, plural, when, write } from "./words.js";

const FEW = 3; // groups on the first view
const TOO_LARGE = /^(?:payload is|headers are) (\S+) bytes, DISPATCH_MAX_PAYLOAD_BYTES allows/;

/** How groups and lists name the error of a dead event that has none. */
export const NO_ERROR = "no error noted";

export class Dead {
  constructor() {
    this.known = undefined; // how many were dead, as the overview last said
    this.drawn = undefined; // how many the panel shows; with a filter: not all
    this.looked = undefined; // of which sample the panel was last compared with the tile
    this.retried = null; // what was put back last: { code, n, last_at }
    this.turn = 0; // the latest load: an answer to an earlier one is late
    this.working = false;
    byId("dead-filters").addEventListener("submit", (event) => {
      event.preventDefault();
      go("dead", { event_type: byId("dead-event-type").value.trim(), aggregate_type: byId("dead-aggregate-type").value.trim() });
    });
    byId("dead-reload").addEventListener("click", () => this.load());
  }

  /** Which place on the page they go to now. */
  get place() {
    return route().name === "dead" ? "dead" : "dead-card";
  }

  get filters() {
    const { event_type, aggregate_type } = route().name === "dead" ? route().query : {};
    return Object.fromEntries(Object.entries({ event_type, aggregate_type }).filter(([, value]) => value));
  }

  /**
   * How many are dead, as the overview says, and when that was counted. Load again when the panel shows another number,
   * once for each count, unless somebody is in the middle of something: as many may have died again as were put back.
   */
  tell(dead, counted, held) {
    this.holds = Boolean(held);
    const changed = dead !== this.known;
    const differs = this.drawn !== undefined && counted !== this.looked && Math.min(this.drawn, DEAD_BOUND) !== dead;
    this.known = dead;
    byId("dead-card").hidden = !dead;
    if (!(changed || differs) || this.working || document.querySelector("dialog[open]")) return;
    this.looked = counted;
    if (["now", "dead"].includes(route().name) && (dead || this.drawn || route().name === "dead")) this.load({ quiet: true });
  }

  show() {
    const { event_type = "", aggregate_type = "" } = this.filters;
    byId("dead-event-type").value = event_type;
    byId("dead-aggregate-type").value = aggregate_type;
    if (route().name === "dead" || this.known) this.load();
  }

  say(words) {
    write(byId(`${this.place}-say`), words);
  }

  async load({ quiet = false } = {}) {
    const turn = ++this.turn;
    const place = this.place;
    if (!quiet) this.say("");
    try {
      const stats = await ask(`api/dead-events/stats?${new URLSearchParams(this.filters)}`);
      if (turn !== this.turn || place !== this.place) return;
      this.suggest(stats.by_type ?? []);
      this.draw(stats);
      this.drawn = Object.keys(this.filters).length ? undefined : stats.total;
      this.again(stats.by_error ?? []);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn === this.turn && error.status !== 401) {
        byId(`${place}-body`).replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${error.message}.`));
      }
    }
  }

  /** Of those that were put back last: how many died again. */
  again(groups) {
    if (!this.retried || this.working) return;
    const { code, n, last_at } = this.retried;
    const group = groups.find((each) => (each.code ?? each.last_error) === code);
    if (!group || group.last_at <= last_at) return;
    const back = Math.min(group.count, n);
    this.say(`${count(back)} of these ${count(n)} died again, at ${at(Date.parse(group.last_at) / 1000)}, of the same error. Mend the cause first.`);
  }

  suggest(types) {
    for (const name of ["event_type", "aggregate_type"]) {
      const values = [...new Set(types.map((type) => type[name]))].sort();
      byId(`${name}s`).replaceChildren(...values.map((value) => el("option", { value })));
    }
  }

  draw(stats) {
    const all = this.place === "dead";
    const groups = stats.by_error ?? [];
    const body = byId(`${this.place}-body`);
    const narrowed = Object.keys(this.filters).length > 0;
    if (!stats.total) {
      body.replaceChildren(el("p", { class: "none" }, narrowed ? "None of the dead letters is like that." : "None: no event waits for a decision."));
      return;
    }
    const shown = all ? groups : groups.slice(0, FEW);
    const most = Math.max(...groups.map((group) => group.count));
    const rest = stats.total - shown.reduce((sum, group) => sum + group.count, 0);
    body.replaceChildren(
      el("p", { class: "muted" }, `${plural(stats.total, "event")} ${stats.total === 1 ? "waits" : "wait"} for a decision, by what they died of.`),
      el("ul", { class: "groups" }, shown.map((group) => this.row(group, most))),
      ...(this.holds ? [el("p", { class: "muted" }, "Where one of them holds its aggregate: Retry sends it first, then the later events; Discard lets them go out without it, as Skip does.")] : []),
      ...(rest > 0 ? [el("p", { class: "muted" }, `${count(rest)} more with other errors. `,
        el("a", { href: all ? to("events", { status: "dead", ...this.filters }) : to("dead") }, all ? "One by one" : "All groups"))] : []),
    );
  }

  row(group, most) {
    const error = group.last_error || NO_ERROR;
    const code = group.code ?? group.last_error;
    const query = { ...this.filters, error: code ?? "" };
    const work = (kind) => () => this.change(kind, group);
    return el("li", {},
      el("strong", { class: "n" }, count(group.count)),
      el("div", { class: "what" }, el("code", {}, error),
        el("meter", { min: 0, max: most, value: group.count, "aria-hidden": "true" }),
        el("p", { class: "muted" }, ...details(group)),
        remedy(group)),
      el("div", { class: "buttons" },
        el("a", { class: "button", href: to("dead", query), "aria-label": `Show those with: ${error}` }, "Show"),
        el("button", { type: "button", "aria-label": `Discard ${count(group.count)} … with: ${error}`, click: work(DISCARD) }, `Discard ${count(group.count)} …`),
        el("button", { type: "button", "aria-label": `Retry ${count(group.count)} … with: ${error}`, click: work(RETRY) }, `Retry ${count(group.count)} …`)));
  }

  async change(kind, group) {
    const filter = { ...this.filters, ...filterOf(group) };
    this.working = true;
    const words = await act(kind, group.count, whom(group),
      (given, progress) => withAll(kind, filter, group.count, given, progress), (text) => this.say(text));
    this.working = false;
    if (words === null) return;
    this.say(words);
    this.retried = kind === RETRY ? { code: group.code ?? group.last_error, n: group.count, last_at: group.last_at } : null;
    await this.load({ quiet: true });
    byId(this.place).focus({ preventScroll: true });
  }
}

/** Which events are meant, in words: with the figures that differ between them. */
function whom(group) {
  const error = group.texts > 1 && group.code ? group.code : group.last_error || NO_ERROR;
  const figures = ranges(group);
  return `${group.count === 1 ? "The one" : `All ${count(group.count)}`} that failed with “${error}”${figures ? ` (${figures})` : ""}`;
}

function ranges(group) {
  return (group.figures ?? []).map(([least, greatest]) => (least === greatest ? count(least) : `${count(least)} to ${count(greatest)}`)).join("; ");
}

/** Which dead events a group is, for the API. */
function filterOf(group) {
  return group.code == null ? { last_error: group.last_error ?? "" } : { error_code: group.code };
}

/** What has to be done before a retry can help, as far as the error says it. */
function remedy(group) {
  const most = TOO_LARGE.exec(group.code ?? "") && Math.max(...(group.figures ?? []).flat(), Number(TOO_LARGE.exec(group.last_error ?? "")?.[1] ?? 0));
  if (most) {
    return el("p", {}, `Retrying does not help until the limit is raised: set DISPATCH_MAX_PAYLOAD_BYTES above ${most}, restart the dispatchers, then retry. `
      + "Or discard them, and have the producer send less.");
  }
  const first = (group.code ?? "").startsWith("Dead:") ? "Their handler said that no retry helps: discard what nobody needs. If that is over" : "Mend the cause, then retry. If it may be over already";
  return el("p", {}, group.count === 1 ? `${first}, retry it.` : `${first}, show them and retry one first, then all.`);
}

function details(group) {
  const parts = [];
  if (group.event_types?.length) parts.push(group.event_types.join(", "));
  if (group.first_at) {
    parts.push([group.count === 1 ? "" : "first ", when(group.first_at, { short: true }), ...(group.count === 1 ? [] : [", last ", when(group.last_at, { short: true })])]);
  }
  if (group.texts > 1) {
    const figures = ranges(group);
    parts.push(`${count(group.texts)} different figures${figures ? `: ${figures}` : ""}`);
  }
  return parts.flatMap((part, i) => (i ? [" · ", part] : [part])).flat();
}
