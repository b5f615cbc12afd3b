"""Claim: take due rows, in order, with a fencing token of this one claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from time import monotonic
from uuid import uuid4

from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.database import Session
from dispatcher.infra.sqlfiles import load

_order = itemgetter(1, 0)  # (next_run_at, id)


@dataclass(frozen=True, slots=True)
class Keyset:
    """Claim only after this key: in a backlog the index entries before it are dead and need not be walked again."""

    after_time: datetime | str  # naive, UTC
    after_id: int


@dataclass(frozen=True, slots=True)
class Share:
    """Which event types a claim takes, when some have handlers: these only, or all but these."""

    types: Sequence[str]
    handled: bool


FROM_THE_START = Keyset("-infinity", 0)


def new_claim_id() -> str:
    """A fencing token. Made by the client, so that a claim whose answer was lost can still be named."""
    return str(uuid4())


async def claim(
    session: Session,
    *,
    claim_id: str,
    dispatcher: int | None,
    limit: int,
    slots: int = 256,
    after: Keyset = FROM_THE_START,
    floor: str | None = "0-0",
    share: Share | None = None,
    since_s: float | None = None,
    now: datetime | None = None,
) -> Batch:
    """Take up to `limit` due rows of the first `slots` of 256 slots.

    `floor` is the newest stream id known now: whoever takes these rows over looks for them after it; None: they do not
    go to the stream. `share`: some event types only, and then `since_s`: only what fell due in the last so many
    seconds. Raises SessionLost: the claim may have been made.
    """
    parameters: dict[str, object] = {
        "claim_id": claim_id,
        "dispatcher": dispatcher,
        "limit": limit,
        "slots": slots,
        "after_time": after.after_time,
        "after_id": after.after_id,
        "floor": floor,
        "now": now,
    }
    if share is None:
        rows = await session.fetch(load("claim"), parameters)
    else:
        parameters |= {"types": list(share.types), "handled": share.handled, "since_s": since_s}
        rows = await session.fetch(load("claim_share"), parameters)
    rows.sort(key=_order)
    return Batch(claim_id, [ClaimedRow._make(row) for row in rows], floor or "0-0", monotonic())


def last_key(batch: Batch) -> Keyset:
    """The key of the batch's last row: where the next claim of a backlog begins."""
    row = batch.rows[-1]
    return Keyset(row.next_run_at, row.id)
