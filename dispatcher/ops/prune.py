"""Prune on request: deletes everything past its retention, in small batches beside running dispatchers.

Walks the whole outbox once, where retention stops at the first rows that are mostly recent. Retention, the prune
procedures and this take turns: only the holder of one advisory lock deletes, and it lets the lock go after each batch.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession

SLOW_S = 0.2  # a batch that takes longer halves the next one
POLL_S = 0.05  # between two attempts to get the lock


class PruneSession(OperatorSession):
    """`async with PruneSession(target, ...) as prune:` ages in seconds; None: leave that table alone.

    `batch`: rows looked at, and at most deleted, in one statement. `lock_wait_s`: how long somebody else may prune.
    """

    def __init__(
        self,
        target: PostgresTarget,
        *,
        outbox_s: float | None,
        dlq_s: float | None,
        batch: int = 1000,
        lock_wait_s: float = 60.0,
    ) -> None:
        super().__init__(target, "prune")
        self._outbox_s = outbox_s
        self._dlq_s = dlq_s
        self._batch = batch
        self._lock_wait_s = lock_wait_s
        self.rows = 0  # deleted; both written by run(), batch by batch
        self.copies = 0
        self.held = 0  # dead rows left, for they hold the later events of their aggregates

    async def count(self) -> tuple[int, int, int]:
        """How many rows and dead-letter copies are too old now, and how many dead rows as old are left."""
        never = 36_500 * 86_400.0
        ages = {
            "outbox_s": never if self._outbox_s is None else self._outbox_s,
            "dlq_s": never if self._dlq_s is None else self._dlq_s,
        }
        with self.explained():
            [found] = await self.session.fetch(load("prune_count"), ages | {"ours": datetime.now(UTC)})
        rows, copies, held = found
        return rows, copies, held

    async def run(self, progress: Callable[[float], None]) -> None:
        """Delete. `progress` gets the share of the outbox that was walked, 0 to 1. Raises DispatcherError."""
        with self.explained():
            if self._outbox_s is not None:
                await self._walk(self._outbox_s, progress)
            if self._dlq_s is not None:
                await self._delete_copies(self._dlq_s)

    async def _walk(self, age_s: float, progress: Callable[[float], None]) -> None:
        [(lowest, highest)] = await self.session.fetch(load("prune_bounds"))
        after, window = (lowest or 0) - 1, self._batch
        while highest is not None and after < highest:
            began = monotonic()
            parameters: dict[str, object] = {"after_id": after, "window": window, "older_than_s": age_s}
            [(_, rows, seen, last_id, _, held)] = await self._in_turn("prune_outbox", parameters)
            slow = monotonic() - began > SLOW_S
            window = max(window // 2, 1) if slow else min(window * 2, self._batch)
            self.rows += rows
            self.held += held
            if not seen:
                break
            after = last_id
            progress(min(1.0, (after - lowest + 1) / (highest - lowest + 1)))

    async def _delete_copies(self, age_s: float) -> None:
        while True:
            parameters: dict[str, object] = {"batch": self._batch, "older_than_s": age_s}
            [(copies, forgotten)] = await self._in_turn("prune_dlq", parameters)
            self.copies += copies
            if max(copies, forgotten) < self._batch:
                return

    async def _in_turn(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Run a statement under the lock, as soon as nobody else holds it."""
        deadline = monotonic() + self._lock_wait_s
        parameters |= {"ours": datetime.now(UTC), "now": None}
        while True:
            await self.session.fetch("BEGIN")
            try:
                [(ours,)] = await self.session.fetch(f"SELECT pg_try_advisory_xact_lock({locks.PRUNING})")
                answer = await self.session.fetch(load(statement), parameters) if ours else []
            except psycopg.Error:
                await self.session.fetch("ROLLBACK")
                raise
            await self.session.fetch("COMMIT")
            if ours:
                return answer
            if monotonic() > deadline:
                raise DispatcherError(
                    f"somebody else has been pruning for {self._lock_wait_s:.0f} s: "
                    "is a prune procedure in an open transaction?"
                )
            await anyio.sleep(POLL_S)
