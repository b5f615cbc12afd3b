"""Backpressure: claiming stops before MAXLEN trims what a consumer group has not read.

Redis trims in silence, and afterwards the group's lag looks small. An entry goes only when MAXLEN newer ones are
there, so nothing unread is trimmed while no group has more than MAXLEN to read. The slowest group may have nine tenths;
the last tenth is shared out among the dispatchers, and each asks Redis again before it has published more than that.
The question goes down the connection that carries the entries, so it counts all that this dispatcher wrote before it.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import anyio

from dispatcher.core.decide import Refused
from dispatcher.core.events import BackpressureBlind, BackpressureChanged, Observer
from dispatcher.core.findings.condition import is_exempt
from dispatcher.core.outages import in_short, is_unavailable, tells_nothing
from dispatcher.core.pacing import GO_ON_BELOW, HOLD_BACK_AT
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.info import fields_of
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.redis.replies import text_of
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import repeat

SHARED = 0.1  # what is left above HOLD_BACK_AT
ASK_EVERY_S = 1.0  # at least, while something is published
COUNT_EVERY_S = 10.0
COUNT_NEAR_EVERY_S = 1.0  # from half of MAXLEN on: soon the number will matter
NEAR_AT = 0.5


class Backpressure:
    """How many rows may be claimed. Its fields are written by the lane that has the turn, but for `_dispatchers`."""

    def __init__(
        self,
        connection: RedisConnection,
        *,
        streams: Sequence[str],
        maxlen: int,
        deadline_s: float,
        exempt: Sequence[str] = (),
        observe: Observer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._connection = connection
        self._streams = tuple(streams)
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
        self._ask_at = 0.0
        self._positions = {stream: StreamPositions() for stream in self._streams}

    async def allowance(self) -> int:
        """How many rows may be published now; 0: none, ask again a little later."""
        if self.would_ask_redis():
            await self._measure()
        return self.rows_left()

    def rows_left(self) -> int:
        """How many rows may be published now, as it was known last."""
        return 0 if self._on else max(self._left, 0)

    def would_ask_redis(self) -> bool:
        """Whether the next `allowance()` would ask Redis."""
        return self._on or self._left <= 0 or self._clock() >= self._ask_at

    def use_up(self, rows: int) -> None:
        """Note that so many rows are about to be published."""
        self._left -= rows

    async def run(self, postgres: ReconnectingSession, others: "Sequence[Backpressure]" = ()) -> None:
        """Count those who share the last tenth, until cancelled; for others too, of further shards."""

        async def count(session: Session) -> float:
            [(dispatchers,)] = await session.fetch(load("count_dispatchers"))
            nearing = anyio.Event()
            for each in (self, *others):
                each._dispatchers, each._nearing = dispatchers, nearing
            if any(each._near for each in (self, *others)):
                return COUNT_NEAR_EVERY_S
            with anyio.move_on_after(COUNT_EVERY_S):
                await nearing.wait()
            return 0.0

        # A failure tells nothing: the number of before will do.
        await repeat(postgres, count, failed=lambda error: None, pause_s=COUNT_NEAR_EVERY_S)

    async def _measure(self) -> None:
        group, unread = await self._slowest()
        on = unread >= (GO_ON_BELOW if self._on else HOLD_BACK_AT) * self._maxlen
        self._near = unread >= NEAR_AT * self._maxlen
        if self._near:
            self._nearing.set()
        # One more than there are: the next one may just have started.
        self._left = max(1, int(SHARED * self._maxlen / (self._dispatchers + 1)))
        self._ask_at = self._clock() + ASK_EVERY_S
        if on != self._on:
            self._on = on
            self._observe(BackpressureChanged(on, group, unread))

    def _report(self, blind: str | None) -> None:
        if blind != self._blind:
            self._blind = blind
            self._observe(BackpressureBlind(blind))

    async def _slowest(self) -> tuple[str, int]:
        """The group with most to read, and how much; ("", 0) when there is none or it may not be asked."""
        commands = [("XINFO", "GROUPS", stream) for stream in self._streams]
        replies = await self._connection.send(commands, self._deadline_s)
        slowest, blind = (0, ""), list[str]()
        for stream, found in zip(self._streams, replies, strict=True):
            blind += _why_blind(found, "xinfo")
            if not isinstance(found, list):
                # No stream yet, or no right to ask. A connection that broke takes no entries either.
                if self._on and not isinstance(found, Refused):
                    return "", self._maxlen
                continue
            unread, group, unknown = await self._slowest_of(stream, found)
            blind += unknown
            slowest = max(slowest, (unread, group))
        if any(isinstance(found, list) for found in replies) or blind:
            self._report(blind[0] if blind else None)
        return slowest[1], slowest[0]

    async def _slowest_of(self, stream: str, found: list[Any]) -> tuple[int, str, list[str]]:
        """The same of one stream, how much first; and why it cannot be told."""
        groups = [fields_of(each) for each in found]
        if self._exempt:
            groups = [each for each in groups if not is_exempt(text_of(each["name"]), self._exempt)]
        about: dict[str, Any] = {}
        if any(group.get("lag") is None for group in groups):
            # It carries the first and the last entry, payload and all: asked only when there is no other way.
            [reply] = await self._connection.send([("XINFO", "STREAM", stream)], self._deadline_s)
            if not isinstance(reply, list):
                return self._maxlen if self._on else 0, "", _why_blind(reply, "xinfo")
            about = fields_of(reply)
        blind = list[str]()

        async def read(begin: str, end: str, count: int) -> list[tuple[Any, Any]] | None:
            [page] = await self._connection.send(
                [("XRANGE", stream, begin, end, "COUNT", str(count))], self._deadline_s
            )
            if "entries-added" not in about:  # before Redis 7 the bound is the whole stream, which would hold for ever
                blind.extend(_why_blind(page, "xrange"))
            return page if isinstance(page, list) else None

        # What Redis does not tell is counted, but only where publishing would be held back because of it.
        matters = (GO_ON_BELOW if self._on else HOLD_BACK_AT) * self._maxlen
        slowest = (0, "")
        for group in groups:
            known = self._positions[stream]
            unread = await known.unread(group, about, read, matters=matters, most=self._maxlen)
            slowest = max(slowest, (unread, text_of(group["name"])))
        of = "" if len(self._streams) == 1 else f" of {stream}"
        return 0 if blind else slowest[0], slowest[1] + of if slowest[1] else "", blind


def _why_blind(reply: Any, right: str) -> list[str]:
    """Why a group's place cannot be told, of the reply to a command that needs this right."""
    refused = tells_nothing if right == "xinfo" else is_unavailable
    if isinstance(reply, Refused) and refused(reply.text):
        return [f"Redis refused: {in_short(reply.text)}; allow this user +{right}"]
    return []
