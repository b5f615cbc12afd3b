"""Which of the rows that were peeked at a claim takes: those that wait for no other. No I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dispatcher.core.held import Held, HoldReason
from dispatcher.core.row import UNSCHEDULED
from dispatcher.relay.order.cursor import Scan, fresh_key
from dispatcher.stages.claim import IndexKey
from dispatcher.stages.claim_in_order import Peeked


@dataclass(slots=True)
class Choice:
    """What a claim by peek (claimer.py) takes. `rows`: the keys of their aggregates, by id; `scan`: how far it went.

    `earlier_first`: of one aggregate an earlier row was held until just now, and has to be claimed first.
    """

    rows: dict[int, int]
    scan: Scan
    earlier_first: bool


def choose(
    rows: Sequence[Peeked], held: Held, limit: int, *, window: int, fresh_window: int, one_per_aggregate: bool
) -> Choice:
    """Up to `limit` of these rows. Those that are tried by their ids come first, and count.

    The peek asked for `window` rows, of which at most `fresh_window` fresh. Notes in `held` of which aggregates a later
    event was seen, and what has to wait because of its type.
    """
    chosen, keys, earlier_first = dict[int, int](), set[int](), False
    last, done = dict[str, IndexKey](), Counter[str]()  # by kind, fresh and scheduled: the last one judged; how many
    no_room = dict[int, int]()  # by key of an aggregate: its first row that finds no room
    fresh = [row.id for row in rows if row.kind == "fresh"]
    read_to = max(fresh) if len(fresh) >= fresh_window and fresh else None  # all fresh rows of lower ids were read
    for row in sorted((each for each in rows if each.kind != "parked"), key=_in_turn):
        key = row.aggregate_key
        if row.kind == "by_id" and read_to is not None and row.id > read_to:
            continue  # one that was parked, say: fresh rows that were not read may have to go before it
        if row.kind != "by_id" and len(chosen) >= limit:
            no_room.setdefault(key, row.id)
            continue
        if row.kind != "by_id":
            last[row.kind] = fresh_key(row.id) if row.kind == "fresh" else IndexKey(row.due_at or UNSCHEDULED, row.id)
            done[row.kind] += 1
        if key in held.holds_ended:
            # An earlier row of it waited until just now, perhaps before this claim's cursor: it has to go first.
            earlier_first = True
        elif held.blocks(key, row.id) or (one_per_aggregate and key in keys):
            held.later_event_seen.add(key)
        elif row.type_waits:
            if held.reason(row.id) is None:
                held.add(row.id, key, HoldReason.TYPE_WAITS)
        elif row.kind == "by_id" or held.reason(row.id) not in (HoldReason.LOCKED, HoldReason.CLAIMABLE):
            chosen[row.id] = key  # those that were locked or are claimable again come by their ids
            keys.add(key)
    for row_id in [each for each, key in chosen.items() if no_room.get(key, each) < each]:
        del chosen[row_id]  # it was scheduled: fresh rows of lower ids go before it
    scan = Scan(
        limit=window,
        fresh_limit=fresh_window,
        fresh=len(fresh),
        scheduled=sum(row.kind == "scheduled" for row in rows),
        done_fresh=done["fresh"],
        done_scheduled=done["scheduled"],
        last_fresh=last.get("fresh"),
        last_scheduled=last.get("scheduled"),
    )
    return Choice(chosen, scan, earlier_first)


def _in_turn(row: Peeked) -> tuple[bool, bool, datetime, int]:
    """First what is tried by its id, then scheduled rows (their part of the window), then fresh rows."""
    return (row.kind != "by_id", row.kind != "scheduled", row.due_at or UNSCHEDULED, row.id)
