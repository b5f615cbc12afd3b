// Puts dead events back, at most a thousand a request. Doing it twice does nothing, so a lost answer harms nobody.

import { ask } from "./ask.js";

const AT_ONCE = 1000;
const PATIENCE_MS = 60000;

/** How many of these were put back. */
export async function retryThese(events) {
  if (events.length === 1) {
    try {
      await ask(`api/dead-events/${events[0].event_id}/retry`, { body: null, patience: PATIENCE_MS });
      return 1;
    } catch (error) {
      if (error.status === 404) return 0; // somebody else was quicker
      throw error;
    }
  }
  let done = 0;
  for (let from = 0; from < events.length; from += AT_ONCE) {
    const ids = events.slice(from, from + AT_ONCE).map((event) => event.event_id);
    done += (await ask("api/dead-events/retry-batch", { body: { event_ids: ids }, patience: PATIENCE_MS })).processed;
  }
  return done;
}

/** As many as were confirmed, of those that a filter finds; no more, though others may die meanwhile. */
export async function retryAll(filter, n, progress) {
  let done = 0;
  for (let left = n; left > 0;) {
    const page = await ask(`api/dead-events${filter}&limit=${Math.min(left, AT_ONCE)}`);
    if (page.events.length === 0) break;
    const processed = await retryThese(page.events);
    done += processed;
    left -= page.events.length;
    progress(done);
    if (processed === 0) break; // they stay dead: asking again would not end
  }
  return done;
}
