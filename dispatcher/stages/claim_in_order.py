"""The claim in order: of slots that we own, and of no aggregate of which an earlier row is skipped.

There are two ways. Without a peek, claim.sql claims at once, and is refused where somebody has locked a row, rather
than take the row behind it. By peek: peek.sql reads the rows, whoever knows what is held chooses some, and
claim_chosen.sql claims these. What that costs does not grow with what is held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

import psycopg

from dispatcher.core.row import Batch, HandlerMark
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import EventTypeFilter, IndexKey, batch_of, fetch_claimed

_COLUMNS = 14  # of ClaimedRow


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What one claim asks for. `mask`: the slots on the wire, None: all; `owned`: how many; `slot_epochs`: the
    sum of their epochs.

    `fresh_limit`: of `limit` rows at most so many that nobody scheduled. `parked`: rows that are known to be parked;
    `running`: transactions that must not be over. `by_id`: rows that are tried by their ids, wherever they lie.
    `waiting_types`: event types that are looked at, and not to be claimed. The others: see `claim`.
    """

    dispatcher: int | None
    limit: int
    fresh_limit: int
    fresh_after: IndexKey
    after: IndexKey
    floor: str | None
    mask: str | None
    owned: int
    slot_epochs: int
    layout: str
    most_bytes: int
    mark: HandlerMark | None = None
    event_types: EventTypeFilter | None = None
    running: Sequence[str] = ()
    parked: Sequence[int] = ()
    by_id: Sequence[int] = ()
    waiting_types: Sequence[str] = ()

    def parameters(self) -> dict[str, object]:
        """As the statements take them."""
        parameters: dict[str, object] = {
            "dispatcher": self.dispatcher,
            "limit": self.limit,
            "fresh": self.fresh_limit,
            "fresh_time": self.fresh_after.after_time,
            "fresh_id": self.fresh_after.after_id,
            "after_time": self.after.after_time,
            "after_id": self.after.after_id,
            "floor": self.floor,
            "mark": self.mark,
            "mask": self.mask,
            "owned": self.owned,
            "epochs": self.slot_epochs,
            "layout": self.layout,
            "running": list(self.running),
            "parked": list(self.parked),
            "waiting_types": list(self.waiting_types),
            "most_bytes": self.most_bytes,
            "now": None,
            "since_s": None,
        }
        if self.event_types is not None:
            parameters |= self.event_types.parameters()
        return parameters


class Peeked(NamedTuple):
    """A row that was looked at. `kind`: fresh, scheduled, parked or by_id; `due_at`: naive, UTC; None: parked.

    `type_waits`: no event of its type may be claimed now.
    """

    id: int
    aggregate_key: int
    kind: str
    due_at: datetime | None
    type_waits: bool


async def claim_without_peek(session: Session, claim_id: str, wanted: ClaimRequest) -> tuple[Batch, bool] | None:
    """Claim rows in the order of their ids, and say whether others are parked. None: somebody has locked a row.

    Raises as `claim` does.
    """
    filtered = wanted.event_types is not None
    statement = load("claim", split=True, sharded=True, ordered=True, filtered=filtered)
    try:
        return await _claimed(session, claim_id, statement, wanted.parameters(), wanted)
    except psycopg.errors.LockNotAvailable:
        return None


async def peek(session: Session, wanted: ClaimRequest) -> list[Peeked]:
    """Look at what might be claimed, in order. Raises SessionLost or psycopg.Error."""
    statement = load("peek", ordered=True, filtered=wanted.event_types is not None)
    rows = await session.fetch(statement, wanted.parameters() | {"by_id": list(wanted.by_id)})
    return [Peeked(*row) for row in rows]


async def claim_chosen(session: Session, claim_id: str, wanted: ClaimRequest, ids: list[int]) -> Batch:
    """Claim these rows. One that is missing is locked or not due any more; all are, if the claim was refused.

    Raises as `claim` does.
    """
    statement = load("claim_chosen", sharded=True, ordered=True)
    return (await _claimed(session, claim_id, statement, wanted.parameters() | {"ids": ids}, wanted))[0]


async def _claimed(
    session: Session, claim_id: str, statement: str, parameters: dict[str, Any], wanted: ClaimRequest
) -> tuple[Batch, bool]:
    parameters["claim_id"] = claim_id
    rows = await fetch_claimed(session, statement, parameters, wanted.most_bytes)
    keys = {row[0]: row[_COLUMNS] for row in rows if row[0] is not None}
    parked = bool(rows) and rows[0][_COLUMNS + 1]
    batch = await batch_of(
        session, claim_id, [row[:_COLUMNS] for row in rows], wanted.floor, wanted.most_bytes, sort_by_id=True
    )
    return batch._replace(aggregate_keys=keys), parked


def none_claimed(claim_id: str, floor: str | None) -> Batch:
    """A batch without rows."""
    return Batch(claim_id, [], floor or "0-0", monotonic())
