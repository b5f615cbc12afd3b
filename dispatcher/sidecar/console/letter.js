// One dead event in full. Its payload, which may be ciphertext, is fetched only when asked for.

import { ask } from "./ask.js";
import { byId, count, el, when, write } from "./words.js";

const NAMES = {
  last_error: "Error", event_type: "Event type", aggregate_type: "Aggregate type", aggregate_id: "Aggregate", event_id: "Event id",
  message_id: "Message id", attempts: "Attempts", occurred_at: "Occurred", died_at: "Died", replay_count: "Replayed before",
  in_outbox: "Its outbox row",
};

export function showLetter(event, retry) {
  write(byId("letter-title"), `Dead event ${event.id}`);
  byId("letter-fields").replaceChildren(...Object.entries(NAMES).filter(([field]) => field in event).flatMap(([field, name]) => [
    el("dt", {}, name), el("dd", {}, value(field, event[field])),
  ]));
  byId("letter-payload").replaceChildren();
  const show = byId("letter-show");
  show.hidden = false;
  show.onclick = () => payload(event);
  byId("letter-close").onclick = () => byId("letter").close();
  byId("letter-retry").onclick = () => {
    byId("letter").close();
    retry();
  };
  byId("letter").showModal();
}

function value(field, found) {
  if (found == null) return "–";
  if (field.endsWith("_at")) return when(found);
  if (field === "in_outbox") return found ? "still there" : "pruned: a retry makes it anew from its copy";
  if (typeof found === "number") return count(found);
  return el(field === "last_error" || field.endsWith("_id") ? "code" : "span", {}, String(found));
}

// Numbers may have more digits than a browser's: they are kept as they stand, behind a mark that jsonb cannot hold.
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

function exact(text) {
  return JSON.parse(text.replace(TOKEN, (token) => (token[0] === '"' ? token : `"\\u0000${token}"`)));
}

function shown(found) {
  return JSON.stringify(found, null, 2).replace(/"\\u0000([^"]*)"/g, "$1");
}

async function payload(event) {
  const place = byId("letter-payload");
  try {
    const found = exact(await ask(`api/dead-events/${event.event_id}?payload=1`, { raw: true }));
    place.replaceChildren(...["headers", "payload"].filter((name) => found[name] != null).flatMap((name) => [
      el("h3", {}, name === "headers" ? "Headers" : "Payload, as it stands in the outbox"),
      el("pre", { tabindex: "0", "aria-label": name }, shown(found[name])),
    ]));
    byId("letter-show").hidden = true;
  } catch (error) {
    if (error.status === undefined) throw error;
    place.replaceChildren(el("p", { class: "wrong", role: "alert" }, error.status === 404 ? "It is not dead any more." : error.message));
  }
}
