// The consumer groups in full: who reads how far behind, and what lies delivered and not acknowledged.

import { ask } from "./ask.js";
import { groupRow } from "./side.js";
import { byId, count, el, lasting, plural, write } from "./words.js";

export class Groups {
  constructor() {
    this.turn = 0;
    byId("all-groups-reload").addEventListener("click", () => this.show());
  }

  async show() {
    const turn = ++this.turn;
    write(byId("all-groups-say"), "");
    try {
      const { streams } = await ask("api/groups");
      if (turn === this.turn) byId("all-groups-body").replaceChildren(...streams.map(drawn));
    } catch (error) {
      if (error.status === undefined) throw error;
      if (turn === this.turn && error.status !== 401) byId("all-groups-body").replaceChildren(el("p", { class: "wrong" }, `They could not be loaded: ${error.message}.`));
    }
  }
}

/** For a shell. */
function quoted(name) {
  return /^[\w@%+=:,./-]+$/.test(name) ? name : `'${name.replaceAll("'", `'"'"'`)}'`;
}

function drawn({ stream, length, maxlen, groups }) {
  return el("section", { "aria-label": `Groups of ${stream}` },
    el("h3", {}, stream),
    el("p", { class: "muted" }, length == null ? "Its length is not known." : `${count(length)} of about ${count(maxlen)} entries; older ones are trimmed. Publishing stops for all before a group would lose what it has not read, unless the group is exempt.`),
    groups.length ? el("ul", { class: "bars all" }, groups.map((group) => {
      const row = groupRow({ ...group, last_read_age_s: null }, maxlen);
      row.append(el("span", { class: "muted" }, [
        group.pending == null ? null : `${count(group.pending)} delivered, not acknowledged`,
        group.consumers == null ? null : plural(group.consumers, "consumer"),
        group.last_read_age_s == null ? "nobody has read lately" : `last read ${lasting(group.last_read_age_s)} ago`,
        group.reader ? `by ${group.reader}` : null,
        group.exempt ? "exempt from backpressure" : null,
        group.not_on?.length ? `not on ${plural(group.not_on.length, "shard")} of this stream: ${group.not_on.slice(0, 3).join(", ")}${group.not_on.length > 3 ? ", …" : ""}` : null,
      ].filter(Boolean).join(" · ")));
      if (group.dead) row.append(el("p", { "data-level": "warn" }, `${plural(group.dead, "event")} put away, which failed too often${group.dead_error ? `; the last error: ${group.dead_error}` : ""}. `, el("code", {}, `dispatcher groups dead ${quoted(group.name)}`)));
      return row;
    })) : el("p", { class: "none" }, "No group reads this stream."));
}
