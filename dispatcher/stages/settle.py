"""Settle: write what became of the rows of a claim, and only of rows that still bear its claim id."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from dispatcher.core.decide import MAX_ERROR_CHARS
from dispatcher.core.errors import IncarnationChanged
from dispatcher.core.incarnation import ANOTHER_INCARNATION, RedisIncarnation
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Waits
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

# Which incarnation has to hold the stream for a row to be settled as sent: any; and the same for several streams.
ANY_INCARNATION: Mapping[str, object] = {"stream": None, "run_id": None, "replid": None, "life": None}
ANY_INCARNATIONS: Mapping[str, object] = {"streams": None, "run_ids": None, "replids": None, "lives": None}


class Settlement(NamedTuple):
    """How many rows each statement changed, and which rows no statement changed.

    `retried`: rows that are retried and lost an attempt; `waiting`: rows that are retried and lost none.
    `not_ours`: ids of rows that another dispatcher had taken over, or an earlier try settled. `undone`: ids of rows
    that bear our claim as before, though the statement raised no error: a trigger undid it.
    """

    sent: int
    retried: int
    dead: int
    released: int
    not_ours: frozenset[int]
    undone: frozenset[int] = frozenset()
    waiting: int = 0

    @property
    def wrote_nothing(self) -> bool:
        """Whether no row was settled."""
        return not (self.sent or self.retried or self.waiting or self.dead or self.released)


async def settle(
    session: Session,
    claim_id: str,
    outcomes: BatchOutcomes,
    *,
    incarnations: Sequence[RedisIncarnation] | None = None,
    now: datetime | None = None,
) -> Settlement:
    """Write the outcomes. Every statement is fenced by the claim id and may safely be run again.

    `incarnations`: the incarnations of Redis that hold the entries of the sent rows, one for each sink;
    None: the incarnation that the outcomes name. Rows whose outcome is unknown are left as they are.

    Raises SessionLost: settle again on another session. Raises IncarnationChanged: another incarnation of Redis holds
    the stream now and may have lost entries, so search the stream for the entries of the sent rows.
    """
    common: dict[str, object] = {"claim_id": claim_id, "now": now}
    sent = retried = dead = released = frozenset[int]()
    if outcomes.sent_ids:
        try:
            sent = await _settle_sent(session, common, outcomes, incarnations)
        except psycopg.Error as error:
            if error.sqlstate == ANOTHER_INCARNATION:
                raise IncarnationChanged("another incarnation of Redis holds the stream now") from None
            raise
    if outcomes.done_ids:
        anywhere = {**common, **ANY_INCARNATION}
        ids = outcomes.done_ids
        sent |= await _run(session, "settle_sent", anywhere, ids=ids, stream_ids=[None] * len(ids))
    if outcomes.retries:
        retried = await _run_with_errors(
            session,
            "settle_retry",
            common,
            outcomes.retries,
            delays=[retry.delay_s for _, retry in outcomes.retries],
            costs=[0 if isinstance(retry, Waits) else 1 for _, retry in outcomes.retries],
        )
    if outcomes.dead:
        dead = await _run_with_errors(session, "settle_dead", common, outcomes.dead)
    if outcomes.released:
        released = await release(session, [claim_id], outcomes.released)
    unchanged = frozenset(outcomes.known_ids() - sent - retried - dead - released)
    undone = await _still_ours(session, claim_id, unchanged) if unchanged else unchanged
    waiting = sum(isinstance(retry, Waits) and row_id in retried for row_id, retry in outcomes.retries)
    costs = len(retried) - waiting
    return Settlement(len(sent), costs, len(dead), len(released), unchanged - undone, undone, waiting)


async def _still_ours(session: Session, claim_id: str, ids: frozenset[int]) -> frozenset[int]:
    """The ids of the rows that bear the claim as before. Renews the leases of these rows."""
    parameters = {"ids": list(ids), "claim_ids": [claim_id] * len(ids), "floor": None}
    return frozenset(row_id for row_id, _ in await session.fetch(load("renew_claims"), parameters))


async def release(session: Session, claim_ids: Iterable[str], ids: list[int] | None = None) -> frozenset[int]:
    """Release the rows of these claims; with `ids`, only these rows. Returns the ids of the rows that were released."""
    rows = await session.fetch(load("release"), {"claim_ids": list(claim_ids), "ids": ids})
    return frozenset(row_id for (row_id,) in rows)


async def _settle_sent(
    session: Session,
    common: Mapping[str, object],
    outcomes: BatchOutcomes,
    incarnations: Sequence[RedisIncarnation] | None,
) -> frozenset[int]:
    columns: dict[str, object] = {"ids": outcomes.sent_ids, "stream_ids": outcomes.stream_ids}
    if incarnations is None:
        incarnations = [outcomes.incarnation] if outcomes.incarnation is not None else []
    known = [each for each in incarnations if each.known]
    if not outcomes.streams:
        required = ANY_INCARNATION
        for each in known:
            [(stream, life)] = each.lives
            required = {"stream": stream, "run_id": each.run_id, "replid": each.replid, "life": life}
        return await _run(session, "settle_sent", {**common, **required}, **columns)
    keys = [outcomes.streams[row_id] for row_id in outcomes.sent_ids]
    required = ANY_INCARNATIONS
    if known:
        lives = [(each, *life) for each in known for life in each.lives_of(keys)]
        required = {
            "streams": [stream for _, stream, _ in lives],
            "run_ids": [each.run_id for each, _, _ in lives],
            "replids": [each.replid for each, _, _ in lives],
            "lives": [life for *_, life in lives],
        }
    rows = await session.fetch(load("settle_sent", sharded=True), {**common, **required, **columns, "keys": keys})
    return frozenset(row_id for (row_id,) in rows if row_id is not None)


async def _run(session: Session, statement: str, common: Mapping[str, object], **columns: object) -> frozenset[int]:
    rows = await session.fetch(load(statement), {**common, **columns})
    return frozenset(row_id for (row_id,) in rows if row_id is not None)


async def _run_with_errors(
    session: Session,
    statement: str,
    common: Mapping[str, object],
    outcomes: Sequence[tuple[int, FailedAttempt | Waits | FailedForGood]],
    **columns: object,
) -> frozenset[int]:
    columns["ids"] = [row_id for row_id, _ in outcomes]
    errors: list[str | None] = [outcome.error for _, outcome in outcomes]
    places = [None if isinstance(outcome, Waits) else outcome.place for _, outcome in outcomes]
    try:
        return await _run(session, statement, common, **columns, errors=errors, places=places)
    except psycopg.errors.UntranslatableCharacter:  # the encoding of the database lacks a character of an error
        errors, places = [[_in_ascii(each) for each in texts] for texts in (errors, places)]
        return await _run(session, statement, common, **columns, errors=errors, places=places)


def _in_ascii(text: str | None) -> str | None:
    return None if text is None else text.encode("ascii", "backslashreplace").decode()[:MAX_ERROR_CHARS]
