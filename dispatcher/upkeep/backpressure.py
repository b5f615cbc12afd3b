"""Backpressure: claiming stops before MAXLEN trims what a consumer group has not read.

Redis trims in silence, and afterwards the group's lag looks small. An entry goes only when MAXLEN newer ones are
there, so nothing unread is trimmed while no group has more than MAXLEN to read. The slowest group may have nine tenths;
the last tenth is shared out among the dispatchers, and each looks again before it has published more than its share.
The look goes down the connection that carries the entries, so it counts all that this dispatcher has written before it.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import anyio

from dispatcher.core.condition import is_exempt
from dispatcher.core.decide import Refused
from dispatcher.core.events import BackpressureBlind, BackpressureChanged, Observer
from dispatcher.core.outages import in_short, is_unavailable
from dispatcher.core.pacing import HOLD_BACK_AT
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.info import fields_of
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import repeat

OFF_BELOW = 0.8
SHARED = 0.1  # what is left above HOLD_BACK_AT
LOOK_EVERY_S = 1.0  # at least, while something is published
COUNT_EVERY_S = 10.0
COUNT_NEAR_EVERY_S = 1.0  # from half of MAXLEN on: soon the number will matter
NEAR_AT = 0.5


class Backpressure:
    """How many rows may be claimed. Its fields are written by the lane that has the turn, but for `_dispatchers`."""

    def __init__(
        self,
        connection: RedisConnection,
        *,
        stream: str,
        maxlen: int,
        deadline_s: float,
        exempt: Sequence[str] = (),
        observe: Observer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._maxlen = maxlen
        self._deadline_s = deadline_s
        self._exempt = exempt  # patterns of groups that hold nothing back
        self._observe = observe
        self._clock = clock
        self._dispatchers = 8  # that may publish at once, until they are counted; written by run()
        self._on = False
        self._blind: str | None = None  # why nothing can be held back, as it was reported last
        self._near = False
        self._nearing = anyio.Event()
        self._left = 0
        self._look_at = 0.0
        self._positions = StreamPositions()

    async def allowance(self) -> int:
        """Rows that may be published now; 0: none, ask again a little later."""
        if self._on or self._left <= 0 or self._clock() >= self._look_at:
            await self._look()
        return 0 if self._on else self._left

    def spend(self, rows: int) -> None:
        """Note that so many rows are about to be published."""
        self._left -= rows

    async def run(self, postgres: ReconnectingSession) -> None:
        """Count those who share the last tenth, until cancelled."""
        # A failure tells nothing: the number of before will do.
        await repeat(postgres, self._count, failed=lambda error: None, pause_s=COUNT_NEAR_EVERY_S)

    async def _count(self, session: Session) -> float:
        [(self._dispatchers,)] = await session.fetch(load("count_dispatchers"))
        self._nearing = anyio.Event()
        if self._near:
            return COUNT_NEAR_EVERY_S
        with anyio.move_on_after(COUNT_EVERY_S):
            await self._nearing.wait()
        return 0.0

    async def _look(self) -> None:
        group, unread = await self._slowest()
        on = unread >= (OFF_BELOW if self._on else HOLD_BACK_AT) * self._maxlen
        self._near = unread >= NEAR_AT * self._maxlen
        if self._near:
            self._nearing.set()
        # One more than there are: the next one may just have started.
        self._left = max(1, int(SHARED * self._maxlen / (self._dispatchers + 1)))
        self._look_at = self._clock() + LOOK_EVERY_S
        if on != self._on:
            self._on = on
            self._observe(BackpressureChanged(on, group, unread))

    def _report(self, blind: str | None) -> None:
        if blind != self._blind:
            self._blind = blind
            self._observe(BackpressureBlind(blind))

    async def _slowest(self) -> tuple[str, int]:
        """The group with most to read, and how much; ("", 0) when there is none or it may not be asked."""
        [found] = await self._connection.send([("XINFO", "GROUPS", self._stream)], self._deadline_s)
        if isinstance(found, Refused) and is_unavailable(found.text):
            self._report(f"Redis refused: {in_short(found.text)}; allow this user +xinfo")
        if not isinstance(found, list):
            # No stream yet, or no right to look. A connection that broke takes no entries either.
            return ("", 0) if isinstance(found, Refused) or not self._on else ("", self._maxlen)
        groups = [fields_of(each) for each in found]
        if self._exempt:
            groups = [each for each in groups if not is_exempt(each["name"].decode(errors="replace"), self._exempt)]
        stream: dict[str, Any] = {}
        if any(group.get("lag") is None for group in groups):
            # It carries the first and the last entry, payload and all: asked only when there is no other way.
            [about] = await self._connection.send([("XINFO", "STREAM", self._stream)], self._deadline_s)
            stream = fields_of(about) if isinstance(about, list) else {}
            if "entries-added" not in stream:
                self._report("this Redis does not tell what a group has read: it is older than 7.0")
                return "", 0
        self._report(None)
        # What Redis does not tell is counted, but only where publishing would be held back because of it.
        matters = (OFF_BELOW if self._on else HOLD_BACK_AT) * self._maxlen
        slowest = (0, "")
        for group in groups:
            unread = await self._positions.unread(group, stream, self._read, matters=matters, most=self._maxlen)
            slowest = max(slowest, (unread, group["name"].decode(errors="replace")))
        return slowest[1], slowest[0]

    async def _read(self, begin: str, end: str, count: int) -> list[tuple[Any, Any]] | None:
        [page] = await self._connection.send(
            [("XRANGE", self._stream, begin, end, "COUNT", str(count))], self._deadline_s
        )
        return page if isinstance(page, list) else None
