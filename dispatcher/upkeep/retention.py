"""Retention: what was settled long ago is deleted, beside the relay and never in its way.

One dispatcher at a time, under the lock of the prune procedures, deletes a small batch a few times a second. It walks
the primary key from the lowest id on: ids grow with time, so the walk ends at the first window whose rows are mostly
recent, and an idle run reads one window however large the table is. What the walk passed by, because it was not
settled or was sent again lately, is found by the next walk from the start.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

import psycopg

from dispatcher.core.errors import DispatcherError
from dispatcher.core.events import Observer, Pruned, PruneRefused
from dispatcher.core.pacing import rest_after
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import repeat

_DAY_S = 86_400.0
_LOWEST_ID = -(2**63)


@dataclass(frozen=True, slots=True)
class RetentionPace:
    """How much retention reads at a time, and how often. `..._s`: seconds."""

    window: int = 1000  # rows that one statement reads, and deletes at most
    slow_s: float = 0.2  # a batch that takes longer (large payloads, a slow disk) halves the next one
    pause_s: float = 0.25  # between batches while there is more to delete
    every_s: float = 60.0  # between runs when there is not
    walk_again_s: float = 3600.0  # from the lowest id again, at most this often ...
    rest: float = 20.0  # ... and after walking past rows for t seconds in vain, no sooner than 20 t later


PACE = RetentionPace()


class Retention:
    """Deletes settled rows and dead-letter copies that are old enough, a batch a run."""

    def __init__(self, *, outbox_days: int, dlq_days: int, observe: Observer, pace: RetentionPace = PACE) -> None:
        self._pace = pace
        self._outbox_s = outbox_days * _DAY_S
        self._dlq_s = dlq_days * _DAY_S
        self._observe = observe
        self._refused: str | None = None  # what was reported last; written by run()
        # The walk; written by delete_batch() and run().
        self._after = _LOWEST_ID  # the last id passed
        self._in_vain = 0  # windows passed without deleting a row
        self._began_at = monotonic()
        self._window = pace.window

    async def delete_batch(self, session: Session, *, now: datetime | None = None) -> bool:
        """Delete one batch of each table. True: there is probably more.

        Raises SessionLost or psycopg.Error; then nothing was deleted, or the next run finds out what was.
        """
        window, began = self._window, monotonic()
        clocks = {"ours": datetime.now(UTC), "now": now}
        try:
            [(ours, rows, seen, last_id, recent, _)] = await session.fetch(
                load("prune_outbox"),
                {"after_id": self._after, "window": window, "older_than_s": self._outbox_s, **clocks},
            )
        finally:
            slow = monotonic() - began > self._pace.slow_s
            self._window = max(window // 2, 1) if slow else min(window * 2, self._pace.window)
        onward = seen == window and recent * 2 <= seen
        if onward:
            self._after = last_id
            self._in_vain += not rows
        copies = forgotten = 0
        if ours:
            [(copies, forgotten)] = await session.fetch(
                load("prune_dlq"), {"batch": window, "older_than_s": self._dlq_s, **clocks}
            )
        more = onward or window in (copies, forgotten)
        self._observe(Pruned(rows, copies, more))
        return more

    async def run(self, postgres: ReconnectingSession) -> None:
        """Delete until cancelled, several times a second while there is something to delete, else once a minute."""
        await repeat(postgres, self._delete, failed=self._tell_refused, pause_s=self._pace.every_s)

    async def _delete(self, session: Session) -> float:
        self._walk_again()
        more = await self.delete_batch(session)
        self._refused = None
        return self._pace.pause_s if more else self._pace.every_s

    def _walk_again(self) -> None:
        """Go back to the lowest id when it is time to."""
        now = monotonic()
        if now - self._began_at >= rest_after(
            self._pace.pause_s * self._in_vain, self._pace.rest, at_least_s=self._pace.walk_again_s
        ):
            self._after, self._in_vain, self._began_at = _LOWEST_ID, 0, now

    def _tell_refused(self, error: DispatcherError | psycopg.Error) -> None:
        reason = describe(error)
        if reason != self._refused:
            self._refused = reason
            self._observe(PruneRefused(reason))
