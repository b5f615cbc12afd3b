"""The replies of one sink: wait for them, decide the outcome of each row, settle.

AfterTurn (after_turn.py) does so once a turn is over, for each sink of the batch, while the next lane already claims.
`Settler` (relay/settler.py) writes the outcomes to Postgres.
"""

from collections.abc import Collection, Iterable, Sequence
from random import Random
from time import monotonic

import anyio

from dispatcher.core.decide import NoReply, NotApplied, Refused, Reply, decide_batch
from dispatcher.core.events import Observer, Published, Ticked
from dispatcher.core.outages import is_redis_outage
from dispatcher.core.outcome import BatchOutcomes, Waits
from dispatcher.core.row import SERVER_LOST, Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.order.in_order import InOrder
from dispatcher.relay.policy import StreamPolicy
from dispatcher.relay.settler import Settler
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.reconcile import Reconciler
from dispatcher.stages.publish import WrittenBatch, replies_of

REMEMBERED = 10_000  # at most so many rows whose connection was cut once; then all are forgotten


class SinkAnswers:
    """Settles batches by what their sink answered. Several lanes use it at once."""

    def __init__(
        self,
        policy: StreamPolicy,
        *,
        gate: SinkGate,
        settler: Settler,
        stopping: anyio.Event,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._settler = settler
        self._observe = observe
        self._rng = rng
        self._reconciler = Reconciler(lease_s=policy.claims.lease_s, stopping=stopping, observe=observe, rng=rng)
        self.order: InOrder | None = None  # set by the relay
        self._cut_once: set[int] = set()  # ids of rows that were unanswered when the connection was cut

    async def wait_and_settle(
        self,
        postgres: ReconnectingSession,
        batch: Batch,
        written: WrittenBatch,
        began: float,
        *,
        renew_too: Collection[Batch] = (),
    ) -> list[ClaimedRow]:
        """Wait for the replies, decide, settle. Returns the rows to be isolated, which are still claimed.

        `began`: when the turn began, after its sleep, monotonic seconds. `renew_too`: other rows of the claim, whose
        leases are renewed while this batch waits for the sink.
        """
        replies = await self._judge_refusals(await replies_of(written))
        outcomes = self.decide(batch, written, replies)
        self.tell_published(batch, replies)
        error = outcomes.sink_error
        isolated: list[ClaimedRow] = []
        if outcomes.unknown:
            unanswered = set(outcomes.unknown)
            await self._reconciler.reconcile(self._gate, postgres, batch, outcomes, renew_too=renew_too)
            if was_cut(replies) and not refused_a_row(replies):
                isolated = self._cut_again([row for row in batch.rows if row.id in unanswered], outcomes)
                if isolated and not (written.incarnation and written.incarnation.same_and_known(outcomes.incarnation)):
                    make_suspects(isolated, outcomes)
                    isolated = []
        elif self._cut_once:
            self._cut_once.difference_update(outcomes.sent_ids)
        keep = [*renew_too, batch._replace(rows=isolated)]
        await self.settle(postgres, batch, outcomes, renew_too=keep)
        await self._end(postgres, began, error)
        return isolated

    def decide(self, batch: Batch, written: WrittenBatch, replies: list[Reply]) -> BatchOutcomes:
        """The outcome of each row, by these replies. The gate and the order are told."""
        outcomes = self.outcomes_of(batch, written, replies)
        self._gate.note_outcomes(outcomes)
        if self.order is not None:
            self.order.answered(batch, outcomes)
        return outcomes

    def outcomes_of(self, batch: Batch, written: WrittenBatch, replies: list[Reply]) -> BatchOutcomes:
        """The outcome of each row, by these replies, and where the entries are. Nobody is told."""
        outcomes = decide_batch(batch.rows, replies, self._policy.retry, self._rng)
        outcomes.incarnation, outcomes.streams = written.incarnation, written.streams
        return outcomes

    async def settle_together(
        self,
        postgres: ReconnectingSession,
        batch: Batch,
        replies: Sequence[Reply],
        by_sink: Sequence[BatchOutcomes],
        began: float,
    ) -> frozenset[int]:
        """Settle together the rows of a batch that several sinks took. Returns the ids of rows still to be settled.

        These have to be settled sink by sink. `by_sink`: what decide() of each sink returned, in the order in which
        `batch` and `replies` have the rows of the sinks.
        """
        self.tell_published(batch, replies)
        left = await self._settler.settle_together(postgres, batch.claim_id, by_sink)
        await self._end(postgres, began, None)
        return left

    async def _end(self, postgres: ReconnectingSession, began: float, error: str | None) -> None:
        if self.order is not None and self.order.held.announced:  # dead events of which a later entry has told by now
            await self.order.held_watch.write_announced(postgres, self.order.held)
        self._observe(Ticked("error" if error else "ok", monotonic() - began, error))

    async def _judge_refusals(self, replies: list[Reply]) -> list[Reply]:
        """The replies; with NotApplied for refusals, where no row was taken and the sink refuses a probe too."""
        refused = [isinstance(reply, Refused) and not is_redis_outage(reply.text) for reply in replies]
        if not any(refused) or any(type(reply) is bytes for reply in replies):
            return replies  # a row that was taken proves that the refusals are the other rows' own
        if await self._gate.probe() is None:
            return replies
        return [
            NotApplied(f"redis: {reply.text}") if own and isinstance(reply, Refused) else reply
            for reply, own in zip(replies, refused, strict=True)
        ]

    def tell_published(self, batch: Batch, replies: Sequence[Reply]) -> None:
        """Tell of the rows that Redis acknowledged just now."""
        if self._policy.make_spans is not None:
            self._policy.make_spans(batch, replies)
        elapsed = monotonic() - batch.claimed_at
        rows = [row for row, reply in zip(batch.rows, replies, strict=True) if type(reply) is bytes]
        if rows:
            ages = [row.age_s + elapsed for row in rows]
            self._observe(Published(len(rows), ages, elapsed, [row.event_type for row in rows]))

    async def settle(
        self,
        postgres: ReconnectingSession,
        batch: Batch,
        outcomes: BatchOutcomes,
        *,
        renew_too: Collection[Batch] = (),
        tried_together: bool = False,
    ) -> None:
        """Settle. If another incarnation of Redis holds the stream by then, search the stream for the entries first.

        `renew_too`: as for `wait_and_settle()`; `tried_together`: as for Settler.settle().
        """

        async def search_again(outcomes: BatchOutcomes, batch: Batch) -> None:
            if outcomes.incarnation is not None:
                self._gate.connection.mark_unverified(outcomes.incarnation)
            outcomes.doubt_sent()
            await self._reconciler.reconcile(self._gate, postgres, batch, outcomes, renew_too=renew_too)

        if self.order is not None:
            self.order.note_announced(batch, outcomes)
        await self._settler.settle(
            postgres, batch.claim_id, outcomes, batch=batch, search_again=search_again, tried_together=tried_together
        )
        # Rows that are kept aside keep `search_again`, perhaps for hours, and that keeps `renew_too`: no batch from
        # here on, or the payloads of all of them would stay in memory.
        renew_too = ()

    def _cut_again(self, unanswered: list[ClaimedRow], outcomes: BatchOutcomes) -> list[ClaimedRow]:
        """The rows that are not in the stream, if one of them was cut before or has failed; else none.

        A first cut may be an outage. Rows that are returned are to be isolated: they are not among `released` any more.
        """
        released = set(outcomes.released)
        missing = [row for row in unanswered if row.id in released]
        if not any(row.id in self._cut_once or row.attempts or row.suspect for row in missing):
            if len(self._cut_once) > REMEMBERED:
                self._cut_once.clear()
            self._cut_once.update(row.id for row in missing)
            return []
        again = {row.id for row in missing}
        self._cut_once -= again
        outcomes.released = [row_id for row_id in outcomes.released if row_id not in again]
        return missing


def make_suspects(rows: Iterable[ClaimedRow], outcomes: BatchOutcomes, delay_s: float = 0.0) -> None:
    """Note that Redis exited, or may have, while these rows were sent: they are published alone next, at no attempt."""
    for row in rows:
        outcomes.add(row.id, Waits(delay_s, f"{SERVER_LOST}: Redis ended, or was replaced, while this row was sent"))


def was_cut(replies: Sequence[Reply]) -> bool:
    """Whether the other end closed the connection before it had answered all rows."""
    return any(isinstance(reply, NoReply) and reply.cut for reply in replies)


def refused_a_row(replies: Sequence[Reply]) -> bool:
    """Whether Redis refused a row. If it closed the connection then, that row is the cause, and no row is isolated."""
    return any(isinstance(reply, Refused) and not is_redis_outage(reply.text) for reply in replies)
