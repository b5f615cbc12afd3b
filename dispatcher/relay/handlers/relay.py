"""Handling: claims rows whose event type has a handler, and runs their handlers, a bounded number at once.

It has a session of its own and waits neither for the relay nor for Redis. A row that was claimed and cannot get a slot
within a second is given back, for others to take. Each row is settled as its handler ends, in `HandlingDesk`.
"""

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic

import anyio
import psycopg
from anyio.abc import TaskGroup

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Claimed, Observer, Ticked
from dispatcher.core.outcome import Released
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.cursor import ClaimCursor
from dispatcher.relay.handlers.call import HandlerExecutor
from dispatcher.relay.handlers.in_flight import InFlight
from dispatcher.relay.handlers.pool import HandlerPool
from dispatcher.relay.handlers.settler import HandlerSettler
from dispatcher.relay.policy import HandlerPolicy, PauseCheck
from dispatcher.relay.stream.reconcile import REFUSED, statement_failed
from dispatcher.relay.uncertain import UncertainClaims
from dispatcher.stages.claim import claim, new_claim_id

REST = 3  # a claim that found nothing in t seconds is followed by 3 t of rest: each turn of the relay asks for one
STOPPING = Released("the dispatcher stopped")


class HandlerRelay:
    """Runs until told to stop. Its fields are written by its own tasks, all on one event loop."""

    def __init__(
        self,
        policy: HandlerPolicy,
        *,
        postgres: ReconnectingSession,
        crew: HandlerExecutor,
        dispatcher_id: Callable[[], int | None],
        arrived: Callable[[int], None],
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._postgres = postgres
        self._dispatcher_id = dispatcher_id
        self._arrived = arrived  # told how many rows a claim took
        self._pause = pause
        self._observe = observe
        self._rng = rng
        self._hand = InFlight()
        self._slots = HandlerPool(policy, crew, self._hand, ended=lambda: self._desk.nudge(), observe=observe, rng=rng)
        self._place = ClaimCursor(passes_over=policy.share is not None)
        self._doubtful = UncertainClaims()
        self._desk = HandlerSettler(
            postgres,
            self._hand,
            lease_s=policy.lease_s,
            due=self._due,
            slow=self._slots.appetite.saw,
            settled=pause.settled,
            beat=self._slots.report,
            observe=observe,
            rng=rng,
        )
        self._stopping = anyio.Event()
        self._look = asyncio.Event()  # there may be something to claim
        self._due_at = float("inf")  # when a retry of ours is due
        self._failures = 0  # claims that failed since one was answered

    @property
    def in_flight(self) -> set[str]:
        """Claims being worked on."""
        return set(self._hand.in_flight())

    @property
    def in_hand(self) -> int:
        """Claims that may still be made, worked on or settled."""
        return len(self._hand.claims) + len(self._doubtful)

    def nudge(self) -> None:
        """There may be something to claim."""
        self._look.set()

    def look_anew(self) -> None:
        """Rows were put back that fell due long ago."""
        self._place.forget()
        self._look.set()

    def stop(self) -> None:
        """Take nothing new; `run()` returns when what is being handled has ended, or its patience has."""
        self._stopping.set()
        self._look.set()
        self._slots.room.set()

    async def run(self) -> int:
        """Handle until `stop()`; returns how many rows were given back at the end."""
        self._look.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._desk.settle_all, name="settle what was handled")
            tasks.start_soon(self._desk.tend, name="leases of handlers")
            async with anyio.create_task_group() as handlers:
                await self._claim_all(handlers)
                given_back = await self._finish_within(self._policy.patience_s)
                handlers.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
        self._slots.report()
        self._slots.close()
        return given_back

    async def _claim_all(self, handlers: TaskGroup) -> None:
        more = False
        while not self._stopping.is_set():
            if not more:
                with anyio.move_on_after(min(self._policy.tick_s, max(0.0, self._due_at - monotonic()))):
                    await self._look.wait()
            self._look.clear()
            while (limit := self._slots.limit()) == 0 and not self._stopping.is_set():
                self._slots.room.clear()
                await self._slots.room.wait()
            session = self._postgres.session
            if session is None or self._stopping.is_set():
                await self._session_or_stop()
                more = True
                continue
            if self._pause.held():
                await self._wait_paused(session)
                continue
            if monotonic() >= self._due_at:
                self._due_at = float("inf")
                self._place.forget()
            began = monotonic()
            batch = await self._claim(session, limit)
            rows = len(batch.rows) if batch else 0
            more = rows == limit
            if batch and batch.rows:
                self._slots.fill(handlers)
            else:
                with anyio.move_on_after(REST * (monotonic() - began)):
                    await self._stopping.wait()

    async def _wait_paused(self, session: Session) -> None:
        """Claim nothing until the tick, or until somebody resumed."""
        began = monotonic()
        try:
            await self._doubtful.free(session)
        except (SessionLost, psycopg.Error) as error:
            await statement_failed(self._postgres, session, error, began, self._observe)
        self._pause.settled()
        self._look.clear()
        with anyio.move_on_after(self._policy.tick_s):
            await self._look.wait()
        self._look.set()

    async def _session_or_stop(self) -> None:
        """Return when there is a session, or it is to stop."""
        async with anyio.create_task_group() as waiting:

            async def stopped() -> None:
                await self._stopping.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(stopped, name="stop while the database is down")
            await self._postgres.get()
            waiting.cancel_scope.cancel()

    async def _claim(self, session: Session, limit: int) -> Batch | None:
        """Up to so many rows; None: it failed, or the rows were given back."""
        began, claim_id = monotonic(), new_claim_id()
        after, since_s = self._place.begin(began)
        self._hand.claims[claim_id] += 1  # in flight from now on
        try:
            await self._doubtful.free(session)
            if self._pause.held():  # whoever paused waits until nothing is in hand: no claim may begin after this
                return None
            batch = await claim(
                session,
                claim_id=claim_id,
                dispatcher=self._dispatcher_id(),
                limit=limit,
                slots=self._policy.slots,
                after=after,
                floor=None,
                share=self._policy.share,
                since_s=since_s,
                most_bytes=self._policy.max_payload_bytes,
            )
            self._failures = 0
            if batch.claimed_at - began > self._policy.lease_s / 2:
                # Frozen meanwhile: somebody may have taken over already. Tried again with the next claim if this fails.
                self._doubtful.add(claim_id, session)
                await self._doubtful.free(session)
                return None
        except (SessionLost, psycopg.Error) as error:
            if isinstance(error, SessionLost):
                self._doubtful.add(claim_id, session)
            self._failures += 1
            pause_s = REFUSED.reconnect_delay(self._failures, self._rng)
            await statement_failed(self._postgres, session, error, began, self._observe, pause_s=pause_s)
            self._look.set()
            return None
        else:
            if batch.rows:
                self._place.took(batch, len(batch.rows) == limit)
                self._hand.take(batch)
                self._observe(Claimed(len(batch.rows), len(batch.rows) == limit))
            elif not self._place.found_nothing(batch):
                self._look.set()  # nothing after the cursor; late commits may stand before it
            self._observe(Ticked("ok", monotonic() - began))
            self._arrived(len(batch.rows))
            return batch
        finally:
            self._hand.claims[claim_id] -= 1
            if self._hand.claims[claim_id] <= 0:
                del self._hand.claims[claim_id]

    def _due(self, in_s: float) -> None:
        """A retry of ours is due in so many seconds."""
        self._due_at = min(self._due_at, monotonic() + in_s)
        self._look.set()  # wait anew

    async def _finish_within(self, patience_s: float) -> int:
        """Give back what waits; wait for what is being handled, then give that back too. Returns how many."""
        before = self._desk.given_back
        for work in list(self._hand.waiting):
            self._slots.end(work, STOPPING)
        with anyio.move_on_after(patience_s):
            while self._hand.running:
                self._slots.room.clear()
                await self._slots.room.wait()
        for work in list(self._hand.running):
            self._slots.end(work, STOPPING)
        await self._desk.empty()
        return self._desk.given_back - before
