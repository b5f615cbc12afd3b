"""After the turn: wait for a batch's replies, decide, settle, while the next lane already claims."""

from collections.abc import Sequence
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.decide import NoReply, NotSent, Refused, Reply, decide_batch, is_sink_failure
from dispatcher.core.errors import SessionLost, StreamMoved
from dispatcher.core.events import Buried, Observer, Published, Settled, Ticked
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.policy import RelayPolicy
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.reconcile import REFUSED, Reconciler, statement_failed
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.stages.publish import SentBatch, replies_of
from dispatcher.stages.settle import Settlement, settle

REMEMBERED = 10_000  # rows whose connection was cut once


class BatchCompleter:
    """Finishes batches, those of several lanes at once."""

    def __init__(
        self,
        policy: RelayPolicy,
        *,
        gate: SinkGate,
        doorbell: Doorbell,
        stopping: anyio.Event,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._doorbell = doorbell
        self._observe = observe
        self._rng = rng
        self._find_out = Reconciler(lease_s=policy.lease_s, stopping=stopping, observe=observe)
        self._cut_once: set[int] = set()  # rows that were on their way when the connection was cut; written by batch()

    async def batch(
        self, postgres: ReconnectingSession, batch: Batch, pending: SentBatch, began: float
    ) -> list[ClaimedRow]:
        """Wait for the replies, decide, settle. Returns rows that are to be published apart, still claimed."""
        replies = await self._whose_refusals(await replies_of(pending))
        outcomes = decide_batch(batch.rows, replies, self._policy.retry, self._rng)
        outcomes.incarnation = pending.incarnation
        self._gate.note(outcomes)
        self.note_published(batch, replies)
        error = outcomes.sink_error
        apart: list[ClaimedRow] = []
        if outcomes.unknown:
            unanswered = set(outcomes.unknown)
            await self._find_out.resolve(self._gate, postgres, batch, outcomes)
            if was_cut(replies) and not outcomes.retries:  # an error in reply has named the row already
                apart = self._suspects([row for row in batch.rows if row.id in unanswered], outcomes)
        elif self._cut_once:
            self._cut_once.difference_update(outcomes.sent_ids)
        await self.settle(postgres, batch, outcomes)
        self._observe(Ticked("error" if error else "ok", monotonic() - began, error))
        return apart

    async def _whose_refusals(self, replies: list[Reply]) -> list[Reply]:
        """An error nobody knows may be that of a proxy whose Redis is away: then it is no row's own failure."""
        refused = [isinstance(reply, Refused) and not is_sink_failure(reply.text) for reply in replies]
        if not any(refused) or any(type(reply) is bytes for reply in replies):
            return replies  # what was taken between proves that the refusals are the rows' own
        if await self._gate.probe() is None:
            return replies
        return [
            NotSent(f"redis: {reply.text}") if own and isinstance(reply, Refused) else reply
            for reply, own in zip(replies, refused, strict=True)
        ]

    def note_published(self, batch: Batch, replies: Sequence[Reply]) -> None:
        """Say which entries Redis acknowledged just now."""
        elapsed = monotonic() - batch.claimed_at
        ages = [row.age_s + elapsed for row, reply in zip(batch.rows, replies, strict=True) if type(reply) is bytes]
        if ages:
            self._observe(Published(len(ages), ages, elapsed))

    async def settle(self, postgres: ReconnectingSession, batch: Batch, outcomes: BatchOutcomes) -> None:
        """Write the verdict down, and say what became of the batch."""
        settlement = await self._settle(postgres, batch, outcomes)
        if settlement.released:
            self._doorbell.nudge()  # due again, and the lane that sleeps looked while we still held them
        if outcomes.retries:
            self._doorbell.nudge(min(retry.delay_s for _, retry in outcomes.retries))
        if outcomes.dead:
            self._observe(
                Buried([(row_id, dead.error) for row_id, dead in outcomes.dead if row_id not in settlement.lost])
            )
        self._observe(
            Settled(
                sent=settlement.sent,
                retried=settlement.retried,
                dead=settlement.dead,
                released=settlement.released,
                unknown=len(outcomes.unknown),
                lost=len(settlement.lost),
            )
        )

    def _suspects(self, unanswered: list[ClaimedRow], outcomes: BatchOutcomes) -> list[ClaimedRow]:
        """Rows that are not in the stream after a second cut; after a first one they go back, as after any outage."""
        released = set(outcomes.released)
        missing = [row for row in unanswered if row.id in released]
        if not any(row.id in self._cut_once or row.attempts for row in missing):
            if len(self._cut_once) > REMEMBERED:
                self._cut_once.clear()
            self._cut_once.update(row.id for row in missing)
            return []
        suspected = {row.id for row in missing}
        self._cut_once -= suspected
        outcomes.released = [row_id for row_id in outcomes.released if row_id not in suspected]
        return missing

    async def _settle(self, postgres: ReconnectingSession, batch: Batch, outcomes: BatchOutcomes) -> Settlement:
        """Settle, on another session when one breaks: what is in the stream must not be claimed again."""
        failures = 0
        while True:
            session = await postgres.get()
            began = monotonic()
            try:
                settlement = await settle(session, batch.claim_id, outcomes)
            except StreamMoved:
                if outcomes.incarnation is not None:
                    self._gate.connection.doubt(outcomes.incarnation)
                outcomes.doubt_sent()
                await self._find_out.resolve(self._gate, postgres, batch, outcomes)
            except (SessionLost, psycopg.Error) as error:
                failures += 1
                pause_s = REFUSED.reconnect_delay(failures, self._rng)
                await statement_failed(postgres, session, error, began, self._observe, pause_s=pause_s)
            else:
                # After a lost answer, rows the first try settled are not found by the second: not lost, just done.
                return settlement._replace(lost=frozenset()) if failures else settlement


def was_cut(replies: Sequence[Reply]) -> bool:
    """Whether the other end closed the connection before it had answered all."""
    return any(isinstance(reply, NoReply) and reply.cut for reply in replies)
