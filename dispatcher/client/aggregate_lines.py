"""The entries that wait at a consumer that keeps the order: a line for each aggregate, one of each line in hand."""

import heapq
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, NamedTuple


class Line(NamedTuple):
    """Whose entries stay in order: those of one aggregate in one key of the stream."""

    key: str
    aggregate_type: str
    aggregate_id: str


@dataclass(slots=True)
class Queued:
    """An entry that waits. Those that wait for long are without their fields, which are fetched when it begins."""

    id: str
    line: Line
    deliveries: int  # so many with the one that begins when its function is called
    is_new: bool  # we read it as a new entry, so Redis has counted that delivery; else it is counted as it begins
    fields: dict[Any, Any] | None = None
    size: int = 0  # bytes of the fields
    began: float = 0.0  # when its function was called last, on the reader's clock

    @property
    def loaded(self) -> int:
        """Bytes of its fields, 0 while they are still in Redis: what counts against the memory of a reader."""
        return self.size if self.fields is not None else 0


class Lines:
    """All lines of a reader. Of each line one entry is in hand, or its first may begin, or its first has failed and
    waits for its time. `bytes_most`: so many bytes of fields wait with their entries.
    """

    def __init__(self, bytes_most: int) -> None:
        self._bytes_most = bytes_most
        self._waiting: dict[Line, deque[Queued]] = {}
        self._ready: deque[Line] = deque()  # its first may begin
        self._in_hand: dict[Line, str] = {}  # id
        self._held: dict[Line, float] = {}  # its first failed: until when
        self._due: list[tuple[float, Line]] = []  # a heap of those, and of some that are held no more
        self._by_key: Counter[str] = Counter()
        self._loaded = 0  # bytes

    def add(self, entry: Queued) -> None:
        """Queue an entry that comes after all that are known of its line."""
        if entry.fields is not None:
            if self._loaded + entry.size > self._bytes_most:
                entry.fields = None
            else:
                self._loaded += entry.size
        line = entry.line
        if line not in self._waiting:
            self._waiting[line] = deque()
            if line not in self._in_hand:
                self._ready.append(line)
        self._waiting[line].append(entry)
        self._by_key[line.key] += 1

    def knows(self, entry_id: str, line: Line) -> bool:
        """Whether this one is in hand, or the first of its line and has failed."""
        return self._in_hand.get(line) == entry_id or (line in self._held and self._waiting[line][0].id == entry_id)

    def count(self, key: str) -> int:
        """How many of a shard wait."""
        return self._by_key[key]

    def next(self, now: float) -> Queued | None:
        """Take the next one that may begin in hand."""
        while self._due and self._due[0][0] <= now:
            due, line = heapq.heappop(self._due)
            if self._held.get(line) == due:
                del self._held[line]
                self._ready.append(line)
        if not self._ready:
            return None
        line = self._ready.popleft()
        entry = self._waiting[line].popleft()
        if not self._waiting[line]:
            del self._waiting[line]
        self._by_key[line.key] -= 1
        self._loaded -= entry.loaded
        self._in_hand[line] = entry.id
        return entry

    def end(self, line: Line) -> None:
        """The one in hand is done with: the next of its line may begin."""
        del self._in_hand[line]
        if line in self._waiting and line not in self._held:
            self._ready.append(line)

    def hold(self, entry: Queued, due: float) -> None:
        """The one in hand has failed: it is the first of its line again, from then on. Call end() after that."""
        entry.fields = None
        self._waiting.setdefault(entry.line, deque()).appendleft(entry)
        self._by_key[entry.line.key] += 1
        self._held[entry.line] = due
        heapq.heappush(self._due, (due, entry.line))

    @property
    def next_due(self) -> float | None:
        """When the next one that failed may begin."""
        return self._due[0][0] if self._due else None

    @property
    def is_behind(self) -> bool:
        """Whether entries wait for one of their line that is in hand."""
        return any(line in self._waiting for line in self._in_hand)

    def new_ones(self, key: str) -> list[str]:
        """Those of a shard whose delivery was counted, and that were not begun."""
        return [
            entry.id for line, entries in self._waiting.items() if line.key == key for entry in entries if entry.is_new
        ]

    def drop(self, key: str, *, failed: bool) -> None:
        """Forget what waits of a shard; with `failed` also that some of it failed and has to wait for its time."""
        self._ready = deque(line for line in self._ready if line.key != key)
        for line in [line for line in self._waiting if line.key == key]:
            entries = self._waiting.pop(line)
            if line in self._held and not failed:
                self._waiting[line] = deque([entries.popleft()])
            else:
                self._held.pop(line, None)
            self._by_key[key] -= len(entries)
            self._loaded -= sum(entry.loaded for entry in entries)
