"""Bisect: rows that may be what closes the connection are isolated, down to the row that does it.

A batch under which the connection ends again and again while Redis works holds a row that Redis, or a proxy before it,
cannot take. The rows of such a batch, and rows that failed before, are isolated: published on a connection of their
own, while the lanes go on. When this connection is cut, the rows that are not in the stream are tried in halves. A row
that is cut off twice while it is alone on the connection is the cause, and loses an attempt.

No row loses an attempt by an outage. Before each try the sink must answer an XADD that Redis always refuses (the id
0-0): so the sink is reachable and takes writes. Halves are made only if the same incarnation of Redis answers after the
cut. If its streams were emptied meanwhile, the rows are released. If another server answers, or one that does not say
which it is, Redis may have ended on one of them: they come back as suspects, each of which is tried alone and judged
(suspects.py).
"""

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import anyio

from dispatcher.core.decide import ClosesConnection, decide
from dispatcher.core.events import ClosedConnection, Observer
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.relay.lease_renewer import LeaseRenewer, rows_of
from dispatcher.relay.order.in_order import InOrder
from dispatcher.relay.policy import PauseCheck, StreamPolicy
from dispatcher.relay.stream.answers import SinkAnswers, make_suspects, refused_a_row, was_cut
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.reconcile import Reconciler
from dispatcher.relay.stream.suspects import Suspects
from dispatcher.stages.publish import replies_of, send

MAX_WAITING = 4  # batches; with more the lanes wait: else every claimed row could end up here
PROOFS = 2  # so often a row must be cut off while it is alone, before it loses an attempt


@dataclass(frozen=True, slots=True)
class IsolatedBatch:
    """Rows of one claim that are isolated, and the lane whose session settles them."""

    postgres: ReconnectingSession
    batch: Batch


class CutAlone(NamedTuple):
    """A row that was cut off while it was alone, and how many times in a row."""

    row_id: int
    times: int


class PoisonBisector:
    """Publishes isolated rows, one batch at a time. run() writes the state; the lanes write the queue."""

    def __init__(
        self,
        policy: StreamPolicy,
        *,
        gate: SinkGate,
        publisher: RedisConnection,
        answers: SinkAnswers,
        stopping: anyio.Event,
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._gate = gate  # of the bisector's own connection
        self._answers = answers
        self._stopping = stopping
        self._pause_check = pause
        self._observe = observe
        self._rng = rng
        self._reconciler = Reconciler(lease_s=policy.claims.lease_s, stopping=stopping, observe=observe, rng=rng)
        self._leases = LeaseRenewer(observe, rng)  # of the rows that are tried
        self._waiting_leases = LeaseRenewer(observe, rng)  # of all rows in the queue
        self._queue: deque[IsolatedBatch] = deque()
        self._changed = anyio.Event()  # replaced by whoever sets it
        self._suspects = Suspects(gate, publisher, stopping=stopping, observe=observe, rng=rng)
        self.order: InOrder | None = None  # set by the relay
        self._cut_alone: CutAlone | None = None  # the last one

    @property
    def claims(self) -> set[str]:
        """The ids of the claims whose rows are isolated."""
        return {isolated.batch.claim_id for isolated in self._queue}

    def stop(self) -> None:
        """Release all rows, and let run() end."""
        self._gate.stop()
        self._note_change()

    async def add(self, postgres: ReconnectingSession, batch: Batch) -> None:
        """Isolate rows of a claim. Waits while too many batches are isolated."""
        isolated = IsolatedBatch(postgres, batch)
        if self._stopping.is_set():
            await self._release(isolated, batch.rows)
            return
        self._queue.append(isolated)
        self._note_change()
        while len(self._queue) > MAX_WAITING and isolated in self._queue:
            await self._changed.wait()

    async def run(self) -> None:
        """Publish isolated rows until stopped and nothing is left."""
        try:
            while not self._stopping.is_set() or self._queue:
                if not self._queue:
                    self._leases.done()
                    self._waiting_leases.done()
                    self._gate.connection.close()
                    await self._changed.wait()
                    continue
                await self._narrow(self._queue[0])
                self._queue.popleft()
                self._note_change()
                self._pause_check.note_claim_ended()
        finally:
            self._gate.connection.close()

    def _note_change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _narrow(self, isolated: IsolatedBatch) -> None:
        alone = [[row] for row in isolated.batch.rows if row.suspect]
        others = [row for row in isolated.batch.rows if not row.suspect]
        pieces = [*reversed(alone), *([others] if others else [])]  # the last one first
        while pieces:
            # First the connection, then the leases: who fences us ends our connection before adopting our rows.
            if not await self._takes_entries() or (
                pieces[-1][0].suspect and not await self._is_stable(isolated, pieces)
            ):
                await self._release(isolated, [row for piece in pieces for row in piece])
                return
            piece = pieces.pop()
            if self.order is not None:
                piece = await self._in_order(isolated, self.order, piece)
            ours = await self._still_ours(isolated, piece)
            if ours:
                pieces += await self._try(isolated, ours)

    async def _in_order(self, isolated: IsolatedBatch, order: InOrder, piece: list[ClaimedRow]) -> list[ClaimedRow]:
        """Those of our rows that wait for no row that failed here. The rows that wait are released."""
        ours = await self._still_ours(isolated, piece)
        order.note_not_ours([row.id for row in piece if row not in ours])
        may_go = order.may_go(isolated.batch, ours)
        if len(may_go) < len(ours):
            await self._release(isolated, [row for row in ours if row not in may_go])
        return may_go

    async def _takes_entries(self) -> bool:
        """Whether the sink answers, and takes entries as such."""
        if self._stopping.is_set() or not await self._gate.wait_open():
            return False
        if (why := await self._gate.probe()) is None:
            return True
        self._gate.note_outcomes(BatchOutcomes(sink_error=why))
        return False

    async def _is_stable(self, isolated: IsolatedBatch, pieces: list[list[ClaimedRow]]) -> bool:
        rows = [row for piece in pieces for row in piece]
        return await self._suspects.wait_until_stable(
            self._policy.claims.lease_s / 8, lambda: self._still_ours(isolated, rows)
        )

    async def _still_ours(self, isolated: IsolatedBatch, rows: list[ClaimedRow]) -> list[ClaimedRow]:
        """Renew the leases of these rows, and now and then of the queue. Returns which of these rows are still ours."""
        floor = self._gate.connection.floor  # none of the rows is in the stream now
        if self._waiting_leases.is_time(self._policy.claims.lease_s / 8):
            for other in list(self._queue):  # lanes add to it meanwhile
                await self._waiting_leases.renew(other.postgres, rows_of([other.batch]), floor=floor)
        while True:
            piece = isolated.batch._replace(rows=rows)
            ours = await self._leases.renew(isolated.postgres, rows_of([piece]), floor=floor)
            if ours is not None:
                return [row for row in rows if (row.id, piece.claim_id) in ours]
            if self._stopping.is_set():
                return []

    async def _try(self, isolated: IsolatedBatch, rows: list[ClaimedRow]) -> list[list[ClaimedRow]]:
        """Publish and settle these rows. Returns the pieces to be tried again, the last one first."""
        connection = self._gate.connection
        piece = isolated.batch._replace(rows=rows, floor=connection.floor)
        written = send(connection, self._policy.entry, piece, self._policy.publish_timeout_s)
        replies = await replies_of(written)
        outcomes = self._answers.outcomes_of(piece, written, replies)
        self._answers.tell_published(piece, replies)
        cut = was_cut(replies)
        if not cut:
            self._gate.note_outcomes(outcomes)
        unanswered = set(outcomes.unknown)
        others = [each.batch for each in self._queue]
        if outcomes.unknown:
            await self._reconciler.reconcile(self._gate, isolated.postgres, piece, outcomes, renew_too=others)
        again: list[list[ClaimedRow]] = []
        if cut:
            missing = [row for row in rows if row.id in unanswered & set(outcomes.released)]
            outcomes.released = [row_id for row_id in outcomes.released if row_id not in unanswered]
            now = self._gate.connection.incarnation
            if written.incarnation is not None and written.incarnation.same_and_known(now):
                if now == written.incarnation:
                    again = self._split(missing, rows, outcomes, refused=refused_a_row(replies))
                else:  # the stream was emptied meanwhile
                    outcomes.released += [row.id for row in missing]
            elif not rows[0].suspect:
                make_suspects(missing, outcomes)
            elif missing and self._suspects.judge(rows[0], outcomes, self._policy.retry):
                again = [missing]
        self._suspects.passed(outcomes.sent_ids)
        await self._answers.settle(isolated.postgres, piece, outcomes, renew_too=others)
        return again

    def _split(
        self, missing: list[ClaimedRow], tried: list[ClaimedRow], outcomes: BatchOutcomes, *, refused: bool
    ) -> list[list[ClaimedRow]]:
        if not missing:
            return []
        alone_now = len(missing) == 1 and len(tried) > 1
        if alone_now or refused:
            return [missing]  # alone for the first time, or Redis refused another row, which is the cause
        if len(missing) > 1:
            half = len(missing) // 2
            return [missing[half:], missing[:half]]
        [row] = missing
        before = self._cut_alone
        times = before.times + 1 if before is not None and before.row_id == row.id else 1
        if times < PROOFS:
            self._cut_alone = CutAlone(row.id, times)
            return [missing]
        self._cut_alone = None
        size = len(row.payload.encode())
        error = (
            f"the connection to Redis is closed from there whenever this row is sent, alone: payload of {size} bytes"
        )
        outcomes.add(row.id, decide(ClosesConnection(error), row.attempts, self._policy.retry, self._rng))
        self._observe(ClosedConnection(row.id, size))
        return []

    async def _release(self, isolated: IsolatedBatch, rows: list[ClaimedRow]) -> None:
        outcomes = BatchOutcomes(released=[row.id for row in rows])
        await self._answers.settle(isolated.postgres, isolated.batch, outcomes)
