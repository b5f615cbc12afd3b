// What a person does: retry, discard, pause, resume. Each asks first and says what became of it. Twice does no harm.

import { ask } from "./ask.js";
import { confirmed } from "./confirm.js";
import { BACKLOG_BOUND, at, count, lasting, plural } from "./words.js";

const AT_ONCE = 1000; // events of one request
const PATIENCE_MS = 60000;

export const RETRY = {
  path: "retry", verb: "Retry", doing: "Putting back", done: "put back; out in a moment",
  text: "sent again from the first attempt on, under the same event_id. If the cause is not mended, they come back here.",
};
export const TRY_NOW = {
  api: "events", path: "retry", verb: "Retry", doing: "Trying", done: "tried now", left: "it is published at this moment, or went out",
  text: "tried now, not when it is due, with the attempts that it has left. If the cause is not mended, it fails once more.",
};
export const DISCARD = {
  path: "discard", verb: "Discard", doing: "Discarding", done: "discarded", reason: "needed",
  text: "not sent any more, and no longer counted as waiting for a decision. The reason is kept with them, and who gave it.",
};

export const RETRY_HELD = {
  api: "held-aggregates", path: "retry", verb: "Retry", doing: "Trying", done: "tried now", left: "the others hold nothing any more",
  text: "tried now, and the later events of its aggregate follow when it went out. If the cause is not mended, it comes back here.",
};
export const SKIP = {
  api: "held-aggregates", path: "skip", verb: "Skip", doing: "Skipping", done: "skipped", left: "the others hold nothing any more", reason: "needed",
  text: "not sent any more, and the later events of its aggregate go out without it. The reason is kept with it, and who gave it.",
};

/**
 * Ask, do it, and return what became of it in words; null: the person thought better of it.
 * `work({ reason, by }, progress)` returns how many it was done with.
 */
export async function act(kind, n, whom, work, say) {
  const events = plural(n, "event");
  const given = await confirmed({
    title: `${kind.verb} ${events}?`, text: `${whom}: ${kind.text}`, yes: `${kind.verb} ${events}`, reason: kind.reason,
  });
  if (!given) return null;
  say(`${kind.doing} ${events} …`);
  try {
    const done = await work(given, (so_far) => say(`${count(so_far)} of ${count(n)} …`));
    return done === n ? `${events} ${kind.done}.` : `${count(done)} of ${events} ${kind.done}; ${kind.left ?? "the others were not dead any more"}.`;
  } catch (error) {
    if (error.status === undefined) throw error;
    return `That failed: ${error.message}. Nothing is lost; load again and see what is left.`;
  }
}

/** Do it with these events; how many it was done with. */
export async function withThese(kind, events, given) {
  if (events.length === 1) {
    try {
      await ask(`api/${kind.api ?? "dead-events"}/${events[0].event_id}/${kind.path}`, { body: Object.keys(given).length ? given : null, patience: PATIENCE_MS });
      return 1;
    } catch (error) {
      if (error.status === 404) return 0; // somebody else was quicker
      throw error;
    }
  }
  let done = 0;
  for (let from = 0; from < events.length; from += AT_ONCE) {
    const event_ids = events.slice(from, from + AT_ONCE).map((event) => event.event_id);
    done += (await ask(`api/${kind.api ?? "dead-events"}/${kind.path}-batch`, { body: { event_ids, ...given }, patience: PATIENCE_MS })).processed;
  }
  return done;
}

/** With as many as were confirmed of those that a filter finds; no more, though others may die meanwhile. */
export async function withAll(kind, filter, n, given, progress) {
  let done = 0;
  for (let left = n; left > 0;) {
    const page = await ask(`api/dead-events?${new URLSearchParams({ ...filter, limit: Math.min(left, AT_ONCE) })}`);
    if (page.events.length === 0) break;
    const processed = await withThese(kind, page.events, given);
    done += processed;
    left -= page.events.length;
    progress(done);
    if (processed === 0) break; // they stay dead: asking again would not end
  }
  return done;
}

/** Pause or resume all dispatchers of this outbox; `seen`: the overview. Returns what became of it in words, or null. */
export async function switchPause(on, seen) {
  const given = await confirmed(on ? {
    title: "Pause every dispatcher?", yes: "Pause all", reason: "wanted",
    text: "No dispatcher of this outbox takes an event until somebody resumes. Producers go on; their events wait in Postgres. What is in flight is finished.",
  } : {
    title: "Resume?", yes: "Resume", text: `${pausedBy(seen)}All dispatchers of this outbox take events again, at once${waiting(seen)}.`,
  });
  if (!given) return null;
  try {
    const answer = await ask(on ? "api/pause" : "api/resume", { body: given });
    if (on) return answer.changed === false ? "It was paused already." : "Paused: nothing new is taken.";
    return answer.changed === false ? "It was not paused." : "Resumed: events go out again.";
  } catch (error) {
    if (error.status === undefined) throw error;
    return `That failed: ${error.message}.`;
  }
}

/** Since when it is paused, why, and by whom: whoever resumes should know whom to ask. */
function pausedBy(seen) {
  const state = seen.states.find((each) => each.kind === "paused" && !each.ok);
  if (!state) return "";
  return `Paused since ${at(state.since)}, for ${lasting(Math.max(0, seen.now - state.since))}${state.reason ? `: ${state.reason}` : ""}. `;
}

function waiting(seen) {
  return seen.backlog ? `: ${count(seen.backlog, BACKLOG_BOUND)} ${seen.backlog === 1 ? "event waits and goes" : "events wait and go"} out` : "";
}
