"""Which of the rows that a careful claim looked at it claims: those that wait for no other. No I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dispatcher.core.held import Held
from dispatcher.core.row import UNSCHEDULED
from dispatcher.stages.claim_in_order import Peeked


@dataclass(slots=True)
class Choice:
    """What a careful claim chose. `rows`: the keys of their aggregates, by id.

    Of fresh rows and others `last` is the last one that was judged, `seen` how many were. `let_go`: one has to go first
    that waited until just now.
    """

    rows: dict[int, int] = field(default_factory=dict)
    last: dict[str, Peeked] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    let_go: bool = False


def choose(rows: Sequence[Peeked], held: Held, limit: int, fresh_window: int, *, one_per_aggregate: bool) -> Choice:
    """Up to `limit` of these rows, and those that are tried by their ids.

    `fresh_window`: how many fresh ones were asked for.

    Notes in `held` of which aggregates a later event was seen, and what has to wait because of its type.
    """
    choice, keys = Choice(), set[int]()
    no_room = dict[int, int]()  # by key of an aggregate: its first row that finds no room
    fresh = [row.id for row in rows if row.kind == "fresh"]
    looked_to = max(fresh) if fresh and len(fresh) >= fresh_window else None  # fresh rows of lower ids were looked at
    for row in sorted((each for each in rows if each.kind != "parked"), key=_in_turn):
        key = row.aggregate_key
        if row.kind == "by_id" and looked_to is not None and row.id > looked_to:
            continue  # one that was parked, say: fresh rows that were not looked at may have to go before it
        if row.kind != "by_id" and len(choice.rows) >= limit:
            no_room.setdefault(key, row.id)
            continue
        if row.kind != "by_id":
            choice.last[row.kind] = row
            choice.seen[row.kind] += 1
        if key in held.let_go_meanwhile:
            # An earlier row of it waited until just now, perhaps before this claim's cursor: it has to go first.
            choice.let_go = True
        elif held.blocks(key, row.id) or (one_per_aggregate and key in keys):
            held.later_event_seen.add(key)
        elif row.held_back:
            if held.state(row.id) is None:
                held.add(row.id, key, "type")
        elif row.kind == "by_id" or held.state(row.id) not in ("locked", "free"):  # those are tried by their ids
            choice.rows[row.id] = key
            keys.add(key)
    for row_id in [each for each, key in choice.rows.items() if no_room.get(key, each) < each]:
        del choice.rows[row_id]  # it was scheduled: fresh rows of lower ids go before it
    return choice


def _in_turn(row: Peeked) -> tuple[bool, bool, datetime, int]:
    """First what is tried by its id, then what was scheduled or retried (its share of the window), then fresh rows."""
    return (row.kind != "by_id", row.kind != "other", row.due_at or UNSCHEDULED, row.id)
