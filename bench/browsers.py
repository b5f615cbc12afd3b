"""Many browsers in one process: WebSockets of the chat's gateway that resume, and what each of them was sent."""

import asyncio
import gc
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

from bench.websocket import connect
from dispatcher.demo.cleanup import leave_stopping_to_parent
from dispatcher.demo.messages import ConsumerProgress, Ended, Ready
from dispatcher.demo.tally import Tally

REPORT_S = 0.1
PAUSE_S = (0.1, 0.4)  # before a browser connects again; not all at the same moment
RELOAD = 4002
KEY, RESUMED = b'"key": "', b'{"type":"resumed"'
TWICE = b"twice "


@dataclass(frozen=True, slots=True)
class Browsers:
    """How many there are, and where. Browser k is in room k modulo `rooms`."""

    url: str
    sockets: int
    rooms: int


class Browsing:
    """The state of the process, written by its one thread."""

    def __init__(self, plan: Browsers) -> None:
        self.plan = plan
        self.connected = 0
        self.everybody = asyncio.Event()
        self.reads: list[tuple[int, list[bytes]]] = []
        self._dice = Random(1)

    async def stay(self, number: int) -> None:
        """One browser: connects, takes what comes, and comes back after the last entry that it had."""
        browser = Browser(self)
        url = f"{self.plan.url}rooms/room-{number % self.plan.rooms}/live"
        while True:
            with suppress(OSError):
                socket = await connect(f"{url}?after={browser.place}", browser.hear)
                try:
                    browser.close_code = await socket.closed
                finally:
                    socket.end(0)
            if browser.close_code == RELOAD:
                browser.last = b""
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))


class Browser:
    """What one of them has."""

    def __init__(self, browsing: Browsing) -> None:
        self._browsing = browsing
        self._seen: set[bytes] = set()
        self.last = b""  # the last frame with an id
        self.close_code = 0

    @property
    def place(self) -> str:
        """The id of the last entry that came."""
        return str(json.loads(self.last)["id"]) if self.last else ""

    def hear(self, text: bytes) -> None:
        """Take a frame."""
        now = time.perf_counter_ns()
        if (found := text.find(KEY)) > 0:
            key = text[found + len(KEY) : found + len(KEY) + 36]
            self._browsing.reads.append((now, [TWICE + key if key in self._seen else key]))
            self._seen.add(key)
        elif not self.last:
            self._browsing.connected += 1
            if self._browsing.connected == self._browsing.plan.sockets:
                self._browsing.everybody.set()
        if not text.startswith(RESUMED):
            self.last = text


def browse(plan: Browsers, pipe: Connection) -> None:
    """The body of the process: connect all, report Ready, report what comes until Stop."""
    leave_stopping_to_parent()
    with suppress(BrokenPipeError, EOFError):  # the parent is gone; nobody is left to tell
        asyncio.run(_browse(plan, pipe))


async def _browse(plan: Browsers, pipe: Connection) -> None:
    gc.disable()  # a collection would be measured as latency; the process ends with the run
    state = Browsing(plan)
    tasks = [asyncio.create_task(state.stay(number)) for number in range(plan.sockets)]
    await state.everybody.wait()
    await asyncio.to_thread(pipe.send, Ready())
    while not pipe.poll():  # the parent sends one thing: Stop
        await asyncio.sleep(REPORT_S)
        if state.reads:
            reads, state.reads = state.reads, []
            await asyncio.to_thread(pipe.send, ConsumerProgress(reads))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.to_thread(pipe.send, ConsumerProgress(state.reads))
    await asyncio.to_thread(pipe.send, Ended())


class RoomTally(Tally):
    """Each event has to come to every member of its room, once. Counts frames: `lost`, `matched`, `duplicated`."""

    def __init__(self, members: int) -> None:
        super().__init__(trace=True)
        self._members = members
        self._moments: dict[bytes, int] = {}
        self._came: dict[bytes, list[int]] = {}  # before the commit was reported

    @property
    def lost(self) -> int:
        """Frames that did not come (yet)."""
        return self.committed * self._members - self.matched

    def add_committed(self, events: Iterable[tuple[int, bytes]]) -> None:
        """Note commits: (moment, event_id)."""
        for moment, event_id in events:
            self.committed += 1
            self._moments[event_id] = moment
            for received in self._came.pop(event_id, ()):
                self._match(event_id, moment, received)

    def add_received(self, reads: Iterable[tuple[int, list[bytes]]]) -> None:
        """Note frames: (moment, [event_id]), marked where that browser had the event already."""
        for moment, event_ids in reads:
            for event_id in event_ids:
                if event_id.startswith(TWICE):
                    self.duplicated += 1
                elif (committed := self._moments.get(event_id)) is not None:
                    self._match(event_id, committed, moment)
                else:
                    self._came.setdefault(event_id, []).append(moment)
