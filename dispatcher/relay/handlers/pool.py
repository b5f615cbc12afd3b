"""The pool of handlers: a bounded number of rows is handled at once, the others wait for a place.

A suspect, whose process ended under its handler, runs alone: nothing is claimed until it has had its turn. So it is
known what ends the next process, and nothing else is charged for it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic

from anyio.abc import TaskGroup

from dispatcher.core.decide import brief
from dispatcher.core.events import Handled, HandledAs, InHand, Observer, StuckHandlers
from dispatcher.core.outcome import FailedForGood, Outcome, Released, Waits
from dispatcher.core.pacing import CLAIM_BYTES, HANDLER_BYTES, BatchSizer, PrefetchLimit
from dispatcher.core.row import Batch, ClaimedRow, HandlerMark
from dispatcher.relay.handlers.call import HandlerExecutor, HandlerResult, call_handler
from dispatcher.relay.handlers.in_flight import HandlerTask, InFlight
from dispatcher.relay.handlers.type_limits import TypeLimits
from dispatcher.relay.policy import HandlerPolicy
from dispatcher.stages.claim import EventTypeFilter

NO_MORE_OF_TYPE = Released("no more handlers of its type may run now")
NO_PLACE = Released("no handler was free")
WAIT_S = 1.0  # a row that waits longer for a place is released: another dispatcher may have one
# A row that waited so long should be released by now: the loop was blocked, or Postgres away. It may be another's.
TOO_LATE_S = 2 * WAIT_S


class HandlerPool:
    """Gives free places to rows that wait, and says how many more to claim.

    `begin(task, mark)` writes the mark of a suspect before it runs; False: the row is not ours any more.
    """

    def __init__(
        self,
        policy: HandlerPolicy,
        executor: HandlerExecutor,
        in_flight: InFlight,
        *,
        begin: Callable[[HandlerTask, HandlerMark], Awaitable[bool]],
        type_limits: TypeLimits,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._executor = executor
        self._in_flight = in_flight
        self._begin = begin
        self._type_limits = type_limits
        self._observe = observe
        self._rng = rng
        self.prefetch = PrefetchLimit(policy.parallel, policy.batch_size)
        self._sizer = BatchSizer(policy.batch_size)
        self._exhausted = False  # this and the next: what was told last
        self._told = InHand(0, 0, 0)
        self._running: Counter[str] = Counter()  # handlers, by event type
        self._alone: HandlerTask | None = None  # the suspect that runs

    def note(self, batch: Batch) -> None:
        """Note what a claim brought."""
        self._sizer.note(len(batch.rows), batch.characters)

    def limit(self) -> int:
        """How many rows to claim now; 0 also while those in flight leave no room for the bytes of a claim."""
        stuck = self._executor.stuck
        limit = min(self.prefetch.limit(len(self._in_flight), stuck), self._sizer.limit())
        if self._in_flight.size > HANDLER_BYTES - CLAIM_BYTES:
            limit = 0
        exhausted = stuck >= self._policy.parallel
        if exhausted != self._exhausted:
            self._exhausted = exhausted
            types = Counter(self._executor.types.values())
            self._observe(StuckHandlers(exhausted, stuck, tuple(name for name, _ in types.most_common(3))))
        return 0 if self._alone is not None or self._in_flight.suspects else limit

    def mark(self, limit: int) -> HandlerMark:
        """What so many rows that are claimed now say to a successor: whether each finds a place at once."""
        free = self._policy.parallel - len(self._in_flight.running) - len(self._in_flight.waiting)
        return HandlerMark.BEGUN if limit <= free else HandlerMark.MAY_HAVE_BEGUN

    def event_types(self) -> EventTypeFilter | None:
        """What to claim now."""
        waiting = Counter(task.row.event_type for task in self._in_flight.waiting)
        return self._type_limits.to_claim(self._running + waiting, self._policy.claims.event_types)

    def report(self) -> None:
        """Tell what is in flight, when that changed; and find room: a stuck handler that ends tells nobody."""
        waiting = len(self._in_flight.waiting) + len(self._in_flight.suspects)
        now = InHand(len(self._in_flight.running), waiting, self._executor.stuck)
        if now != self._told:
            self._told = now
            self._observe(now)
        self._in_flight.room.set()

    def fill(self, handlers: TaskGroup) -> None:
        """Give free places to rows that wait. Those of a type that may have no more, and old ones, are released."""
        in_flight = self._in_flight
        while in_flight.waiting and len(in_flight.running) < self._policy.parallel:
            if monotonic() - in_flight.waiting[0].waits_since > TOO_LATE_S:
                in_flight.end(in_flight.waiting[0], NO_PLACE)
            elif self._may_begin(in_flight.waiting[0]):
                self._start(handlers, in_flight.waiting.popleft())
        while in_flight.suspects and not in_flight.running:
            if self._may_begin(in_flight.suspects[0]):
                self._alone = in_flight.suspects.popleft()
                self._start(handlers, self._alone)

    def _may_begin(self, task: HandlerTask) -> bool:
        event_type = task.row.event_type
        if self._running[event_type] < self._type_limits.most(event_type, self._running):
            return True
        self._in_flight.end(task, NO_MORE_OF_TYPE)
        return False

    def _start(self, handlers: TaskGroup, task: HandlerTask) -> None:
        self._in_flight.running.add(task)
        self._running[task.row.event_type] += 1
        handlers.start_soon(self._handle, handlers, task, name=f"handle {task.row.id}")

    async def _handle(self, handlers: TaskGroup, task: HandlerTask) -> None:
        try:
            if task is not self._alone or await self._begins(task):
                await self._decide(task)
        finally:
            self._running[task.row.event_type] -= 1
            if task is self._alone:
                self._alone = None
                self._in_flight.room.set()
        self.fill(handlers)

    async def _begins(self, task: HandlerTask) -> bool:
        """Mark a suspect. One that never ended, and that nobody can end, may still be what ends the process."""
        if await self._begin(task, HandlerMark.BEGUN if self._executor.stuck else HandlerMark.ALONE):
            return True
        if task in self._in_flight.running:
            self._in_flight.running.remove(task)
            self._in_flight.forget([task])
        return False

    async def _decide(self, task: HandlerTask) -> None:
        policy, row, began = self._policy, task.row, monotonic()
        handler = policy.handlers.get(row.event_type)
        if handler is None:
            why = f"no handler for event type {row.event_type!r} (DISPATCH_UNROUTED=dead)"
            self._in_flight.end(task, FailedForGood(brief(why)))
        elif reason := policy.unpublishable(row):
            self._in_flight.end(task, FailedForGood(reason))
        else:
            result = await call_handler(
                handler, row, self._executor, timeout_s=policy.timeout_s, retry=policy.retry, rng=self._rng
            )
            now = monotonic()
            if task not in self._in_flight.running:
                return  # released meanwhile
            self.prefetch.note(now - began)
            error = None if result.handled == "done" else getattr(result.outcome, "error", None)
            age_s = row.age_s + now - task.claimed_at
            outcome, handled = self._judge(row, result, now - began)
            self._observe(Handled(row.id, row.event_type, handled, age_s, now - began, error, result.place))
            self._in_flight.end(task, outcome)

    def _judge(self, row: ClaimedRow, result: HandlerResult, seconds: float) -> tuple[Outcome, HandledAs]:
        """Note the end with its type; what becomes of the row. An outage may turn out to be its own failure."""
        if result.failed is None:
            done, timed_out = result.handled == "done", result.handled == "timeout"
            self._type_limits.ended(row.event_type, seconds, done=done, timed_out=timed_out)
            return result.outcome, result.handled
        error = getattr(result.outcome, "error", "")
        wait_s = self._type_limits.outage(row.event_type, row.id, error)
        return (result.failed, "retry") if wait_s is None else (Waits(wait_s, error), "outage")

    def close(self) -> None:
        """Take no more: threads that are free end."""
        self._executor.threads.close()
