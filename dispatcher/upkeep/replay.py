"""Replay: sent rows are put back to be published again, after a loss downstream of the stream.

What matches is found first, in one look, so that a person can say yes to a number. Only rows that are still as they
were found are put back: one that somebody else replayed or that somebody holds is skipped and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.database import Session, Target, connect, describe
from dispatcher.infra.migrations import missing
from dispatcher.infra.sqlfiles import load

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


class Replay:
    """`async with Replay(target) as replay:` a session to find rows and to put them back. All raise DispatcherError."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: Session | None = None  # written by __aenter__()
        self.replayed = 0  # both written by put_back(), batch by batch
        self.skipped = 0

    async def __aenter__(self) -> Self:
        self._session = session = await connect(self._target, "replay")
        try:
            with self._explained():
                if gone := await missing(session):
                    raise Misconfigured(
                        f"Postgres at {self._target.address()} lacks {', '.join(gone)}: run `dispatcher migrate` first"
                    )
                if not session.pooled:
                    # The relay's sessions avoid both, and do not wait for the disk; here a person waits.
                    await session.script("SET enable_seqscan = on; SET enable_sort = on; SET synchronous_commit = on")
        except BaseException:
            await session.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def find(self, selection: Selection) -> Found:
        """The sent rows that match."""
        with self._explained():
            [(now,)] = await self._opened().fetch("SELECT clock_timestamp()")
            since, until = _moment(selection.since, now), _moment(selection.until, now)
            if since is not None and until is not None and since >= until:
                raise Misconfigured(f"nothing was sent since {since} and before {until}: the first must be earlier")
            [(at, oldest, newest, ids)] = await self._opened().fetch(
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
        with self._explained():
            for start in range(0, len(found.ids), BATCH):
                batch = found.ids[start : start + BATCH]
                done = await self._opened().fetch(
                    load("replay"), {"ids": list(batch), "found_at": found.at, "now": None}
                )
                self.replayed += len(done)
                self.skipped += len(batch) - len(done)
                progress(len(batch))

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("the replay was not opened")
        return self._session

    @contextmanager
    def _explained(self) -> Iterator[None]:
        where = f"Postgres at {self._target.address()}"
        try:
            yield
        except SessionLost as error:
            raise Unreachable(f"the connection to {where} broke ({error})") from None
        except psycopg.errors.InsufficientPrivilege:
            raise Misconfigured(
                f"{where}: this role may not replay; grant it the role outbox_dispatcher (sql/roles.sql)"
            ) from None
        except psycopg.errors.QueryCanceled:
            raise DispatcherError(
                f"{where} took longer than {self._target.query_timeout_s:g} s; narrow the rows down with --since"
            ) from None
        except psycopg.Error as error:
            raise DispatcherError(f"{where} refused: {describe(error)}") from None


def _moment(moment: Moment | None, now: datetime) -> datetime | None:
    if isinstance(moment, timedelta):
        moment = now - moment
    return None if moment is None else moment.astimezone(UTC)
