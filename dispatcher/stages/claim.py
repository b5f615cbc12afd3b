"""The claim: marks due rows as ours, in order, with a claim id that no other claim has."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from time import monotonic
from typing import Any
from uuid import uuid4

import psycopg

from dispatcher.core.row import NOT_READ, Batch, ClaimedRow, HandlerMark
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.settle import release

ONE_BY_ONE_S = 2.0  # for reading rows one by one: each that cannot be read takes a second, and the lease runs
ANY_SIZE = 2**30

_PAYLOAD = ClaimedRow._fields.index("payload")  # headers follow
_order = itemgetter(1, 0)  # (next_run_at, id)


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """Claim only rows after this key: in a backlog the index entries before it are dead, and cost time."""

    after_time: datetime | str  # naive, UTC
    after_id: int


@dataclass(frozen=True, slots=True)
class EventTypeFilter:
    """Which event types a claim takes, when some have handlers: these only, or all but these."""

    types: Sequence[str]
    only_these: bool


FROM_THE_START = ClaimKey("-infinity", 0)


def new_claim_id() -> str:
    """A new fencing token. It is made here and not in Postgres, so that a claim whose answer was lost can be named."""
    return str(uuid4())


async def claim(
    session: Session,
    *,
    claim_id: str,
    dispatcher: int | None,
    limit: int,
    fresh_limit: int | None = None,
    slots: int = 256,
    after: ClaimKey = FROM_THE_START,
    fresh_after: ClaimKey = FROM_THE_START,
    floor: str | None = "0-0",
    mark: HandlerMark | None = None,
    event_types: EventTypeFilter | None = None,
    since_s: float | None = None,
    most_bytes: int = ANY_SIZE,
    now: datetime | None = None,
) -> Batch:
    """Take up to `limit` due rows of the first `slots` of 256 slots: first fresh ones, then others.

    `fresh_limit`: of these at most so many that nobody scheduled, after the cursor `fresh_after`, while `after` is the
    cursor of the others; None: `after` is the cursor of all. `floor`: the newest entry id known now, after which a
    takeover searches for these rows; None: they do not go to the stream, and `mark` says whether their handlers begin
    at once. `event_types`: only these rows, and with `since_s` of the others only those that fell due in the last so
    many seconds. A payload of more than `most_bytes` of JSON stays in Postgres (NOT_READ). `now`: instead of
    Postgres's clock.
    Raises SessionLost (the claim may have been made) or psycopg.Error (it was not made, or was released).
    """
    parameters: dict[str, object] = {
        "claim_id": claim_id,
        "dispatcher": dispatcher,
        "limit": limit,
        "slots": slots,
        "after_time": after.after_time,
        "after_id": after.after_id,
        "floor": floor,
        "mark": mark,
        "now": now,
    }
    split = fresh_limit is not None
    statement = load("claim", filtered=event_types is not None, split=split)
    if split:
        parameters |= {
            "fresh": fresh_limit,
            "fresh_time": fresh_after.after_time,
            "fresh_id": fresh_after.after_id,
        }
    if event_types is not None:
        parameters |= {"types": list(event_types.types), "handled": event_types.only_these, "since_s": since_s}
    try:
        rows = await session.fetch(statement, parameters | {"most_bytes": most_bytes})
        claimed_at = monotonic()
    except psycopg.errors.ProgramLimitExceeded:  # one row is too large to be read, and would stop all others for ever
        rows = await session.fetch(statement, parameters | {"most_bytes": None})
        claimed_at = monotonic()
        rows.sort(key=_order)
        rows = await _read_one_by_one(session, claim_id, rows, most_bytes)
    rows.sort(key=_order)
    return Batch(claim_id, [ClaimedRow._make(row) for row in rows], floor or "0-0", claimed_at)


async def _read_one_by_one(
    session: Session, claim_id: str, rows: list[tuple[Any, ...]], most_bytes: int
) -> list[tuple[Any, ...]]:
    """The rows that could be read in time, and those that never can be; the others are released."""
    began, read, left = monotonic(), list[tuple[Any, ...]](), deque(rows)
    try:
        while left and (not read or monotonic() - began < ONE_BY_ONE_S):
            row = left.popleft()
            try:
                found = await session.fetch(load("read_row"), {"id": row[0], "most_bytes": most_bytes})
            except psycopg.errors.ProgramLimitExceeded:
                found = [(NOT_READ, None)]
            if found:
                read.append((*row[:_PAYLOAD], *found[0], *row[_PAYLOAD + 2 :]))
    except psycopg.Error:
        await release(session, [claim_id])
        raise
    if left:
        await release(session, [claim_id], [row[0] for row in left])
    return read


def last_key(batch: Batch) -> ClaimKey:
    """The key of the batch's last row: where the next claim of a backlog begins."""
    row = batch.rows[-1]
    return ClaimKey(row.next_run_at, row.id)
