"""Isolate: rows that may be what closes the connection are published apart, down to the one that does it.

A batch that keeps killing the connection while Redis works holds a row that Redis, or a proxy before it, cannot take.
Suspects are published on a connection of their own, so that the lanes go on meanwhile. When it is cut, what is not in
the stream is tried in halves. A row that is cut off twice while it is alone there is guilty: it costs it an attempt.

No outage does. Before each try the sink must answer an XADD that it always refuses (the id 0-0), so it is reachable and
takes writes; and it must be the same run of Redis afterwards. Anything else gives the rows back unharmed.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.decide import ClosesConnection, decide, decide_batch
from dispatcher.core.errors import SessionLost
from dispatcher.core.events import ClosedConnection, Observer
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.sqlfiles import load
from dispatcher.relay.policy import RelayPolicy
from dispatcher.relay.stream.complete import BatchCompleter, was_cut
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.reconcile import REFUSED, Reconciler, statement_failed
from dispatcher.stages.publish import replies_of, send

WAITING = 4  # cases; with more the lanes wait, or every claimed row could end up here
PROOFS = 2  # cuts of a row alone


@dataclass(frozen=True, slots=True)
class SuspectBatch:
    """Suspects of one claim, and the lane whose session settles them."""

    postgres: ReconnectingSession
    batch: Batch


class PoisonBisector:
    """Publishes suspects, one case at a time. Its state is written by run(), but for the queue, which lanes fill."""

    def __init__(
        self,
        policy: RelayPolicy,
        *,
        gate: SinkGate,
        finish: BatchCompleter,
        stopping: anyio.Event,
        settled: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._gate = gate  # to a connection of its own
        self._finish = finish
        self._stopping = stopping
        self._settled = settled  # hears that a case is closed
        self._observe = observe
        self._rng = rng
        self._find_out = Reconciler(lease_s=policy.lease_s, stopping=stopping, observe=observe)
        self._cases: deque[SuspectBatch] = deque()
        self._changed = anyio.Event()  # replaced by whoever sets it
        self._held_at = 0.0
        self._alone: tuple[int, int] = (0, 0)  # the row that was cut off alone last, and how many times in a row

    @property
    def claims(self) -> set[str]:
        """Claims that are being worked on here."""
        return {case.batch.claim_id for case in self._cases}

    def stop(self) -> None:
        """Give everything back and end."""
        self._gate.stop()
        self._note_change()

    async def add(self, postgres: ReconnectingSession, batch: Batch) -> None:
        """Hand over rows of a claim; waits while there is too much to do here."""
        case = SuspectBatch(postgres, batch)
        if self._stopping.is_set():
            await self._give_back(case, batch.rows)
            return
        self._cases.append(case)
        self._note_change()
        while len(self._cases) > WAITING and case in self._cases:
            await self._changed.wait()

    async def run(self) -> None:
        """Work until stopped."""
        try:
            while not self._stopping.is_set() or self._cases:
                if not self._cases:
                    self._gate.connection.close()
                    await self._changed.wait()
                    continue
                await self._narrow(self._cases[0])
                self._cases.popleft()
                self._note_change()
                self._settled()
        finally:
            self._gate.connection.close()

    def _note_change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _narrow(self, case: SuspectBatch) -> None:
        pieces = [case.batch.rows]
        while pieces:
            # The connection first: whoever fences us ends it, so that what was still ours after that can be published.
            if not await self._takes_entries():
                await self._give_back(case, [row for piece in pieces for row in piece])
                return
            ours = await self._hold(case, pieces.pop())
            if ours:
                pieces += await self._try(case, ours)

    async def _takes_entries(self) -> bool:
        """Whether the sink answers, and takes entries but for a reason of their own."""
        if self._stopping.is_set() or not await self._gate.open():
            return False
        if (why := await self._gate.probe()) is None:
            return True
        self._gate.note(BatchOutcomes(sink_error=why))
        return False

    async def _hold(self, case: SuspectBatch, rows: list[ClaimedRow]) -> list[ClaimedRow]:
        """Renew the lease; the rows that are still ours."""
        if monotonic() - self._held_at > self._policy.lease_s / 8:
            self._held_at = monotonic()
            for other in self._cases:
                await self._renew(other, other.batch.rows)
        held = await self._renew(case, rows)
        return [row for row in rows if row.id in held]

    async def _renew(self, case: SuspectBatch, rows: list[ClaimedRow]) -> set[int]:
        failures = 0
        while True:
            session, began = await case.postgres.get(), monotonic()
            try:
                held = await session.fetch(
                    load("renew_claims"),
                    {
                        "ids": [row.id for row in rows],
                        "claim_ids": [case.batch.claim_id] * len(rows),
                        "floor": self._gate.connection.floor,
                    },
                )
            except (SessionLost, psycopg.Error) as error:
                failures += 1
                pause_s = REFUSED.reconnect_delay(failures, self._rng)
                await statement_failed(case.postgres, session, error, began, self._observe, pause_s=pause_s)
                if self._stopping.is_set():
                    return set()
            else:
                return {row_id for row_id, _ in held}

    async def _try(self, case: SuspectBatch, rows: list[ClaimedRow]) -> list[list[ClaimedRow]]:
        """Publish and settle; what is to be tried again, in the pieces it is to be tried in, the last one first."""
        connection = self._gate.connection
        piece = Batch(case.batch.claim_id, rows, connection.floor, case.batch.claimed_at)
        incarnation = connection.incarnation
        pending = send(connection, self._policy.entry, piece, self._policy.publish_timeout_s)
        replies = await replies_of(pending)
        outcomes = decide_batch(rows, replies, self._policy.retry, self._rng)
        outcomes.incarnation = incarnation
        self._finish.note_published(piece, replies)
        cut = was_cut(replies)
        if not cut:
            self._gate.note(outcomes)
        unanswered = set(outcomes.unknown)
        if outcomes.unknown:
            others = [each.batch for each in self._cases]
            await self._find_out.resolve(self._gate, case.postgres, piece, outcomes, also=others)
        again: list[list[ClaimedRow]] = []
        if cut and self._gate.connection.incarnation == incarnation:
            missing = [row for row in rows if row.id in unanswered & set(outcomes.released)]
            outcomes.released = [row_id for row_id in outcomes.released if row_id not in unanswered]
            again = self._split(missing, rows, outcomes)
        await self._finish.settle(case.postgres, piece, outcomes)
        return again

    def _split(
        self, missing: list[ClaimedRow], tried: list[ClaimedRow], outcomes: BatchOutcomes
    ) -> list[list[ClaimedRow]]:
        if not missing:
            return []
        if len(tried) > len(missing) == 1 or outcomes.retries or outcomes.dead:
            return [missing]  # alone for the first time, or the reply has named another row
        if len(missing) > 1:
            half = len(missing) // 2
            return [missing[half:], missing[:half]]
        [row] = missing
        times = self._alone[1] + 1 if self._alone[0] == row.id else 1
        if times < PROOFS:
            self._alone = (row.id, times)
            return [missing]
        self._alone = (0, 0)
        size = len(row.payload.encode())
        error = (
            f"the connection to Redis is closed from there whenever this row is sent, alone: payload of {size} bytes"
        )
        outcomes.add(row.id, decide(ClosesConnection(error), row.attempts, self._policy.retry, self._rng))
        self._observe(ClosedConnection(row.id, size))
        return []

    async def _give_back(self, case: SuspectBatch, rows: list[ClaimedRow]) -> None:
        outcomes = BatchOutcomes(released=[row.id for row in rows])
        await self._finish.settle(case.postgres, case.batch, outcomes)
