"""The rows that were claimed for handlers: who waits for a slot, who is being handled, who is to be settled."""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from dispatcher.core.outcome import Outcome
from dispatcher.core.row import Batch, ClaimedRow


@dataclass(eq=False, slots=True)
class HandlerTask:
    """One row in hand. `claimed_at`: monotonic seconds."""

    claim_id: str
    row: ClaimedRow
    claimed_at: float


Ended = tuple[HandlerTask, Outcome]


@dataclass(slots=True)
class InFlight:
    """Written by the tasks of one Handling, all on one event loop."""

    waiting: deque[HandlerTask] = field(default_factory=deque)
    running: set[HandlerTask] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    settling: list[Ended] = field(default_factory=list)
    claims: Counter[str] = field(default_factory=Counter)  # rows in hand of each; also a claim being made

    def __len__(self) -> int:
        """Rows not settled yet."""
        return len(self.waiting) + len(self.running) + len(self.ended) + len(self.settling)

    def take(self, batch: Batch) -> None:
        """Rows of a claim."""
        self.waiting.extend(HandlerTask(batch.claim_id, row, batch.claimed_at) for row in batch.rows)
        self.claims[batch.claim_id] += len(batch.rows)

    def end(self, work: HandlerTask, outcome: Outcome) -> None:
        """It is decided what becomes of a row that waited or was handled; a second word on it does not count."""
        if work in self.running:
            self.running.remove(work)
        elif work in self.waiting:
            self.waiting.remove(work)
        else:
            return
        self.ended.append((work, outcome))

    def to_settle(self) -> list[Ended]:
        """What has ended since; `settled` must follow."""
        self.settling, self.ended = self.ended, []
        return self.settling

    def settled(self) -> None:
        """What `to_settle` gave is written down."""
        self.forget(work for work, _ in self.settling)
        self.settling = []

    def forget(self, gone: Iterable[HandlerTask]) -> None:
        """These are not in hand any more."""
        for work in gone:
            self.claims[work.claim_id] -= 1
            if self.claims[work.claim_id] <= 0:
                del self.claims[work.claim_id]

    def everything(self) -> list[HandlerTask]:
        """All rows not settled yet."""
        return [*self.waiting, *self.running, *(work for work, _ in [*self.ended, *self.settling])]

    def in_flight(self) -> Collection[str]:
        """Claims that are being worked on."""
        return self.claims.keys()
