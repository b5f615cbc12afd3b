"""The slots of the handlers: a bounded number of rows is handled at once, the others wait their turn."""

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic

from anyio.abc import TaskGroup

from dispatcher.core.decide import brief
from dispatcher.core.events import Handled, InHand, Observer, StuckHandlers
from dispatcher.core.outcome import Dead, Outcome
from dispatcher.core.pacing import PrefetchLimit
from dispatcher.relay.handlers.call import HandlerExecutor, call_handler
from dispatcher.relay.handlers.in_flight import HandlerTask, InFlight
from dispatcher.relay.policy import HandlerPolicy


class HandlerPool:
    """`ended` is told of each row that is to be settled; `room` is set when a slot comes free."""

    def __init__(
        self,
        policy: HandlerPolicy,
        crew: HandlerExecutor,
        hand: InFlight,
        *,
        ended: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._crew = crew
        self._hand = hand
        self._ended = ended
        self._observe = observe
        self._rng = rng
        self.appetite = PrefetchLimit(policy.parallel, policy.batch_size)
        self.room = asyncio.Event()
        self._exhausted = False  # this and the next: what was said last
        self._said = InHand(0, 0, 0)

    def limit(self) -> int:
        """How many rows to claim now."""
        stuck = self._crew.stuck
        limit = self.appetite.limit(len(self._hand), stuck)
        exhausted = stuck >= self._policy.parallel
        if exhausted != self._exhausted:
            self._exhausted = exhausted
            self._observe(StuckHandlers(exhausted, stuck))
        return limit

    def report(self) -> None:
        """Say what is in hand, when that changed; and look for room: nobody else notices that a stuck handler ended."""
        now = InHand(len(self._hand.running), len(self._hand.waiting), self._crew.stuck)
        if now != self._said:
            self._said = now
            self._observe(now)
        self.room.set()

    def fill(self, handlers: TaskGroup) -> None:
        """Give free slots to rows that wait."""
        hand = self._hand
        while hand.waiting and len(hand.running) < self._policy.parallel:
            work = hand.waiting.popleft()
            hand.running.add(work)
            handlers.start_soon(self._work, handlers, work, name=f"handle {work.row.id}")

    async def _work(self, handlers: TaskGroup, work: HandlerTask) -> None:
        row, began = work.row, monotonic()
        route = self._policy.routes.get(row.event_type)
        if route is None:
            why = f"no handler for event type {row.event_type!r} (DISPATCH_UNROUTED=dead)"
            self.end(work, Dead(brief(why)))
        elif reason := self._policy.unfit(row):
            self.end(work, Dead(reason))
        else:
            policy = self._policy
            result = await call_handler(
                route, row, self._crew, timeout_s=policy.timeout_s, retry=policy.retry, rng=self._rng
            )
            now = monotonic()
            if work not in self._hand.running:
                return  # given back meanwhile
            self.appetite.saw(now - began)
            outcome = result.outcome
            error = None if result.handled == "done" else getattr(outcome, "error", None)
            age_s = row.age_s + now - work.claimed_at
            handled = result.handled
            self._observe(Handled(row.id, row.event_type, handled, age_s, now - began, error, result.where))
            self.end(work, outcome)
        self.fill(handlers)

    def end(self, work: HandlerTask, outcome: Outcome) -> None:
        """What became of a row that waited or was handled."""
        self._hand.end(work, outcome)
        self._ended()
        self.room.set()

    def close(self) -> None:
        """Take no more: threads that are free end."""
        self._crew.threads.close()
