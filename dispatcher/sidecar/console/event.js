// One event in full, and what happened to it. Its payload, which may be ciphertext, is fetched only when asked for.

import { DISCARD, RETRY, RETRY_HELD, SKIP, TRY_NOW, act, withThese } from "./act.js";
import { ask } from "./ask.js";
import { status } from "./list.js";
import { route } from "./route.js";
import { byId, count, el, plural, when, write } from "./words.js";

const NAMES = {
  last_error: "Error", event_type: "Event type", aggregate_type: "Aggregate type", aggregate_id: "Aggregate", event_id: "Event id",
  message_id: "Message id", attempts: "Failed attempts", occurred_at: "Occurred", due_at: "Due", picked_at: "Picked", picked_by: "Picked by",
  sent_at: "Sent", stream_id: "Entry in the stream", died_at: "Died", replay_count: "Replayed before", in_outbox: "Its outbox row",
};
const COPIED = ["event_id", "message_id", "aggregate_id", "stream_id", "last_error"];
const DECISIONS = { "event-retry": RETRY, "event-try-now": TRY_NOW, "event-discard": DISCARD, "event-retry-held": RETRY_HELD, "event-skip": SKIP };
const HAPPENED = { failed: "failed", died: "failed: the event was given up", retried: "was put back", discarded: "was discarded", skipped: "was skipped, so that the later ones of its aggregate go out" };

export class EventView {
  constructor() {
    this.turn = 0;
    byId("event-reload").addEventListener("click", () => this.show());
    byId("event-payload-show").addEventListener("click", () => this.payload());
    for (const [button, kind] of Object.entries(DECISIONS)) byId(button).addEventListener("click", () => this.change(kind));
  }

  async show({ quiet = false } = {}) {
    const turn = ++this.turn;
    const { id } = route();
    write(byId("event-title"), `Event ${id}`);
    if (!quiet) write(byId("event-say"), "");
    byId("event-payload").replaceChildren();
    for (const part of ["status", "fields", "history"]) byId(`event-${part}`).replaceChildren();
    for (const button of byId("event-buttons").children) button.hidden = true;
    try {
      const event = await ask(`api/events/${encodeURIComponent(id)}`);
      if (turn === this.turn) this.draw(event);
      if (event.status === "retry" || event.status === "dead") await this.holding(event, turn);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn !== this.turn || error.status === 401) return;
      byId("event-fields").replaceChildren();
      write(byId("event-say"), error.status === 404 ? `There is no event ${id} (any more): it may have been pruned.` : `It could not be loaded: ${error.message}.`);
    }
  }

  draw(event) {
    this.event = event;
    write(byId("event-title"), `Event ${event.id}`);
    byId("event-status").replaceChildren(status(event, event.max_attempts));
    byId("event-fields").replaceChildren(...Object.entries(NAMES).filter(([field]) => event[field] != null).flatMap(([field, name]) => [
      el("dt", {}, name), el("dd", {}, value(field, event[field]), COPIED.includes(field) && copy(name, event[field])),
    ]));
    for (const button of ["event-retry", "event-discard"]) byId(button).hidden = event.status !== "dead";
    byId("event-try-now").hidden = event.status !== "retry";
    byId("event-payload-show").hidden = false;
    const { history = [] } = event;
    byId("event-history").replaceChildren(...(history.length ? history.map(step) : [
      el("li", { class: "muted" }, event.attempts ? "Its attempts are older than what is kept of them." : "Nothing went wrong with it so far.")]));
  }

  /** Where an order is kept: an event that holds its aggregate can be tried now, or skipped. */
  async holding(event, turn) {
    const { aggregate_type, aggregate_id } = event;
    const page = await ask(`api/held-aggregates?${new URLSearchParams({ aggregate_type, aggregate_id, limit: 1 })}`);
    const [one] = page.aggregates;
    if (turn !== this.turn || one?.id !== event.id) return;
    const decides = ["event-retry-held", "event-skip"];
    for (const button of Object.keys(DECISIONS)) byId(button).hidden = !decides.includes(button);
    write(byId("event-say"), byId("event-say").textContent || `It holds ${aggregate_type} ${aggregate_id}: ${plural(one.waiting, "later event")} ${one.waiting === 1 ? "waits" : "wait"} for it.`);
  }

  async payload() {
    const place = byId("event-payload");
    const { turn } = this;
    try {
      const found = exact(await ask(`api/events/${this.event.event_id}?payload=1`, { raw: true }));
      if (turn !== this.turn) return;
      place.replaceChildren(...["headers", "payload"].filter((name) => found[name] != null).flatMap((name) => [
        el("h3", {}, name === "headers" ? "Headers" : "Payload, as it stands in the outbox"),
        el("pre", { tabindex: "0", role: "region", "aria-label": name }, shown(found[name])),
      ]));
      byId("event-payload-show").hidden = true;
    } catch (error) {
      if (error.status === undefined) throw error;
      place.replaceChildren(el("p", { class: "wrong", role: "alert" }, error.status === 404 ? "It is not there any more." : error.message));
    }
  }

  async change(kind) {
    const { event } = this;
    const words = await act(kind, 1, `Event ${event.id}, ${event.event_type}`, (given) => withThese(kind, [event], given), (text) => write(byId("event-say"), text));
    if (words === null) return;
    await this.show({ quiet: true });
    write(byId("event-say"), words);
    byId("event").focus({ preventScroll: true });
  }
}

function value(field, found) {
  if (field.endsWith("_at")) return when(found);
  if (field === "in_outbox") return found ? "still there" : "pruned: a retry makes it anew from its copy";
  if (typeof found === "number") return count(found);
  return el(field === "last_error" || field.endsWith("_id") ? "code" : "span", {}, String(found));
}

function copy(name, text) {
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": `Copy: ${name}`, click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      write(button, "Copied");
    } catch {
      write(button, "Not allowed"); // plain HTTP from another machine
    }
    setTimeout(() => write(button, "Copy"), 2000);
  } }, "Copy");
  return button;
}

function step({ at, what, attempt, by, error, where }) {
  const words = `${attempt && (what === "failed" || what === "died") ? `Attempt ${count(attempt)} ` : "It "}${HAPPENED[what] ?? what}`;
  return el("li", { "data-what": what },
    el("div", {}, el("strong", {}, words), el("span", { class: "muted" }, ...(by ? [" · ", by] : []), " · ", when(at))),
    error && el("code", {}, error), where && el("span", { class: "muted" }, "raised at ", el("code", {}, where)));
}

// Numbers may have more digits than a browser's: they are kept as they stand, behind a mark that jsonb cannot hold.
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

function exact(text) {
  return JSON.parse(text.replace(TOKEN, (token) => (token[0] === '"' ? token : `"\\u0000${token}"`)));
}

function shown(found) {
  return JSON.stringify(found, null, 2).replace(/"\\u0000([^"]*)"/g, "$1");
}
