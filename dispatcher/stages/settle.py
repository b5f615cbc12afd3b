"""Settle: write down what became of a claim's rows, and only of rows the claim still holds."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from dispatcher.core.outcome import Verdict
from dispatcher.infra.database import Session
from dispatcher.infra.sqlfiles import load


class Settlement(NamedTuple):
    """How many rows each statement changed, and the ids that were no longer ours."""

    sent: int
    retried: int
    dead: int
    returned: int
    lost: frozenset[int]


async def settle(session: Session, claim_id: str, verdict: Verdict, *, now: datetime | None = None) -> Settlement:
    """Write the verdict. Every statement is fenced by the claim's token and may safely be run again.

    Rows whose outcome is unknown are left as they are. Raises SessionLost: run it again on another session.
    """
    common: dict[str, object] = {"claim_id": claim_id, "now": now}
    sent = retried = dead = returned = frozenset[int]()
    if verdict.sent_ids:
        sent = await _run(session, "settle_sent", common, ids=verdict.sent_ids, stream_ids=verdict.stream_ids)
    if verdict.retries:
        retried = await _run(
            session,
            "settle_retry",
            common,
            ids=[row_id for row_id, _ in verdict.retries],
            delays=[retry.delay_s for _, retry in verdict.retries],
            errors=[retry.error for _, retry in verdict.retries],
        )
    if verdict.dead:
        dead = await _run(
            session,
            "settle_dead",
            common,
            ids=[row_id for row_id, _ in verdict.dead],
            errors=[outcome.error for _, outcome in verdict.dead],
        )
    if verdict.returned:
        returned = await release(session, [claim_id], verdict.returned)
    asked = {
        *verdict.sent_ids,
        *(row_id for row_id, _ in verdict.retries),
        *(row_id for row_id, _ in verdict.dead),
        *verdict.returned,
    }
    return Settlement(
        len(sent), len(retried), len(dead), len(returned), frozenset(asked - sent - retried - dead - returned)
    )


async def release(session: Session, claim_ids: Iterable[str], ids: list[int] | None = None) -> frozenset[int]:
    """Give rows of these claims back as they were: all of them, or those of `ids`. Returns the ids given back."""
    rows = await session.fetch(load("release"), {"claim_ids": list(claim_ids), "ids": ids})
    return frozenset(row_id for (row_id,) in rows)


async def _run(session: Session, statement: str, common: Mapping[str, object], **columns: object) -> frozenset[int]:
    rows = await session.fetch(load(statement), {**common, **columns})
    return frozenset(row_id for (row_id,) in rows)
