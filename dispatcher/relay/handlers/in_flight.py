"""Rows that were claimed for handlers: those that wait for a place, are handled, or wait to be settled."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from dispatcher.core.outcome import Outcome
from dispatcher.core.row import Batch, ClaimedRow


@dataclass(eq=False, slots=True)
class HandlerTask:
    """One row in flight. Monotonic seconds: when it was claimed; since when, with its texts, it waits for a place."""

    claim_id: str
    row: ClaimedRow
    claimed_at: float
    waits_since: float


EndedTask = tuple[HandlerTask, Outcome]


class InFlight:
    """Written by the tasks of one handler relay. `lanes_finished(claim_id)` is called when none of its rows is here.

    `forgotten(ids)`: in order, with the rows that are not here any more: settled, lost or kept aside.
    """

    def __init__(
        self, lanes_finished: Callable[[str], None], forgotten: Callable[[list[int]], None] | None = None
    ) -> None:
        self.waiting: deque[HandlerTask] = deque()
        self.suspects: deque[HandlerTask] = deque()  # each waits until it can run alone
        self.running: set[HandlerTask] = set()
        self.ended: list[EndedTask] = []
        self.size = 0  # characters of payloads and headers of all rows that are not settled
        self.settling: list[EndedTask] = []
        self.some_ended = asyncio.Event()  # cleared by whoever settles
        self.room = asyncio.Event()  # a place may be free; cleared by whoever waits for it
        self._some_settled = asyncio.Event()
        self._lanes_finished = lanes_finished
        self._forgotten = forgotten
        self._rows: Counter[str] = Counter()  # rows in flight, by claim id

    def __len__(self) -> int:
        """How many rows are not settled yet."""
        return len(self.waiting) + len(self.suspects) + len(self.running) + len(self.ended) + len(self.settling)

    def take(self, batch: Batch) -> None:
        """Add the rows of a claim."""
        now = monotonic()
        for row in batch.rows:
            queue = self.suspects if row.suspect else self.waiting
            queue.append(HandlerTask(batch.claim_id, row, batch.claimed_at, now))
        self._rows[batch.claim_id] += len(batch.rows)
        self.size += sum(row.size for row in batch.rows)  # exactly what is taken off again, or it would fill up

    def end(self, task: HandlerTask, outcome: Outcome) -> None:
        """Decide what becomes of a row that waited or was handled; a second decision on it does not count."""
        if task in self.running:
            self.running.remove(task)
        elif not self.drop(task):
            return
        self.ended.append((task, outcome))
        self.some_ended.set()
        self.room.set()

    def drop(self, task: HandlerTask) -> bool:
        """Let a row that waits wait no more; whether it did."""
        for queue in (self.waiting, self.suspects):
            if task in queue:
                queue.remove(task)
                return True
        return False

    def to_settle(self) -> list[EndedTask]:
        """What has ended since the last call; `note_settled()` must follow."""
        self.settling, self.ended = self.ended, []
        return self.settling

    def note_settled(self) -> None:
        """Forget what `to_settle()` gave: it is settled."""
        self.forget(task for task, _ in self.settling)
        self.settling = []
        self._some_settled.set()
        self.room.set()  # their bytes are free now

    async def wait_settled(self) -> None:
        """Wait until everything that has ended is settled."""
        while self.ended or self.settling:
            self._some_settled.clear()
            await self._some_settled.wait()

    def forget(self, tasks: Iterable[HandlerTask]) -> None:
        """Drop these rows: they are settled, lost or kept aside."""
        if self._forgotten is not None:
            tasks = list(tasks)
            self._forgotten([task.row.id for task in tasks])
        for task in tasks:
            self._rows[task.claim_id] -= 1
            self.size -= task.row.size
            if self._rows[task.claim_id] <= 0:
                del self._rows[task.claim_id]
                self._lanes_finished(task.claim_id)

    def everything(self) -> list[HandlerTask]:
        """All rows not settled yet."""
        return [*self.waiting, *self.suspects, *self.running, *(task for task, _ in [*self.ended, *self.settling])]
