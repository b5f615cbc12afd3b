"""Settle: write down what became of a claim's rows, and only of rows the claim still holds."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import psycopg

from dispatcher.core.errors import StreamMoved
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

ANOTHER_RUN = "DS001"  # raised by messaging.holds_stream
NOWHERE: Mapping[str, object] = {"stream": None, "run_id": None, "replid": None}  # not in a stream: any run will do


class Settlement(NamedTuple):
    """How many rows each statement changed, and the ids that were no longer ours."""

    sent: int
    retried: int
    dead: int
    returned: int
    lost: frozenset[int]


async def settle(session: Session, claim_id: str, verdict: BatchOutcomes, *, now: datetime | None = None) -> Settlement:
    """Write the verdict. Every statement is fenced by the claim's token and may safely be run again.

    Rows whose outcome is unknown are left as they are. Raises SessionLost: run it again on another session; and
    StreamMoved: look for the entries of the rows to be settled as sent, which another run of Redis may have lost.
    """
    common: dict[str, object] = {"claim_id": claim_id, "now": now}
    sent = retried = dead = returned = frozenset[int]()
    if verdict.sent_ids:
        try:
            sent = await _run(
                session,
                "settle_sent",
                {**common, **_server(verdict)},
                ids=verdict.sent_ids,
                stream_ids=verdict.stream_ids,
            )
        except psycopg.Error as error:
            if error.sqlstate == ANOTHER_RUN:
                raise StreamMoved("another run of Redis holds the stream now") from None
            raise
    if verdict.done_ids:
        nowhere = {**common, **NOWHERE}
        ids = verdict.done_ids
        sent |= await _run(session, "settle_sent", nowhere, ids=ids, stream_ids=[None] * len(ids))
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
        *verdict.done_ids,
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


def _server(verdict: BatchOutcomes) -> Mapping[str, object]:
    server = verdict.server
    if server is None or not server.known:
        return NOWHERE
    return {"stream": server.stream, "run_id": server.run_id, "replid": server.replid}


async def _run(session: Session, statement: str, common: Mapping[str, object], **columns: object) -> frozenset[int]:
    rows = await session.fetch(load(statement), {**common, **columns})
    return frozenset(row_id for (row_id,) in rows)
