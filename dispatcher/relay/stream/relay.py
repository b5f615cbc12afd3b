"""The relay: lanes that take turns to claim, and overlap while they publish and settle.

One lane at a time has the turn: it sleeps, claims and writes its pipeline. Then the turn passes on, and while the next
lane claims, this one waits for the replies and settles. So claims are in order, pipelines reach the stream in the order
of the claims, and neither Postgres nor Redis waits for the other.
"""

from collections.abc import Callable
from random import Random
from time import monotonic
from typing import NamedTuple

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Claimed, Observer, Ticked
from dispatcher.core.pacing import BatchSizer
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.cursor import ClaimCursor
from dispatcher.relay.policy import FlowControl, PauseCheck, RelayPolicy
from dispatcher.relay.stream.bisect import PoisonBisector
from dispatcher.relay.stream.complete import BatchCompleter
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.reconcile import REFUSED, statement_failed
from dispatcher.relay.uncertain import UncertainClaims
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.stages.publish import SentBatch, send, unsent

HOLD_S = 0.1  # between two looks at a group that has to catch up


class Taken(NamedTuple):
    """What a lane took in its turn: rows on their way, and rows that go out apart because they failed before."""

    batch: Batch
    pending: SentBatch
    began: float
    apart: list[ClaimedRow]


class StreamRelay:
    """Runs lanes until told to stop. State is written by the lane that has the turn, unless said otherwise."""

    def __init__(
        self,
        policy: RelayPolicy,
        *,
        gate: SinkGate,
        apart: SinkGate,
        doorbell: Doorbell,
        control: ReconnectingSession,
        lanes: list[ReconnectingSession],
        pacer: BatchSizer,
        room: FlowControl,
        pause: PauseCheck,
        dispatcher_id: Callable[[], int | None],
        observe: Observer,
        rng: Random,
        beside: Callable[[], None] | None = None,
    ) -> None:
        self._policy = policy
        self._beside = beside  # told at each turn that there may be something for handlers
        self._gate = gate
        self._doorbell = doorbell
        self._control = control
        self._lanes = lanes
        self._pacer = pacer
        self._room = room
        self._pause = pause
        self._dispatcher_id = dispatcher_id
        self._observe = observe
        self._rng = rng
        self._stopping = anyio.Event()
        self._finish = BatchCompleter(
            policy, gate=gate, doorbell=doorbell, stopping=self._stopping, observe=observe, rng=rng
        )
        self._isolate = PoisonBisector(
            policy,
            gate=apart,
            finish=self._finish,
            stopping=self._stopping,
            settled=pause.settled,
            observe=observe,
            rng=rng,
        )
        self._turn = anyio.Lock()
        self._place = ClaimCursor(passes_over=policy.share is not None)
        self._doubtful = UncertainClaims()
        self._in_flight: set[str] = set()  # claims lanes work on; any lane adds and removes its own
        self._sleepy = False  # the last claim came back short: sleep before the next
        self._failures = 0  # claims that failed since one was answered

    @property
    def in_flight(self) -> set[str]:
        """Claims that are being worked on."""
        return self._in_flight | self._isolate.claims

    @property
    def in_hand(self) -> int:
        """Batches that may still be claimed, published or settled."""
        return len(self.in_flight) + len(self._doubtful)

    def stop(self) -> None:
        """Take nothing new. `run()` returns when what is in flight is settled."""
        self._stopping.set()
        self._gate.stop()
        self._isolate.stop()
        self._doorbell.nudge()

    async def run(self) -> None:
        """Relay until `stop()`."""
        async with anyio.create_task_group() as lanes:
            lanes.start_soon(self._isolate.run, name="isolate")
            for number, postgres in enumerate(self._lanes):
                lanes.start_soon(self._lane, postgres, name=f"lane {number}")

    async def _lane(self, postgres: ReconnectingSession) -> None:
        while not self._stopping.is_set():
            # Without the turn: a lane whose session is away must not keep the others from claiming.
            if postgres.session is None:
                await self._nobody_looks()
            if await self._session(postgres) is None:
                continue
            async with self._turn:
                taken = await self._take(postgres)
            if taken is not None:
                await self._publish(postgres, taken)

    async def _nobody_looks(self) -> None:
        """Let the doorbell's key go while no lane has a session: writers would ring, and nobody could look."""
        if any(lane.session is not None for lane in self._lanes):
            return
        async with self._turn:
            if not any(lane.session is not None for lane in self._lanes):
                await self._doorbell.release(self._control)

    async def _publish(self, postgres: ReconnectingSession, taken: Taken) -> None:
        """Without the turn: finish what was sent; what is to be published apart goes there."""
        try:
            apart = [*taken.apart, *await self._finish.batch(postgres, taken.batch, taken.pending, taken.began)]
            if apart:
                await self._isolate.add(postgres, taken.batch._replace(rows=apart))
        finally:
            self._in_flight.discard(taken.batch.claim_id)
            self._pause.settled()

    # With the turn.

    async def _take(self, postgres: ReconnectingSession) -> Taken | None:
        """Sleep if there was nothing to do, claim, and write the pipeline. None: nothing was taken."""
        if self._pause.held():
            await self._wait_paused(postgres)
            return None
        if self._sleepy:
            self._sleepy = False
            if await self._doorbell.wait(self._control) == "nudge":
                self._place.forget()  # something may have been given back
        await self._doorbell.read_notifications(self._control)  # under load nobody listens for the pause otherwise
        if self._beside is not None:
            self._beside()
        if self._gate.shut():
            await self._doorbell.release(self._control)  # nobody will look: writers need not ring
        if self._stopping.is_set() or not await self._gate.open():
            return None
        incarnation = self._gate.connection.incarnation
        session = postgres.session
        if session is None:
            return None
        trial = self._gate.trial()
        began = monotonic()
        limit = min(1 if trial else self._pacer.limit(), await self._room.room())
        if limit == 0:
            await self._hold(began)
            return None
        try:
            await self._doubtful.free(session)
            if self._pause.held():  # whoever paused waits until nothing is in hand: no claim may begin after this
                return None
            batch = await self._claim(session, limit)
            self._failures = 0
            if batch.claimed_at - began > self._policy.lease_s / 2:
                # Frozen meanwhile: somebody may have taken over already. Tried again with the next claim if this fails.
                self._doubtful.add(batch.claim_id, session)
                self._in_flight.discard(batch.claim_id)
                await self._doubtful.free(session)
                return None
        except (SessionLost, psycopg.Error) as error:
            self._failures += 1
            pause_s = REFUSED.reconnect_delay(self._failures, self._rng)
            await statement_failed(postgres, session, error, began, self._observe, pause_s=pause_s)
            return None
        if not batch.rows:
            self._sleepy = True
            await self._doorbell.saw(0, self._control)
            return None
        taken, size = len(batch.rows), sum(len(row.payload) for row in batch.rows)
        self._room.took(taken)
        full = taken >= limit
        self._place.took(batch, full)
        self._observe(Claimed(taken, full))
        # Where they can cut nobody's connection but their own; a trial has to show whether this one works.
        apart = [] if trial else [row for row in batch.rows if row.attempts]
        if apart:
            batch = batch._replace(rows=[row for row in batch.rows if not row.attempts])
        if self._gate.connection.incarnation is incarnation:
            pending = send(self._gate.connection, self._policy.entry, batch, self._policy.publish_timeout_s)
        else:  # connected again meanwhile: not audited yet, or the batch's floor is another server's
            pending = unsent(batch, "the connection was replaced before it")
        self._pacer.saw(taken, size)
        self._sleepy = not full
        await self._doorbell.saw(taken, self._control)
        if full and not trial:
            await self._doorbell.ring_peers(self._control)
        return Taken(batch, pending, began, apart)

    async def _wait_paused(self, postgres: ReconnectingSession) -> None:
        """Claim nothing until the tick, or until somebody resumed."""
        self._sleepy, began = False, monotonic()
        if self._doubtful and (session := postgres.session) is not None:
            try:
                await self._doubtful.free(session)
            except (SessionLost, psycopg.Error) as error:
                await statement_failed(postgres, session, error, began, self._observe)
        self._pause.settled()
        took_s = monotonic() - began
        await self._doorbell.hold(self._control)
        self._observe(Ticked("ok", took_s))

    async def _hold(self, began: float) -> None:
        """Let a consumer group catch up."""
        await self._doorbell.release(self._control)  # nobody will look: writers need not ring
        with anyio.move_on_after(HOLD_S):
            await self._stopping.wait()
        self._observe(Ticked("ok", monotonic() - began))

    async def _claim(self, session: Session, limit: int) -> Batch:
        after, since_s = self._place.begin(monotonic())
        claim_id = new_claim_id()
        self._in_flight.add(claim_id)
        try:
            batch = await claim(
                session,
                claim_id=claim_id,
                dispatcher=self._dispatcher_id(),
                limit=limit,
                slots=self._policy.slots,
                after=after,
                floor=self._gate.connection.floor,
                share=self._policy.share,
                since_s=since_s,
                most_bytes=self._policy.entry.max_payload_bytes,
            )
        except psycopg.Error:
            self._in_flight.discard(claim_id)
            raise
        except SessionLost:
            self._in_flight.discard(claim_id)
            self._doubtful.add(claim_id, session)
            raise
        if not batch.rows:
            self._in_flight.discard(claim_id)
        if not batch.rows and not self._place.found_nothing(batch):
            return await self._claim(session, limit)
        return batch

    async def _session(self, postgres: ReconnectingSession) -> Session | None:
        """The lane's session; None when told to stop while waiting for one."""
        if postgres.session is None:
            async with anyio.create_task_group() as waiting:

                async def stopped() -> None:
                    await self._stopping.wait()
                    waiting.cancel_scope.cancel()

                waiting.start_soon(stopped, name="stop while the database is down")
                await postgres.get()
                waiting.cancel_scope.cancel()
        return postgres.session
