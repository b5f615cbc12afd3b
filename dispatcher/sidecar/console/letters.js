// The dead letters: counted by error or listed one by one, narrowed by filters, and put back to be sent again.

import { ask } from "./ask.js";
import { confirmed } from "./confirm.js";
import { showLetter } from "./letter.js";
import { groupRows, listRows, pager } from "./lists.js";
import { retryAll, retryThese } from "./retry.js";
import { byId, count, el, plural, write } from "./words.js";

const PAGE = 50;

export class Letters {
  constructor() {
    this.filters = {}; // event_type, aggregate_type, last_error
    this.offset = 0;
    this.chosen = new Map(); // event_id -> the event
    this.view = "groups";
    this.loaded = null; // how many were dead when they were last loaded
    this.total = null; // how many are listed, unless they are narrowed
    this.turn = 0; // the latest load: an answer to an earlier one is late
    byId("filters").addEventListener("submit", (event) => {
      event.preventDefault();
      this.narrow({
        ...this.filters,
        event_type: byId("filter-event-type").value.trim(),
        aggregate_type: byId("filter-aggregate-type").value.trim(),
      });
    });
    byId("reload").addEventListener("click", () => this.load());
    byId("show-groups").addEventListener("click", () => this.narrow({ ...this.filters, last_error: undefined }, "groups"));
    byId("show-list").addEventListener("click", () => this.narrow(this.filters, "list"));
  }

  /** How many are dead, as the overview last said. Load again when that changed, unless somebody is choosing. */
  known(dead) {
    if (this.loaded === null) {
      this.loaded = dead ?? -1;
      this.load();
    } else if (dead !== null && dead !== this.loaded) {
      const first = this.loaded === -1;
      this.loaded = dead;
      if (first && dead === this.total) return;
      if (this.chosen.size || this.working || document.querySelector("dialog[open]")) this.say("There are others by now: load again to see them.");
      else this.load({ quiet: true });
    }
  }

  narrow(filters, view = this.view) {
    this.filters = filters;
    this.view = view;
    this.offset = 0;
    this.chosen.clear();
    for (const name of ["groups", "list"]) byId(`show-${name}`).setAttribute("aria-pressed", String(name === view));
    const error = filters.last_error;
    byId("narrowed").hidden = error === undefined;
    byId("narrowed").replaceChildren(...(error === undefined ? [] : [
      "Only those with: ", el("code", {}, error || "no error noted"), " ",
      el("button", { type: "button", class: "quiet", click: () => this.narrow({ ...filters, last_error: undefined }) }, "Show all"),
    ]));
    return this.load();
  }

  query(more = {}) {
    const wanted = Object.entries({ ...this.filters, ...more }).filter(([name, value]) => value || (name === "last_error" && value === ""));
    return wanted.length ? `?${new URLSearchParams(wanted)}` : "";
  }

  say(words) {
    write(byId("letters-say"), words);
  }

  async load({ quiet = false } = {}) {
    const turn = ++this.turn;
    if (!quiet) this.say("");
    try {
      const stats = await ask(`api/dead-events/stats${this.query()}`);
      const page = this.view === "list" && stats.total
        ? await ask(`api/dead-events${this.query({ limit: PAGE, offset: this.offset })}`) : null;
      if (turn !== this.turn) return;
      this.suggest(stats.by_type ?? []);
      this.draw(stats, page);
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn === this.turn && error.status !== 401) {
        this.offer(true);
        byId("letters-body").replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${error.message}.`));
      }
    }
  }

  suggest(types) {
    for (const name of ["event_type", "aggregate_type"]) {
      const values = [...new Set(types.map((type) => type[name]))].sort();
      byId(`${name.replace("_", "-")}s`).replaceChildren(...values.map((value) => el("option", { value })));
    }
  }

  /** Show the ways to look at them; hide those when there is nothing to look at, but not from under somebody's hands. */
  offer(wanted) {
    for (const ways of [byId("filters"), byId("show-groups").parentElement]) {
      ways.hidden = !wanted && !ways.contains(document.activeElement);
    }
  }

  draw(stats, page) {
    const body = byId("letters-body");
    const narrowed = this.query() !== "";
    this.offer(stats.total > 0 || narrowed);
    this.total = narrowed ? null : stats.total;
    if (!stats.total) {
      body.replaceChildren(el("p", { class: "none" }, narrowed ? "None of the dead letters is like that." : "None. Every event found its way."));
    } else if (page === null) {
      body.replaceChildren(...groupRows(stats, {
        show: (error) => this.narrow({ ...this.filters, last_error: error ?? "" }, "list"),
        retry: (group) => this.retryGroup(group),
      }));
    } else {
      const bar = this.selection(stats, page);
      body.replaceChildren(bar, listRows(page.events, this.chosen, {
        changed: () => this.counted(),
        open: (event) => showLetter(event, () => this.retryOne(event)),
        retry: (event) => this.retryOne(event),
      }), pager(stats.total, this.offset, PAGE, (offset) => {
        this.offset = offset;
        this.chosen.clear();
        this.load();
      }));
      this.counted();
    }
  }

  /** What can be done with the chosen ones, and with all that the filters leave. */
  selection(stats, page) {
    const all = this.filters.last_error !== undefined
      && el("button", { type: "button", click: () => this.retryGroup({ last_error: this.filters.last_error, count: stats.total }) },
        `Retry all ${count(stats.total)} …`);
    this.everything = el("input", { type: "checkbox", change: (event) => {
      for (const one of page.events) {
        if (event.target.checked) this.chosen.set(one.event_id, one);
        else this.chosen.delete(one.event_id);
      }
      for (const box of byId("letters-body").querySelectorAll("tbody input[type=checkbox]")) box.checked = event.target.checked;
      this.counted();
    } });
    this.onPage = page.events.length;
    this.retryChosen = el("button", { type: "button", class: "main", click: () => this.retrySelected() });
    return el("div", { class: "selection" }, el("label", {}, this.everything, ` All ${page.events.length} on this page`), this.retryChosen, all);
  }

  counted() {
    const { size } = this.chosen;
    write(this.retryChosen, size ? `Retry the ${count(size)} selected …` : "Retry the selected …");
    this.retryChosen.disabled = size === 0;
    this.everything.checked = size > 0 && size === this.onPage;
    this.everything.indeterminate = size > 0 && size < this.onPage;
  }

  retryOne(event) {
    return this.retry(1, `Event ${event.id}, ${event.event_type}`, () => retryThese([event]));
  }

  retrySelected() {
    const events = [...this.chosen.values()];
    return this.retry(events.length, "The selected events", () => retryThese(events));
  }

  retryGroup(group) {
    const filter = this.query({ last_error: group.last_error ?? "" });
    return this.retry(group.count, `All that failed with “${group.last_error || "no error noted"}”`,
      () => retryAll(filter, group.count, (done) => this.say(`${count(done)} of ${count(group.count)} …`)));
  }

  /** Ask, do it, say what became of it. */
  async retry(n, whom, work) {
    const events = plural(n, "event");
    if (!await confirmed(`Retry ${events}?`, `${whom}: sent again from the first attempt on, under the same event_id. If the cause is not mended, `
      + "they come back here.", `Retry ${events}`)) return;
    this.working = true;
    this.say(`Putting ${events} back …`);
    let said;
    try {
      const done = await work();
      said = done === n ? `${events} put back; out in a moment.`
        : `${count(done)} of ${events} put back; the others were not dead any more.`;
    } catch (error) {
      if (error.status === undefined) throw error;
      said = `That failed: ${error.message}. Nothing is lost; load again and see what is left.`;
    } finally {
      this.working = false;
    }
    this.chosen.clear();
    this.offset = 0;
    await this.load({ quiet: true });
    this.say(said);
    byId("letters").focus({ preventScroll: true });
  }
}
