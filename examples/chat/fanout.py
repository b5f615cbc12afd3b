"""Who is in which room, and what was sent lately: one reader of the stream for all browsers. No I/O.

The id of an entry of the stream is a browser's place in it: what it was sent up to there it has, what comes after it
it lacks. Ids rise; rooms share them. A stream with shards has several keys, and a Fanout each: all events of a room
are in one of them.
"""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

Id = tuple[int, int]  # milliseconds, number: as Redis counts
QUEUE = 500  # frames that wait for one browser
BACKLOG = 20_000  # entries that are kept for those who come back


@dataclass(frozen=True, slots=True)
class Frame:
    """What browsers are sent for an entry of the stream."""

    id: Id
    room: str
    text: str


def parse(entry_id: str) -> Id:
    """The id as numbers, which compare as Redis compares. Raises ValueError."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def written(place: Id) -> str:
    """The id as Redis writes it."""
    return f"{place[0]}-{place[1]}"


class Browser:
    """One WebSocket: the frames that wait for it, and how it ends. `ended` gets the close code."""

    def __init__(self, room: str, limit: int = QUEUE) -> None:
        self.room = room
        self.frames: asyncio.Queue[str] = asyncio.Queue(limit)
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def offer(self, text: str, too_slow: int) -> None:
        """Queue a frame; end with the code `too_slow` when the queue is full."""
        try:
            self.frames.put_nowait(text)
        except asyncio.QueueFull:
            self.end(too_slow)

    def end(self, code: int) -> None:
        """Close it with this code. The first one counts."""
        if not self.ended.done():
            self.ended.set_result(code)


class Fanout:
    """Sends each frame to the browsers of its room and keeps the last ones. `floor`: what is after it is all kept."""

    def __init__(self, too_slow: int, limit: int = BACKLOG) -> None:
        self.floor: Id | None = None  # None: not known before the next entry
        self.place: Id = (0, 0)  # of the last entry that was read
        self._too_slow = too_slow
        self._limit = limit
        self._kept: list[Frame] = []
        self._rooms: defaultdict[str, set[Browser]] = defaultdict(set)

    def publish(self, frame: Frame) -> None:
        """Send it to its room."""
        self.pass_over(frame.id)
        self._kept.append(frame)
        if len(self._kept) >= 2 * self._limit:
            self.floor = self._kept[-self._limit - 1].id
            del self._kept[: -self._limit]
        for browser in self._rooms.get(frame.room, ()):
            browser.offer(frame.text, self._too_slow)

    def pass_over(self, place: Id) -> None:
        """An entry that is for no browser."""
        self.place = place
        self.floor = self.floor or place

    def covers(self, place: Id) -> bool:
        """Whether all that came after this entry is kept."""
        return self.floor is not None and self.floor <= place <= self.place

    def enter(self, browser: Browser) -> Id:
        """From now on the browser gets what comes, after the entry whose id is returned."""
        self._rooms[browser.room].add(browser)
        return self.place

    def resume(self, browser: Browser, after: Id) -> list[str]:
        """Enter, and get what it lacks since `after`, which the fanout must cover."""
        self.enter(browser)
        first = bisect_right(self._kept, after, key=lambda frame: frame.id)
        return [frame.text for frame in self._kept[first:] if frame.room == browser.room]

    def leave(self, browser: Browser) -> None:
        """The browser is gone."""
        room = self._rooms[browser.room]
        room.discard(browser)
        if not room:
            del self._rooms[browser.room]

    def restart(self, code: int) -> None:
        """Entries were missed: nothing before now is complete any more. Ends all browsers with this code."""
        self._kept.clear()
        self.floor = None
        self.end_all(code)

    def say_all(self, text: str) -> None:
        """Send this to every browser."""
        for browser in self.browsers():
            browser.offer(text, self._too_slow)

    def end_all(self, code: int) -> None:
        """End every browser with this code."""
        for browser in self.browsers():
            browser.end(code)

    def browsers(self) -> list[Browser]:
        """All that have joined."""
        return [browser for room in self._rooms.values() for browser in room]
