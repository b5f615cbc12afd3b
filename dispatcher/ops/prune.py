"""Prune, when a person asks: everything that is too old goes, in small batches beside running dispatchers.

Walks the whole outbox once, where retention stops at the first rows that are mostly recent. Takes turns with retention
and with the prune procedures: whoever has their lock deletes, and lets it go after each batch.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession

BATCH = 1000  # rows looked at, and at most deleted, in one statement
SLOW_S = 0.2  # a batch that takes longer halves the next one
TURN_S = 0.05  # before asking again, while somebody else prunes
PATIENCE_S = 60.0  # for that somebody


class PruneSession(OperatorSession):
    """`async with Prune(target, ...) as prune:` ages in seconds; None: leave that table alone."""

    verb = "prune"

    def __init__(self, target: PostgresTarget, *, outbox_s: float | None, dlq_s: float | None) -> None:
        super().__init__(target)
        self._outbox_s = outbox_s
        self._dlq_s = dlq_s
        self.rows = 0  # deleted; both written by run(), batch by batch
        self.copies = 0

    async def count(self) -> tuple[int, int]:
        """How many rows and copies are too old now."""
        never = 36_500 * 86_400.0
        ages = {
            "outbox_s": never if self._outbox_s is None else self._outbox_s,
            "dlq_s": never if self._dlq_s is None else self._dlq_s,
        }
        with self.explained():
            [(rows, copies)] = await self.session.fetch(load("prune_count"), ages)
        return rows, copies

    async def run(self, progress: Callable[[float], None]) -> None:
        """Delete. `progress` hears the share of the outbox that was walked."""
        with self.explained():
            if self._outbox_s is not None:
                await self._walk(self._outbox_s, progress)
            if self._dlq_s is not None:
                await self._copies(self._dlq_s)

    async def _walk(self, age_s: float, progress: Callable[[float], None]) -> None:
        [(lowest, highest)] = await self.session.fetch(load("prune_bounds"))
        after, window = (lowest or 0) - 1, BATCH
        while highest is not None and after < highest:
            began = monotonic()
            parameters: dict[str, object] = {"after_id": after, "window": window, "older_than_s": age_s, "now": None}
            [(_, rows, seen, last_id, _)] = await self._in_turn("prune_outbox", parameters)
            slow = monotonic() - began > SLOW_S
            window = max(window // 2, 1) if slow else min(window * 2, BATCH)
            self.rows += rows
            if not seen:
                break
            after = last_id
            progress(min(1.0, (after - lowest + 1) / (highest - lowest + 1)))

    async def _copies(self, age_s: float) -> None:
        while True:
            parameters: dict[str, object] = {"batch": BATCH, "older_than_s": age_s, "now": None}
            [(copies,)] = await self._in_turn("prune_dlq", parameters)
            self.copies += copies
            if copies < BATCH:
                return

    async def _in_turn(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Run it with the lock of whoever prunes, once that is free."""
        deadline = monotonic() + PATIENCE_S
        while True:
            await self.session.fetch("BEGIN")
            try:
                [(ours,)] = await self.session.fetch("SELECT pg_try_advisory_xact_lock(1869968482, 3)")
                answer = await self.session.fetch(load(statement), parameters) if ours else []
            except psycopg.Error:
                await self.session.fetch("ROLLBACK")
                raise
            await self.session.fetch("COMMIT")
            if ours:
                return answer
            if monotonic() > deadline:
                raise DispatcherError(
                    f"somebody else has been pruning for {PATIENCE_S:.0f} s: a prune procedure in an open transaction?"
                )
            await anyio.sleep(TURN_S)
