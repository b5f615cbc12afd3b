"""Replay: sent rows are put back to be published again, after a loss downstream of the stream.

What matches is found first, in one look, so that a person can say yes to a number. Only rows that are still as they
were found are put back: one that somebody else replayed or that somebody holds is skipped and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from dispatcher.core.errors import Misconfigured
from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession

BATCH = 1000

Moment = datetime | timedelta  # a point in time, or how long ago by Postgres's clock


@dataclass(frozen=True, slots=True)
class Selection:
    """Which sent rows. `since` is included, `until` is not; an empty sequence limits nothing."""

    since: Moment | None = None
    until: Moment | None = None
    event_types: Sequence[str] = ()
    aggregate_types: Sequence[str] = ()
    aggregate_ids: Sequence[str] = ()
    event_ids: Sequence[UUID] = ()

    @property
    def bounded(self) -> bool:
        """Whether it limits anything."""
        return self != Selection()


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that match, as they were at `at`. Times are in UTC, None when there is none."""

    ids: Sequence[int]
    oldest: datetime | None
    newest: datetime | None
    at: datetime


class ReplaySession(OperatorSession):
    """`async with Replay(target) as replay:` to find rows and to put them back."""

    verb = "replay"
    too_slow = "narrow the rows down with --since"

    def __init__(self, target: PostgresTarget) -> None:
        super().__init__(target)
        self.replayed = 0  # both written by put_back(), batch by batch
        self.skipped = 0

    async def find(self, selection: Selection) -> Found:
        """The sent rows that match."""
        with self.explained():
            [(now,)] = await self.session.fetch("SELECT clock_timestamp()")
            since, until = _moment(selection.since, now), _moment(selection.until, now)
            if since is not None and until is not None and since >= until:
                raise Misconfigured(f"nothing was sent since {since} and before {until}: the first must be earlier")
            [(at, oldest, newest, ids)] = await self.session.fetch(
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
        return Found(ids or (), _moment(oldest, at), _moment(newest, at), at.astimezone(UTC))

    async def put_back(self, found: Found, progress: Callable[[int], None]) -> None:
        """Set them back to pending, a batch a transaction. `progress` hears how many rows each batch was."""
        with self.explained():
            for start in range(0, len(found.ids), BATCH):
                batch = found.ids[start : start + BATCH]
                done = await self.session.fetch(load("replay"), {"ids": list(batch), "found_at": found.at, "now": None})
                self.replayed += len(done)
                self.skipped += len(batch) - len(done)
                progress(len(batch))


def _moment(moment: Moment | None, now: datetime) -> datetime | None:
    if isinstance(moment, timedelta):
        moment = now - moment
    return None if moment is None else moment.astimezone(UTC)
