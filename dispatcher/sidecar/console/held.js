// Held aggregates: the event that holds each, its error, how many wait behind it, and what a person can do about it.

import { RETRY_HELD, SKIP, act, withThese } from "./act.js";
import { ask } from "./ask.js";
import { route, to } from "./route.js";
import { byId, count, el, plural, when, write } from "./words.js";

const FEW = 3; // on the first view
const MANY = 100;

export class Held {
  constructor() {
    this.known = undefined; // how many are held, as the overview last said; null: there is no order
    this.turn = 0; // the latest load: an answer to an earlier one is late
    this.working = false;
    byId("held-reload").addEventListener("click", () => this.load());
  }

  /** How many are held, as the overview says. Load again when that changed, unless somebody is in the middle of something. */
  tell(held) {
    const changed = held !== this.known;
    this.known = held;
    byId("held-card").hidden = !held && route().name !== "held";
    if (!changed || this.working || document.querySelector("dialog[open]")) return;
    if (["now", "held"].includes(route().name) && (held || route().name === "held")) this.load({ quiet: true });
  }

  show() {
    byId("held-card").hidden = !this.known && route().name !== "held";
    if (route().name === "held" || this.known) this.load();
  }

  say(words) {
    write(byId("held-say"), words);
  }

  async load({ quiet = false } = {}) {
    const turn = ++this.turn;
    if (!quiet) this.say("");
    try {
      const page = await ask(`api/held-aggregates?limit=${route().name === "held" ? MANY : FEW}`);
      if (turn === this.turn) this.draw(page);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn === this.turn && error.status !== 401) {
        byId("held-body").replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${error.message}.`));
      }
    }
  }

  draw(page) {
    const body = byId("held-body");
    if (!page.total) {
      body.replaceChildren(el("p", { class: "none" }, page.order === "none" ? "Order is off: no event waits for another one." : "None: no event waits for another one."));
      return;
    }
    const rest = page.total - page.count;
    body.replaceChildren(
      el("p", { class: "muted" }, `${plural(page.total, "aggregate")} ${page.total === 1 ? "waits" : "wait"} for an event that fails. The first number is how many events wait behind it.`),
      el("ul", { class: "groups" }, page.aggregates.map((one) => this.row(one))),
      ...(rest > 0 ? [el("p", { class: "muted" }, `${count(rest)} more. `, route().name === "held" ? "`dispatcher held list` has all." : el("a", { href: to("held") }, "All of them"))] : []),
    );
  }

  row(one) {
    const name = `${one.aggregate_type} ${one.aggregate_id}`;
    const work = (kind) => () => this.change(kind, one, name);
    return el("li", {},
      el("strong", { class: "n" }, count(one.waiting)),
      el("div", { class: "what" }, el("code", {}, one.last_error || "no error noted"), el("p", { class: "muted" }, ...details(one, name))),
      el("div", { class: "buttons" },
        el("a", { class: "button", href: to("event", {}, one.event_id), "aria-label": `Show the event that holds ${name}` }, "Show"),
        el("button", { type: "button", disabled: one.state === "in_flight", "aria-label": `Skip … in ${name}`, click: work(SKIP) }, "Skip …"),
        el("button", { type: "button", disabled: one.state === "in_flight", "aria-label": `Retry … in ${name}`, click: work(RETRY_HELD) }, "Retry …")));
  }

  async change(kind, one, name) {
    this.working = true;
    const words = await act(kind, 1, `The event that holds ${name}`, (given) => withThese(kind, [one], given), (text) => this.say(text));
    this.working = false;
    if (words === null) return;
    await this.load({ quiet: true });
    this.say(words);
    byId("held-card").focus({ preventScroll: true });
  }
}

function details(one, name) {
  const state = {
    retry: ["tried again ", when(one.next_attempt_at, { short: true })],
    dead: ["dead: until somebody decides"],
    parked: ["parked by a person"],
    in_flight: ["tried right now"],
  }[one.state] ?? [one.state];
  return [name, " · ", one.event_type, " · held since ", when(one.since, { short: true }), " · ", ...state, ` · ${plural(one.attempts, "attempt")}`].flat();
}
