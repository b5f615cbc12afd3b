"""The handler relay: claims rows whose event type has a handler, and calls their handlers, a bounded number at once.

It has a session of its own and waits neither for the stream relay nor for Redis. A row that waits for
a place for longer than a second is released, for others to take; a suspect waits on. Each row is settled as its handler
ends.
"""

import asyncio
import heapq
from collections.abc import Callable
from math import inf
from random import Random
from time import monotonic

import anyio
from anyio.abc import TaskGroup

from dispatcher.core.events import Observer, Ticked
from dispatcher.core.outcome import Released
from dispatcher.core.pacing import rest_after
from dispatcher.core.row import Batch, HandlerMark
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.claimer import Claimer, ClaimerParts
from dispatcher.relay.handlers.call import HandlerExecutor
from dispatcher.relay.handlers.in_flight import HandlerTask, InFlight
from dispatcher.relay.handlers.loop import HandlerLoop
from dispatcher.relay.handlers.pool import HandlerPool
from dispatcher.relay.handlers.settler import HandlerLeases, HandlerSettler
from dispatcher.relay.handlers.type_limits import TypeLimits
from dispatcher.relay.lease_renewer import LeaseRenewer
from dispatcher.relay.order.claimer import OrderedClaimer
from dispatcher.relay.order.in_order import InOrder, OrderParts, make_order
from dispatcher.relay.policy import HandlerPolicy, PauseCheck
from dispatcher.stages.doorbell.wake import Doorbell

REST = 3.0  # after a claim that found nothing: each turn of the stream relay asks for one
REMEMBERED = 10_000  # times at which retries are due; the tick finds others
STOPPING = Released("the dispatcher stopped")


class HandlerRelay:
    """Runs until told to stop. Its fields are written by its own tasks, all on one event loop.

    `on_claim(rows)` is called after each claim: these rows too say how fast writers ring.
    """

    def __init__(
        self,
        policy: HandlerPolicy,
        *,
        postgres: ReconnectingSession,
        chores: ReconnectingSession,
        executor: HandlerExecutor,
        dispatcher_id: Callable[[], int | None],
        on_claim: Callable[[int], None],
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
        doorbell: Doorbell,
        order: OrderParts | None = None,
    ) -> None:
        self._policy = policy
        self._postgres = postgres
        self._chores = chores
        self._on_claim = on_claim
        self._pause_check = pause
        self._observe = observe
        claiming: ClaimerParts = {"dispatcher_id": dispatcher_id, "pause": pause, "observe": observe, "rng": rng}
        self._order = None if order is None else self._make_order(order, doorbell)
        self._claimer = (
            Claimer(policy.claims, **claiming)
            if self._order is None
            else OrderedClaimer(policy.claims, self._order, own_pids=self._own_backend_pids, **claiming)
        )
        self._in_flight = InFlight(
            self._claimer.lanes_finished, self._order.forgotten if self._order is not None else None
        )
        self._begins = LeaseRenewer(observe, rng)  # of suspects that are about to run
        self._type_limits = TypeLimits(policy.handlers, policy.parallel, self.wake, observe, rng)
        self._pool = HandlerPool(
            policy,
            executor,
            self._in_flight,
            begin=self._begin,
            type_limits=self._type_limits,
            observe=observe,
            rng=rng,
        )
        settler = self._claimer.make_settler(
            batch_size=policy.batch_size, wake=self._wake_in, on_aside_round=self._note_aside
        )
        self._aside = settler.aside
        self._settler = HandlerSettler(postgres, self._in_flight, settler, pause)
        self._leases = HandlerLeases(
            postgres,
            self._in_flight,
            self._pool,
            LeaseRenewer(observe, rng),
            lease_s=policy.claims.lease_s,
            observe=observe,
        )
        self._stopping = anyio.Event()
        self._woken = asyncio.Event()  # there may be something to claim
        self._due: list[float] = []  # a heap: when retries of ours are due

    def _make_order(self, parts: OrderParts, doorbell: Doorbell) -> InOrder:
        return make_order(
            parts,
            doorbell,
            self.claims_in_flight,
            wake_relay=self.wake,
            event_types=self._policy.claims.event_types,
            one_per_aggregate=True,
        )

    def claims_in_flight(self) -> set[str]:
        """The ids of the claims that are worked on."""
        return self._claimer.in_flight | self._aside.claims

    def unfinished(self) -> int:
        """How many claims may still be made, worked on or settled."""
        return self._claimer.unfinished + len(self._aside.claims - self._claimer.in_flight)

    def wake(self) -> None:
        """Claim soon: there may be something."""
        self._woken.set()

    def rescan(self) -> None:
        """Claim soon, from the start: rows before the cursor may be due."""
        self._claimer.rescan()
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing new; `run()` returns when what is handled has ended, or `patience_s` is over."""
        self._stopping.set()
        self._woken.set()
        self._in_flight.room.set()

    async def run(self) -> int:
        """Handle until `stop()`; returns how many rows were released at the end."""
        self._woken.set()
        loop = asyncio.get_running_loop()
        if isinstance(loop, HandlerLoop):
            loop.handlers_run = True
        async with anyio.create_task_group() as beside, anyio.create_task_group() as tasks:
            beside.start_soon(self._aside.run, self._chores, name="what is kept aside")
            tasks.start_soon(self._settler.run, name="settle what was handled")
            tasks.start_soon(self._leases.run, name="leases of handlers")
            async with anyio.create_task_group() as handlers:
                await self._claim_all(handlers)
                async with anyio.create_task_group() as finishing:
                    finishing.start_soon(self._claimer.release_at_stop, [self._postgres, self._chores])
                    released = await self._finish_within(self._policy.patience_s)
                handlers.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
            self._aside.stop()
        self._pool.report()
        self._pool.close()
        if isinstance(loop, HandlerLoop):
            loop.handlers_run = False
        return released

    async def _claim_all(self, handlers: TaskGroup) -> None:
        more = False
        while not self._stopping.is_set():
            if not more:
                due_s = min((self._due[0] if self._due else inf) - monotonic(), self._type_limits.next_try_s())
                with anyio.move_on_after(min(self._policy.tick_s, max(0.0, due_s))):
                    await self._woken.wait()
            self._woken.clear()
            limit = await self._room()
            if await self._postgres.get_unless(self._stopping) is None:
                more = True  # what woke us is not claimed yet
                continue
            if self._pause_check.paused():
                await self._stand_by()
                continue
            while self._due and self._due[0] <= monotonic():
                heapq.heappop(self._due)
                self._claimer.rescan()
            event_types = self._pool.event_types()
            if event_types is not None and event_types.only_these and not event_types.types:
                more = False  # all wait for a server
                continue
            self._claimer.set_event_types(event_types)
            began = monotonic()
            batch = await self._claimer.claim(self._postgres, limit, None, self._pool.mark(limit))
            more = batch is None or batch.full
            self._take_in(handlers, batch, began)
            if not (batch and batch.rows):
                with anyio.move_on_after(rest_after(monotonic() - began, REST)):
                    await self._stopping.wait()

    def _take_in(self, handlers: TaskGroup, batch: Batch | None, began: float) -> None:
        if batch is None:
            return  # no session, a pause, a failure that was told, or an answer that came too late
        if batch.rows:
            self._in_flight.take(batch)
            self._pool.note(batch)
            self._pool.fill(handlers)
        self._observe(Ticked("ok", monotonic() - began))
        self._on_claim(len(batch.rows))

    def _own_backend_pids(self) -> list[int]:
        """As of StreamRelay."""
        sessions = [each.session for each in (self._postgres, self._chores)]
        return [session.backend_pid for session in sessions if session is not None]

    async def _begin(self, task: HandlerTask, mark: HandlerMark) -> bool:
        """Mark a row whose handler is about to begin; False: the row is not ours any more."""
        while True:
            ours = await self._begins.renew(self._postgres, [(task.row.id, task.claim_id)], floor=mark)
            if ours is not None:
                return bool(ours)

    async def _room(self) -> int:
        """How many rows to claim, waiting until there is room for one."""
        while (limit := min(self._pool.limit(), self._aside.room)) == 0 and not self._stopping.is_set():
            self._in_flight.room.clear()
            await self._in_flight.room.wait()
        return limit

    def _note_aside(self) -> None:
        self._in_flight.room.set()
        self._pause_check.note_claim_ended()

    async def _stand_by(self) -> None:
        """Claim nothing until the tick, or until somebody resumed."""
        await self._claimer.release_uncertain(self._postgres)
        self._pause_check.note_claim_ended()
        self._woken.clear()
        with anyio.move_on_after(self._policy.tick_s):
            await self._woken.wait()
        self._woken.set()

    def _wake_in(self, seconds: float) -> None:
        """Claim when a retry of ours is due, in so many seconds."""
        if len(self._due) < REMEMBERED:
            heapq.heappush(self._due, monotonic() + seconds)
        self._woken.set()  # wait anew

    async def _finish_within(self, patience_s: float) -> int:
        """Release what waits; wait so long for what is handled, then release that too. Returns how many rows."""
        before = self._settler.released
        for task in [*self._in_flight.waiting, *self._in_flight.suspects]:
            self._in_flight.end(task, STOPPING)
        with anyio.move_on_after(patience_s):
            while self._in_flight.running:
                self._in_flight.room.clear()
                await self._in_flight.room.wait()
        for task in list(self._in_flight.running):
            self._in_flight.end(task, STOPPING)
        await self._in_flight.wait_settled()
        return self._settler.released - before
