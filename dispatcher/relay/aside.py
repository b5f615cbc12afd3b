"""Kept aside: what Postgres refuses to settle leaves its lane, and is tried again until it is settled.

A trigger, a constraint or a missing right may refuse one row, and would hold its whole batch. A round begins with all
rows of a batch and goes on with halves of what is refused, down to single rows: what can be settled is. The rest is
tried again after a pause that grows. Its claim stays in flight and its leases are renewed: nobody publishes it again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import inf
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import IncarnationChanged, SessionLost, SettleUndone
from dispatcher.core.events import Observer
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.outcome import BatchOutcomes, Outcome
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.failures import StatementFailures
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.lease_renewer import LeaseRenewer
from dispatcher.relay.undone import settle_undone
from dispatcher.stages.settle import Settlement, settle

MOST_BATCHES = 4  # with the rows of so many nothing is claimed: what is published and cannot be settled has a bound
REFUSALS = 64  # of one round: after so many, each piece that is left is tried once more, and no piece is halved
PAUSES = Backoff(base_s=0.2, cap_s=30.0)
WHILE_STOPPING = Backoff(base_s=0.2, cap_s=1.0)

SearchAgain = Callable[[BatchOutcomes, Batch], Awaitable[None]]


@dataclass(eq=False, slots=True)
class KeptBatch:
    """What is left of a batch. `due`: when it is tried, monotonic seconds.

    `refused`: rounds since the last one that settled something, that one included. `batch` and `search_again`: see
    Settler.settle().
    """

    postgres: ReconnectingSession
    claim_id: str
    rows: list[tuple[int, Outcome]]
    incarnation: RedisIncarnation | None
    streams: Mapping[int, str]
    batch: Batch | None
    search_again: SearchAgain | None
    refused: int = 0
    due: float = 0.0

    def trim(self) -> None:
        """Keep of the batch what a search needs: no payload, and no row that is settled."""
        if self.batch is not None:
            left = {row_id for row_id, _ in self.rows}
            rows = [row._replace(payload="", headers=None) for row in self.batch.rows if row.id in left]
            self.batch = self.batch._replace(rows=rows)


class KeptAside:
    """What a relay keeps aside. `tell` is called with what is settled and its claim, `on_round()` after each round."""

    def __init__(
        self,
        *,
        most_rows: int,
        lease_s: float,
        tell: Callable[[str, BatchOutcomes, Settlement], None],
        on_round: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._most_rows = most_rows
        self._lease_s = lease_s
        self._tell = tell
        self._on_round = on_round
        self._rng = rng
        self._kept: list[KeptBatch] = []
        self._failures = StatementFailures("settle", observe, rng, tell_after=1)
        self._leases = LeaseRenewer(observe, rng)
        self._woken = anyio.Event()  # replaced by run()
        self._stopping = False

    def __bool__(self) -> bool:
        """Whether something is kept aside."""
        return bool(self._kept)

    @property
    def claims(self) -> set[str]:
        """The ids of the claims whose rows are kept aside."""
        return {kept.claim_id for kept in self._kept}

    @property
    def room(self) -> int:
        """How many rows may still be claimed; 0: none until some of these are settled."""
        return max(0, self._most_rows - sum(len(kept.rows) for kept in self._kept))

    def keep(self, kept: KeptBatch, error: psycopg.Error | SettleUndone, began: float) -> None:
        """Take over a batch that was refused, by a try that began at `began` (monotonic seconds)."""
        kept.trim()
        self._kept.append(kept)
        self._failures.tell(error, began)
        self._woken.set()

    def stop(self) -> None:
        """Nothing is added any more: `run()` returns when all is settled. Everything is tried soon."""
        self._stopping = True
        for kept in self._kept:
            kept.refused, kept.due = 0, 0.0
        self._woken.set()

    async def run(self, chores: ReconnectingSession) -> None:
        """Try until `stop()` was called and nothing is left.

        On the session for chores, where there is one: a row that somebody locked for long must not hold up a lane.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, name="leases of what is kept aside")
            while self._kept or not self._stopping:
                due_s = min((kept.due for kept in self._kept), default=inf) - monotonic()
                if due_s > 0:
                    self._woken = anyio.Event()
                    with anyio.move_on_after(due_s):
                        await self._woken.wait()
                    continue
                for kept in [each for each in self._kept if each.due <= monotonic()]:
                    await self._round(kept, chores)
            tasks.cancel_scope.cancel()

    async def _round(self, kept: KeptBatch, chores: ReconnectingSession) -> None:
        began, before = monotonic(), len(kept.rows)
        error = await self._settle_what_can_be(kept, chores)
        if error is None:
            self._kept.remove(kept)
            if not self._kept:
                self._failures.clear()
        else:
            kept.refused = kept.refused + 1 if len(kept.rows) == before else 1
            pauses = WHILE_STOPPING if self._stopping else PAUSES
            kept.due = monotonic() + pauses.reconnect_delay(kept.refused, self._rng)
            kept.trim()
            self._failures.tell(error, began)
        self._on_round()

    async def _settle_what_can_be(
        self, kept: KeptBatch, chores: ReconnectingSession
    ) -> psycopg.Error | SettleUndone | None:
        """Settle in halves; the last refusal. What is left begins with what was not tried alone yet."""
        pieces, left = [kept.rows], list[tuple[int, Outcome]]()
        error: psycopg.Error | SettleUndone | None = None
        refusals = 0
        while pieces:
            rows = pieces.pop()
            outcomes = BatchOutcomes.of(rows, kept.incarnation, kept.streams)
            session = chores.session or await kept.postgres.get_any()
            try:
                settlement = await settle(session, kept.claim_id, outcomes)
            except IncarnationChanged:
                if kept.search_again is None or kept.batch is None:
                    raise
                outcomes = BatchOutcomes.of([*rows, *chain(*pieces), *left], kept.incarnation, kept.streams)
                await kept.search_again(outcomes, kept.batch)
                kept.rows, kept.incarnation = outcomes.each(), outcomes.incarnation
                pieces, left = [kept.rows], []
            except SessionLost:
                pieces.append(rows)
            except psycopg.Error as refusal:
                error, refusals = refusal, refusals + 1
                half = len(rows) // 2
                if half and refusals < REFUSALS:
                    pieces += [rows[half:], rows[:half]]
                else:
                    left = [*rows, *left] if half else [*left, *rows]
            else:
                # Rows that an earlier try settled are not found by this one: done, not lost.
                self._tell(kept.claim_id, outcomes, settlement._replace(not_ours=frozenset()))
                if settlement.undone:
                    left += [(row_id, outcome) for row_id, outcome in rows if row_id in settlement.undone]
                    error = await settle_undone(session, len(settlement.undone))
        kept.rows = left
        return error if left else None

    async def _renew(self) -> None:
        """Each claim by itself: one that may not be renewed is no matter for the others."""
        while True:
            await anyio.sleep(self._lease_s / 4)
            for kept in list(self._kept):
                await self._leases.renew(kept.postgres, [(row_id, kept.claim_id) for row_id, _ in kept.rows])
            if not self._kept:
                self._leases.done()
