"""Replay: sent rows are put back to be published again, after a loss downstream of the stream.

One query finds the matching rows first, so that a person can confirm their number. Only rows that are unchanged since
then are put back: one that was replayed, deleted or locked by somebody else meanwhile is skipped and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from dispatcher.core.errors import Misconfigured
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession

Moment = datetime | timedelta  # a point in time, or how long ago by Postgres's clock


@dataclass(frozen=True, slots=True)
class Selection:
    """Which sent rows, by the time they were sent: since <= sent < until. An empty sequence limits nothing."""

    since: Moment | None = None
    until: Moment | None = None
    event_types: Sequence[str] = ()
    aggregate_types: Sequence[str] = ()
    aggregate_ids: Sequence[str] = ()
    event_ids: Sequence[UUID] = ()

    @property
    def bounded(self) -> bool:
        return self != Selection()


@dataclass(frozen=True, slots=True)
class Unsent:
    """A named event that is not replayed, and why. `coming`: it is published anyway."""

    event_id: UUID
    why: str
    coming: bool = False


@dataclass(frozen=True, slots=True)
class MatchingRows:
    """The ids of the rows that match, as they were at `at`. Times are in UTC; None when no row matches.

    `marks`: one a row; another mark says that the row was sent again since. `unsent`: the named events without a match.
    """

    ids: Sequence[int]
    marks: Sequence[int]
    oldest: datetime | None
    newest: datetime | None
    at: datetime
    event_ids: Sequence[UUID] = ()  # one a row, if the selection named some
    unsent: Sequence[Unsent] = ()


class ReplaySession(OperatorSession):
    """`async with ReplaySession(target) as replay:` to find rows and to put them back."""

    def __init__(self, target: PostgresTarget) -> None:
        super().__init__(target, "replay", "narrow the rows down with --since")
        self.replayed = 0  # both written by put_back(), batch by batch
        self.skipped_ids: list[int] = []

    @property
    def skipped(self) -> int:
        return len(self.skipped_ids)

    async def find(self, selection: Selection) -> MatchingRows:
        """The sent rows that match. Raises DispatcherError, Misconfigured for a time range that is empty."""
        with self.explained():
            [(now,)] = await self.session.fetch("SELECT clock_timestamp()")
            since, until = _moment(selection.since, now), _moment(selection.until, now)
            if since is not None and until is not None and since >= until:
                raise Misconfigured(f"--since ({iso(since)}) must be earlier than --until ({iso(until)})")
            [(at, oldest, newest, ids, marks, event_ids)] = await self.session.fetch(
                load("replay_find"),
                {
                    "since": since,
                    "until": until,
                    "event_types": list(selection.event_types) or None,
                    "aggregate_types": list(selection.aggregate_types) or None,
                    "aggregate_ids": list(selection.aggregate_ids) or None,
                    "event_ids": list(selection.event_ids) or None,
                },
            )
            missing = sorted(set(selection.event_ids) - set(event_ids or ()))
            became = await self.session.fetch(load("replay_unsent"), {"event_ids": missing}) if missing else []
        unsent = [_unsent(*row) for row in became]
        first, last, now = _moment(oldest, at), _moment(newest, at), at.astimezone(UTC)
        return MatchingRows(ids or (), marks or (), first, last, now, event_ids or (), unsent)

    async def put_back(self, found: MatchingRows, progress: Callable[[int], None], *, batch_rows: int = 1000) -> None:
        """Set the rows back to pending, a batch a transaction. `progress` gets the number of rows of each batch."""
        with self.explained():
            for start in range(0, len(found.ids), batch_rows):
                batch = found.ids[start : start + batch_rows]
                marks = found.marks[start : start + batch_rows]
                parameters = {"ids": list(batch), "marks": list(marks), "now": None}
                done = await self.session.fetch(load("replay"), parameters)
                self.replayed += len(done)
                self.skipped_ids += set(batch).difference(row_id for (row_id,) in done)
                progress(len(batch))


def _unsent(event_id: UUID, status: str | None, dead_letter: bool) -> Unsent:
    if status in ("pending", "picked", "retry"):
        return Unsent(event_id, f"its row is '{status}': it is published anyway", coming=True)
    if status == "sent":
        return Unsent(event_id, "it was sent, but does not match the other options")
    if status == "dead" or dead_letter:
        return Unsent(event_id, f"it is dead: `dispatcher dlq retry {event_id}` publishes it")
    return Unsent(event_id, "there is no row of it: it was pruned (OUTBOX_RETENTION_DAYS), or is not of this outbox")


def _moment(moment: Moment | None, now: datetime) -> datetime | None:
    if isinstance(moment, timedelta):
        moment = now - moment
    return None if moment is None else moment.astimezone(UTC)
