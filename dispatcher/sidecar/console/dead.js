// The dead letters, grouped by what they died of: on the first view the largest groups, on their own view all.

import { DISCARD, RETRY, act, withAll } from "./act.js";
import { ask } from "./ask.js";
import { go, route, to } from "./route.js";
import { byId, count, el, plural, when, write } from "./words.js";

const FEW = 3; // groups on the first view

/** How groups and lists name the error of a dead event that has none. */
export const NO_ERROR = "no error noted";

export class Dead {
  constructor() {
    this.known = undefined; // how many were dead, as the overview last said
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

  /** How many are dead, as the overview says. Load again when that changed, unless somebody is in the middle of something. */
  tell(dead) {
    if (dead === this.known) return;
    this.known = dead;
    byId("dead-card").hidden = !dead;
    if (this.working || document.querySelector("dialog[open]")) return;
    if (["now", "dead"].includes(route().name) && (dead || route().name === "dead")) this.load({ quiet: true });
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
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn === this.turn && error.status !== 401) {
        byId(`${place}-body`).replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${error.message}.`));
      }
    }
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
      ...(rest > 0 ? [el("p", { class: "muted" }, `${count(rest)} more with other errors. `,
        el("a", { href: all ? to("events", { status: "dead", ...this.filters }) : to("dead") }, all ? "One by one" : "All groups"))] : []),
    );
  }

  row(group, most) {
    const error = group.last_error || NO_ERROR;
    const code = group.code ?? group.last_error;
    const query = { ...this.filters, error: code ?? "" };
    const work = (kind) => () => this.change(kind, group, error);
    return el("li", {},
      el("strong", { class: "n" }, count(group.count)),
      el("div", { class: "what" }, el("code", {}, error),
        el("meter", { min: 0, max: most, value: group.count, "aria-hidden": "true" }),
        el("p", { class: "muted" }, ...details(group))),
      el("div", { class: "buttons" },
        el("a", { class: "button", href: to("dead", query), "aria-label": `Show those with: ${error}` }, "Show"),
        el("button", { type: "button", "aria-label": `Discard ${count(group.count)} … with: ${error}`, click: work(DISCARD) }, `Discard ${count(group.count)} …`),
        el("button", { type: "button", class: "main", "aria-label": `Retry ${count(group.count)} … with: ${error}`, click: work(RETRY) }, `Retry ${count(group.count)} …`)));
  }

  async change(kind, group, error) {
    const filter = { ...this.filters, ...filterOf(group) };
    this.working = true;
    const words = await act(kind, group.count, `All that failed with “${error}”`,
      (given, progress) => withAll(kind, filter, group.count, given, progress), (text) => this.say(text));
    this.working = false;
    if (words === null) return;
    await this.load({ quiet: true });
    this.say(words);
    byId(this.place).focus({ preventScroll: true });
  }
}

/** Which dead events a group is, for the API. */
function filterOf(group) {
  return group.code == null ? { last_error: group.last_error ?? "" } : { error_code: group.code };
}

function details(group) {
  const parts = [];
  if (group.event_types?.length) parts.push(group.event_types.join(", "));
  if (group.first_at) {
    parts.push([group.count === 1 ? "" : "first ", when(group.first_at, { short: true }), ...(group.count === 1 ? [] : [", last ", when(group.last_at, { short: true })])]);
  }
  if (group.texts > 1) {
    const ranges = (group.figures ?? []).map(([least, greatest]) => (least === greatest ? count(least) : `${count(least)} to ${count(greatest)}`));
    parts.push(`${count(group.texts)} different figures${ranges.length ? `: ${ranges.join("; ")}` : ""}`);
  }
  return parts.flatMap((part, i) => (i ? [" · ", part] : [part])).flat();
}
