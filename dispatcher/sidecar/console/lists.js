// The two ways dead letters are shown: what they died of, and one by one.

import { count, el, plural, when } from "./words.js";

export function groupRows(stats, { show, retry }) {
  const errors = stats.by_error ?? [];
  const types = stats.by_type ?? [];
  const most = Math.max(...errors.map((group) => group.count), 1);
  const rows = errors.map((group) => el("li", {},
    el("div", { class: "what" }, el("code", {}, group.last_error || "no error noted"),
      el("meter", { min: 0, max: most, value: group.count, "aria-hidden": "true" })),
    el("strong", { class: "n" }, count(group.count)),
    el("div", { class: "buttons" },
      el("button", { type: "button", "aria-label": `Show those with: ${group.last_error || "no error noted"}`, click: () => show(group.last_error) }, "Show"),
      el("button", { type: "button", "aria-label": `Retry all ${count(group.count)} with: ${group.last_error || "no error noted"}`,
        click: () => retry(group) }, `Retry all ${count(group.count)} …`))));
  const shown = errors.reduce((sum, group) => sum + group.count, 0);
  return [
    el("p", { class: "muted" }, `${plural(stats.total, "dead event")}, by what they died of.`),
    el("ul", { class: "groups" }, rows),
    shown < stats.total && el("p", { class: "muted" }, `${count(stats.total - shown)} more with other errors: one by one shows them.`),
    el("p", { class: "muted types" }, "Of the types: ", types.slice(0, 12).map((type, i) => [
      i ? ", " : "", el("span", {}, `${type.event_type} (${type.aggregate_type})`), ` ${count(type.count)}`,
    ]), types.length > 12 ? " …" : ""),
  ].filter(Boolean);
}

export function listRows(events, chosen, { changed, open, retry }) {
  const heads = ["", "Event", "Type", "Aggregate", "Error", "Attempts", "Died", ""];
  const body = events.map((event) => el("tr", {},
    el("td", { class: "pick" }, el("input", {
      type: "checkbox", "aria-label": `Select event ${event.id}`, ...(chosen.has(event.event_id) ? { checked: true } : {}),
      change: (change) => {
        if (change.target.checked) chosen.set(event.event_id, event);
        else chosen.delete(event.event_id);
        changed();
      },
    })),
    el("td", { "data-head": "Event" }, el("button", { type: "button", class: "link", "aria-label": `Details of event ${event.id}`,
      click: () => open(event) }, String(event.id))),
    el("td", { "data-head": "Type", class: "type" }, event.event_type),
    el("td", { "data-head": "Aggregate", class: "aggregate" }, `${event.aggregate_type} `, el("span", { class: "muted" }, event.aggregate_id)),
    el("td", { "data-head": "Error", class: "error" }, el("code", {}, event.last_error ?? "–")),
    el("td", { "data-head": "Attempts", class: "n" }, count(event.attempts)),
    el("td", { "data-head": "Died" }, when(event.died_at)),
    el("td", {}, el("button", { type: "button", "aria-label": `Retry event ${event.id}`, click: () => retry(event) }, "Retry …"))));
  return el("div", { class: "wide", role: "region", "aria-label": "Dead events", tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el(head ? "th" : "td", head ? { scope: "col", ...(head === "Attempts" ? { class: "n" } : {}) } : {}, head)))),
    el("tbody", {}, body)));
}

export function pager(total, offset, size, go) {
  const last = Math.min(offset + size, total);
  return el("div", { class: "pager" },
    el("button", { type: "button", disabled: offset === 0, click: () => go(Math.max(0, offset - size)) }, "Newer"),
    el("span", { class: "muted" }, `${count(offset + 1)} to ${count(last)} of ${count(total)}`),
    el("button", { type: "button", disabled: last >= total, click: () => go(offset + size) }, "Older"));
}
