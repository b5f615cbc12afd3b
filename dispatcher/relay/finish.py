"""After the turn: wait for a batch's replies, decide, settle, while the next lane already claims."""

from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.decide import judge
from dispatcher.core.errors import SessionLost, StreamMoved
from dispatcher.core.events import Buried, Observer, Published, Settled, Ticked
from dispatcher.core.outcome import Verdict
from dispatcher.core.row import Batch
from dispatcher.infra.database import Session, describe, is_standby_now
from dispatcher.infra.link import Link
from dispatcher.infra.sqlfiles import load
from dispatcher.relay.policy import RelayPolicy
from dispatcher.stages.gate import Gate
from dispatcher.stages.publish import Pending, answers
from dispatcher.stages.settle import Settlement, settle
from dispatcher.stages.wake import Doorbell


class Finish:
    """Finishes batches, those of several lanes at once; keeps nothing between two of them."""

    def __init__(
        self,
        policy: RelayPolicy,
        *,
        gate: Gate,
        doorbell: Doorbell,
        stopping: anyio.Event,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._gate = gate
        self._doorbell = doorbell
        self._stopping = stopping
        self._observe = observe
        self._rng = rng

    async def batch(self, link: Link, batch: Batch, pending: Pending, began: float) -> None:
        """Wait for the replies, decide, settle."""
        replies = await answers(pending)
        answered = monotonic()
        verdict = judge(batch.rows, replies, self._policy.retry, self._rng)
        verdict.server = pending.server
        self._gate.note(verdict)
        if verdict.sent_ids:
            elapsed = answered - batch.claimed_at
            ages = [row.age_s + elapsed for row, reply in zip(batch.rows, replies, strict=True) if type(reply) is bytes]
            self._observe(Published(len(ages), ages, elapsed))
        error = verdict.sink_error
        if verdict.unknown:
            await self._reconcile(link, batch, verdict)
        settlement = await self._settle(link, batch, verdict)
        if settlement.returned:
            self._doorbell.nudge()  # due again, and the lane that sleeps looked while we still held them
        if verdict.retries:
            self._doorbell.nudge(min(retry.delay_s for _, retry in verdict.retries))
        if verdict.dead:
            self._observe(
                Buried([(row_id, dead.error) for row_id, dead in verdict.dead if row_id not in settlement.lost])
            )
        self._observe(
            Settled(
                sent=settlement.sent,
                retried=settlement.retried,
                dead=settlement.dead,
                returned=settlement.returned,
                unknown=len(verdict.unknown),
                lost=len(settlement.lost),
            )
        )
        self._observe(Ticked("error" if error else "ok", monotonic() - began, error))

    async def _reconcile(self, link: Link, batch: Batch, verdict: Verdict) -> None:
        """Find out about rows whose reply was lost, as soon as the sink is back. At a stop they stay claimed."""
        renewed_at = monotonic()
        while not self._stopping.is_set():
            if await self._gate.open():
                if (server := self._gate.broker.server) != verdict.server:
                    verdict.doubt_sent()  # acknowledged by a run of Redis that holds the stream no more
                verdict.server = server
                if await self._gate.reconcile(batch, verdict):
                    return
            if monotonic() - renewed_at > self._policy.lease_s / 4:
                renewed_at = monotonic()
                await self._renew(link, batch.claim_id)

    async def _renew(self, link: Link, claim_id: str) -> None:
        """Say that the claim's owner is alive, or an outage longer than the lease would look like a frozen owner."""
        session = await link.get()
        try:
            await session.fetch(load("renew"), {"claim_id": claim_id})
        except (SessionLost, psycopg.Error) as error:
            await failed(link, session, error, monotonic(), self._observe)

    async def _settle(self, link: Link, batch: Batch, verdict: Verdict) -> Settlement:
        """Settle, on another session when one breaks: what is in the stream must not be claimed again."""
        again = False
        while True:
            session = await link.get()
            began = monotonic()
            try:
                settlement = await settle(session, batch.claim_id, verdict)
            except StreamMoved:
                if verdict.server is not None:
                    self._gate.broker.doubt(verdict.server)
                verdict.doubt_sent()
                await self._reconcile(link, batch, verdict)
            except (SessionLost, psycopg.Error) as error:
                await failed(link, session, error, began, self._observe)
                again = True
            else:
                # After a lost answer, rows the first try settled are not found by the second: not lost, just done.
                return settlement._replace(lost=frozenset()) if again else settlement


async def failed(
    link: Link, session: Session, error: SessionLost | psycopg.Error, began: float, observe: Observer
) -> None:
    """Note a statement that failed; a session that is of no use any more is replaced."""
    reason = describe(error)
    observe(Ticked("error", monotonic() - began, reason))
    if isinstance(error, SessionLost) or is_standby_now(error):
        await link.broke(session, reason)
    else:
        await anyio.sleep(0.1)  # refused, not broken: a lock, a timeout, a right taken away
