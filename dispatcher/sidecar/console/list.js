// Events in a list: those of one status, those with one error, or what a search found. Paged by key, newest first.

import { DISCARD, RETRY, act, withAll, withThese } from "./act.js";
import { ask } from "./ask.js";
import { NO_ERROR } from "./dead.js";
import { go, route, to } from "./route.js";
import { byId, count, el, when, write } from "./words.js";

const PAGE = 50;
const STATUSES = { "": "Not sent yet", pending: "Pending", scheduled: "Scheduled", picked: "Picked", retry: "Retrying", dead: "Dead", discarded: "Discarded", sent: "Sent" };
const FILTERS = ["event_type", "aggregate_type", "aggregate_id"];

export class List {
  constructor() {
    this.turn = 0; // the latest load: an answer to an earlier one is late
    this.chosen = new Map(); // event_id -> the event
    this.events = [];
    byId("list-filters").addEventListener("submit", (event) => {
      event.preventDefault();
      const { name, query } = route();
      const given = Object.fromEntries(FILTERS.map((filter) => [filter, byId(`list-${filter}`).value.trim()]));
      go(name, { ...query, q: undefined, ...given });
    });
    byId("list-reload").addEventListener("click", () => this.show());
    byId("list-more").addEventListener("click", () => this.more());
  }

  /** What the address asks for: { q } or { status, error, ...filters }. */
  get wanted() {
    const { name, query } = route();
    return name === "dead" ? { ...query, status: "dead" } : query;
  }

  get dead() {
    return this.wanted.status === "dead" && this.wanted.q === undefined;
  }

  say(words) {
    write(byId("list-say"), words);
  }

  async show({ quiet = false } = {}) {
    const { wanted } = this;
    this.chosen.clear();
    this.events = [];
    this.next = null;
    if (!quiet) this.say("");
    write(byId("list-title"), title(wanted));
    for (const filter of FILTERS) byId(`list-${filter}`).value = wanted[filter] ?? "";
    byId("list-filters").hidden = wanted.q !== undefined;
    this.narrowed(wanted);
    this.tabs(wanted);
    byId("list-body").replaceChildren(el("p", { class: "muted" }, "Looking …"));
    byId("list-bar").replaceChildren();
    const turn = await this.more();
    if (turn === this.turn && wanted.q === undefined) await this.counts(turn);
  }

  narrowed({ error, like }) {
    const words = error === undefined ? like : error || NO_ERROR;
    byId("list-narrowed").hidden = words === undefined;
    byId("list-narrowed").replaceChildren(...(words === undefined ? [] : [
      "Only those with: ", el("code", {}, words), " ", el("a", { href: to("dead") }, "All errors")]));
  }

  tabs(wanted) {
    const { status = "", q } = wanted;
    const kept = Object.fromEntries(FILTERS.map((filter) => [filter, wanted[filter]]));
    byId("list-tabs").hidden = q !== undefined;
    byId("list-tabs").replaceChildren(...Object.entries(STATUSES).map(([value, words]) => el("a", {
      href: to("events", { status: value, ...kept }), "data-status": value, ...(value === status ? { "aria-current": "true" } : {}),
    }, words, el("span", { class: "n" }))));
  }

  async counts(turn) {
    try {
      const found = await ask("api/events/counts");
      if (turn !== this.turn) return;
      for (const tab of byId("list-tabs").children) {
        const n = found[tab.dataset.status];
        if (n != null) write(tab.querySelector(".n"), ` ${count(n)}${found.complete === false ? "+" : ""}`);
      }
    } catch (error) {
      if (error.status === undefined) throw error; // the list itself says what is wrong
    }
  }

  /** The next page, below what is there. */
  async more() {
    const turn = ++this.turn;
    const { q, status, error, like, ...filters } = this.wanted;
    const query = q === undefined ? { status, error_like: like, ...filters } : { q };
    const given = [...Object.entries({ ...query, limit: PAGE, after: this.next }).filter(([, value]) => value), ...filterOf(error)];
    byId("list-more").disabled = true;
    try {
      const page = await ask(`api/events${q === undefined ? "" : "/find"}?${new URLSearchParams(given)}`);
      if (turn !== this.turn) return turn;
      this.events.push(...page.events);
      this.next = page.next;
      this.most = page.max_attempts ?? null;
      if (q !== undefined && this.events.length === 1 && !this.next) {
        location.replace(to("event", {}, String(this.events[0].id))); // the one that was looked for; the step back leads past it
        return turn;
      }
      await this.draw(turn);
    } catch (failure) {
      if (failure.status === undefined) throw failure;
      if (turn === this.turn && failure.status !== 401) {
        byId("list-body").replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${failure.message}.`));
      }
    }
    return turn;
  }

  async draw(turn) {
    byId("list-more").hidden = !this.next;
    byId("list-more").disabled = false;
    if (!this.events.length && !this.next) {
      const { q } = this.wanted;
      byId("list-body").replaceChildren(el("p", { class: "none" }, q === undefined ? (this.wanted.status ? "None." : "None. Dead events wait for a decision and stand apart.") : `No event has the row, the event_id, the message_id or the aggregate “${q}”. `
        + "It may have been pruned, or its transaction rolled back."));
      return;
    }
    byId("list-body").replaceChildren(this.table());
    if (this.dead) await this.bar(turn);
  }

  table() {
    const state = this.wanted.status === "discarded" ? ["Discarded by", "When", "Reason"] : ["Status", head(this.wanted.status), "Error"];
    const heads = [...(this.dead ? [""] : []), "Event", "Type", "Aggregate", ...state];
    return el("div", { class: "wide", role: "region", "aria-label": "Events", tabindex: "0" }, el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head) => el(head ? "th" : "td", head ? { scope: "col" } : {}, head)))),
      el("tbody", {}, this.events.map((event) => this.row(event)))));
  }

  row(event) {
    return el("tr", {},
      this.dead && el("td", { class: "pick" }, el("input", {
        type: "checkbox", "aria-label": `Select event ${event.id}`, ...(this.chosen.has(event.event_id) ? { checked: true } : {}),
        change: (change) => {
          if (change.target.checked) this.chosen.set(event.event_id, event);
          else this.chosen.delete(event.event_id);
          this.counted();
        },
      })),
      el("td", { "data-head": "Event" }, el("a", { href: to("event", {}, String(event.id)) }, String(event.id))),
      el("td", { "data-head": "Type", class: "type" }, event.event_type),
      el("td", { "data-head": "Aggregate", class: "aggregate" }, `${event.aggregate_type} `, el("span", { class: "muted" }, event.aggregate_id)),
      ...(event.discarded ? decision(event.discarded) : [el("td", { "data-head": "Status" }, status(event, this.most)),
      el("td", { "data-head": head(this.wanted.status), class: "when" }, moment(event)),
      el("td", { "data-head": "Error", class: "error" }, event.last_error ? el("code", {}, event.last_error) : el("span", { class: "muted" }, "–"))]));
  }

  /** What can be done with the chosen ones, and with all that have this error. */
  async bar(turn) {
    const { error, event_type, aggregate_type } = this.wanted;
    const filter = Object.fromEntries([...Object.entries({ event_type, aggregate_type }).filter(([, value]) => value), ...filterOf(error)]);
    const { total } = error === undefined ? { total: 0 } : await ask(`api/dead-events/stats?${new URLSearchParams(filter)}`);
    if (turn !== this.turn) return;
    const change = (kind) => () => this.change(kind, this.chosen.size, "The selected events", (given) => withThese(kind, [...this.chosen.values()], given));
    const changeAll = (kind) => () => this.change(kind, total, `All that failed with “${error || NO_ERROR}”`,
      (given, progress) => withAll(kind, filter, total, given, progress));
    this.everything = el("input", { type: "checkbox", change: (event) => this.chooseAll(event.target.checked) });
    this.buttons = [RETRY, DISCARD].map((kind) => el("button", { type: "button", click: change(kind) }));
    byId("list-bar").replaceChildren(el("label", {}, this.everything, ` All ${count(this.events.length)} shown`), ...this.buttons,
      ...(total > this.events.length ? [RETRY, DISCARD].map((kind) => el("button", { type: "button", click: changeAll(kind) }, `${kind.verb} all ${count(total)} …`)) : []));
    this.counted();
  }

  chooseAll(wanted) {
    for (const one of this.events) {
      if (wanted) this.chosen.set(one.event_id, one);
      else this.chosen.delete(one.event_id);
    }
    for (const box of byId("list-body").querySelectorAll("tbody input[type=checkbox]")) box.checked = wanted;
    this.counted();
  }

  counted() {
    const { size } = this.chosen;
    for (const [i, kind] of [RETRY, DISCARD].entries()) {
      write(this.buttons[i], `${kind.verb} ${size ? `the ${count(size)} selected` : "the selected"} …`);
      this.buttons[i].disabled = size === 0;
    }
    this.everything.checked = size > 0 && size === this.events.length;
    this.everything.indeterminate = size > 0 && size < this.events.length;
  }

  async change(kind, n, whom, work) {
    const words = await act(kind, n, whom, work, (text) => this.say(text));
    if (words === null) return;
    await this.show({ quiet: true });
    this.say(words);
    byId("list").focus({ preventScroll: true });
  }
}

/** Who discarded an event, when, and why. */
function decision({ at, by, reason }) {
  return [el("td", { "data-head": "Discarded by" }, by ?? "–"), el("td", { "data-head": "When", class: "when" }, when(at)),
    el("td", { "data-head": "Reason" }, reason ?? "–")];
}

/** How the API is asked for an error of the address: its code; "" for those without one. */
function filterOf(error) {
  return error === undefined ? [] : error === "" ? [["last_error", ""]] : [["error_code", error]];
}

function title({ q, status = "" }) {
  if (q !== undefined) return `Found for “${q}”`;
  return { "": "Events that are not sent yet", dead: "Dead events", discarded: "Events that a person discarded", sent: "Events that were sent", retry: "Events that failed and are tried again" }[status]
    ?? `Events: ${(STATUSES[status] ?? status).toLowerCase()}`;
}

/** The status of an event, with what there is to know of it: which attempt, whose. */
export function status(event, most) {
  const words = event.status === "retry" && most ? `${count(event.attempts)} of ${count(most)} attempts failed`
    : event.attempts ? `after ${count(event.attempts)} failed` : "";
  return el("span", {}, el("b", { class: `status ${event.status}` }, STATUSES[event.status]?.toLowerCase() ?? event.status), words && el("span", { class: "muted" }, ` ${words}`));
}

/** What the moment of a row is, where all rows have the same status. */
function head(status) {
  return { dead: "Died", sent: "Sent", picked: "Picked", scheduled: "Due", retry: "Due", pending: "Occurred" }[status] ?? "When";
}

/** The moment that matters most for its status. */
function moment(event) {
  if (event.status === "sent") return when(event.sent_at);
  if (event.status === "dead" || event.status === "discarded") return when(event.died_at ?? event.occurred_at);
  if (event.status === "picked") return el("span", {}, "picked ", when(event.picked_at));
  if (event.due_at && ["retry", "scheduled"].includes(event.status)) return el("span", {}, "due ", when(event.due_at));
  return when(event.occurred_at);
}
