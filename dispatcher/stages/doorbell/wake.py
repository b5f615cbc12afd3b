"""Wake: sleep until there may be something to claim, without taxing the writers while awake.

Whoever sleeps holds advisory key K exclusively, and a writer that fails to take K shared at its commit rings. Awake, a
dispatcher lets K go and writers commit in silence. No wake-up is lost: with K in hand every writer that stayed silent
has ended, and the look after it sees what they committed; every later writer rings. See triggers/doorbell.sql.

All methods are called by one task at a time, the one whose turn it is to claim; `nudge` by anyone.
"""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Literal

import anyio
import psycopg

from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.events import Observer, Slept, Ticked, WakeCause, Woke
from dispatcher.core.pacing import ArrivalRate, PollBackoff
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.doorbell import heartbeat as ping
from dispatcher.stages.doorbell.due import DueCheck
from dispatcher.stages.doorbell.heartbeat import ListenerHeartbeat
from dispatcher.stages.doorbell.timer import WakeTimer

DOORBELL = "outbox_doorbell"  # rung by writers; only the holder of K listens
BACKLOG = "outbox_backlog"  # rung by a dispatcher that has more than it can take
CONTROL = "outbox_control"  # rung by whoever pauses or resumes
RING_PEERS_EVERY_S = 1.0
ALL_SLOTS = 256
_RING_PEERS = f"SELECT pg_notify('{BACKLOG}', '')"
_RELEASE = f"SELECT pg_advisory_unlock({locks.DOORBELL})"

Position = Literal["asleep", "writers", "peer", "filling"]


class Doorbell:
    """Waits on the control session, or on the tick alone while that session is down."""

    def __init__(
        self,
        *,
        tick_s: float,
        slots: int,
        ping_channel: str,
        observe: Observer,
        on_control: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._tick_s = tick_s
        self._slots = slots
        self._ping = ListenerHeartbeat(ping_channel, clock)
        self._observe = observe
        self._on_control = on_control  # CONTROL was rung, or it may have been while nobody listened
        self._clock = clock
        self._doze = PollBackoff(tick_s)
        self._look = DueCheck(slots, observe, clock)
        self._arrivals = ArrivalRate()
        self._session: Session | None = None  # the session the fields below speak of
        self._holds_key = self._listens = False
        self._rang_at = -inf
        self._nudge = WakeTimer(clock)
        self._woken_by: WakeCause = "nudge"
        self._fruitless = False  # the last claim got nothing of what a look had found

    async def attach(self, session: Session) -> None:
        """Make a new session fit for waiting: it must be direct, and hear its own ring.

        Raises Unreachable when it is deaf, as behind a transaction pooler.
        """
        if session.pooled:
            raise Unreachable(
                "the listener is behind a transaction pooler, where LISTEN is deaf; "
                "set DISPATCH_LISTEN_URL to a direct connection"
            )
        await session.fetch(f"LISTEN {BACKLOG}")
        await session.fetch(f"LISTEN {CONTROL}")
        await session.fetch(f"LISTEN {self._ping.channel}")
        await self._ping.ring(session)
        with anyio.move_on_after(ping.EVERY_S):
            while not any(channel == self._ping.channel for channel, _, _ in session.drain_notifications()):
                await session.wait_readable()
            return
        raise Unreachable("the listener is deaf: its own notification did not come back")

    def nudge(self, due_in_s: float = 0.0) -> None:
        """Something of ours is due in so many seconds (0: now, or the relay must look at its state): wake in time."""
        self._nudge.give(due_in_s)

    async def saw(self, rows: int, postgres: ReconnectingSession) -> None:
        """A claim took so many rows; lets K go when they come too fast for every writer to ring."""
        now = self._clock()
        self._arrivals.saw(rows, now)
        if rows:
            self._doze.reset()  # or the pauses would grow to the tick while writers always overlap, rows or no rows
        if self._holds_key and not self._arrivals.keep_key(now):
            await self.release(postgres)
        self._fruitless = not rows and self._woken_by in ("busy", "due", "tick", "writers")
        if not rows and self._slots < ALL_SLOTS and self._woken_by == "notify" and postgres.session is not None:
            # What rang is not in our share, and whose it is was not rung: only the holder of K is.
            await self._quietly(postgres, postgres.session, _RING_PEERS)

    def arrived(self, rows: int) -> None:
        """Rows were claimed elsewhere than in the turn: by handlers. They too say how fast writers ring."""
        self._arrivals.saw(rows, self._clock())

    async def wait(self, postgres: ReconnectingSession) -> WakeCause:
        """Wait until there may be something to claim, and say why."""
        self._woken_by = await self._wait(postgres)
        self._observe(Woke(self._woken_by))
        return self._woken_by

    async def _wait(self, postgres: ReconnectingSession) -> WakeCause:
        session = postgres.session
        if self._replaced(session) and session is not None:
            return "reconnect"  # what was rung in between was rung to nobody
        if self._arrivals.polling and not self._holds_key:
            pause_s = min(self._arrivals.poll_s(self._clock()), self._tick_s)
            return "nudge" if await self._pause(pause_s) else "poll"
        if session is not None:
            try:
                return await self._sleep(session)
            except SessionLost as error:
                await postgres.report_broken(session, str(error))
                return "reconnect"
            except psycopg.Error as error:
                self._observe(Ticked("error", 0.0, describe(error)))
                if not self._holds_key:  # a doze cut after it got K keeps K, and we would let go of it once too few
                    await self._quietly(postgres, session, _RELEASE)
        return "nudge" if await self._pause(self._tick_s) else "tick"

    async def read_notifications(self, postgres: ReconnectingSession) -> None:
        """Hear what was rung while awake, without waiting. A claim must follow: what rang for rows is forgotten."""
        session = postgres.session
        if session is not None and session is self._session:
            try:
                self._hear(session, session.drain_notifications())
            except SessionLost as error:
                await postgres.report_broken(session, str(error))

    async def hold(self, postgres: ReconnectingSession) -> None:
        """Wait for the tick, a nudge or CONTROL while nothing may be claimed: writers need not ring."""
        self._replaced(postgres.session)
        await self.release(postgres)
        if (session := postgres.session) is None:
            await self._pause(self._tick_s)
            return
        try:
            await self._ping.check(session)
            await self._listen(session, self._tick_s)
        except SessionLost as error:
            await postgres.report_broken(session, str(error))
        except psycopg.Error as error:
            self._observe(Ticked("error", 0.0, describe(error)))

    def _replaced(self, session: Session | None) -> bool:
        """Whether the session is another one than before; then nothing is known of it."""
        if session is self._session:
            return False
        self._session, self._holds_key, self._listens = session, False, False
        self._ping.begin()
        self._look.begin()
        self._on_control()
        return True

    async def release(self, postgres: ReconnectingSession) -> None:
        """Let K go: from now on writers need not ring, because we look without being rung."""
        session = postgres.session
        if session is None or session is not self._session or not self._holds_key:
            return
        if await self._quietly(postgres, session, _RELEASE):
            self._holds_key = False

    async def ring_peers(self, postgres: ReconnectingSession) -> None:
        """Tell the other dispatchers that there is more than one can take; at most once a second."""
        session, now = postgres.session, self._clock()
        if session is None or self._look.filling or now - self._rang_at < RING_PEERS_EVERY_S:
            return
        self._rang_at = now
        await self._quietly(postgres, session, _RING_PEERS)

    async def _quietly(self, postgres: ReconnectingSession, session: Session, sql: str) -> bool:
        try:
            await session.fetch(sql)
        except SessionLost as error:
            await postgres.report_broken(session, str(error))
        except psycopg.Error as error:
            self._observe(Ticked("error", 0.0, describe(error)))
        else:
            return True
        return False

    async def _sleep(self, session: Session) -> WakeCause:
        first, planned = True, False
        before: Position | None = None
        while True:
            if self._nudge.taken(early=True):
                return "nudge"
            # Clear the flag, then look: a ring that comes during the look is still there to wake us.
            self._hear(session, session.drain_notifications())
            began = self._clock()
            position, due_s = await self._take_position(session)
            now = self._clock()
            pause_s = inf
            if due_s <= 0 and self._fruitless:
                # Somebody holds a lock on what is due: looking again at once would find the same, as fast as it can.
                self._fruitless, due_s = False, inf
                pause_s = self._doze.pause_s()
            if due_s <= 0:
                return "busy" if first else "writers" if before == "writers" else "due" if planned else "tick"
            before = position
            if not first:
                self._observe(Ticked("ok", now - began))
            first = False
            if position != "filling":
                await self._ping.check(session)
            timeout, planned = min(self._tick_s, due_s), due_s < self._tick_s
            if pause_s < inf:
                timeout = min(timeout, pause_s)
            elif position == "writers":
                timeout = min(timeout, self._doze.pause_s())
            else:
                self._doze.reset()
            if cause := await self._listen(session, timeout):
                return cause

    async def _take_position(self, session: Session) -> tuple[Position, float]:
        """Get K if it is free, then look. Returns who has K and seconds until a row is due (inf: none waits)."""
        if self._look.filling:
            due_s, filling = await self._look.due_s(session)
            if filling:
                return "filling", due_s
        if not self._holds_key:
            [(position, due)] = await session.fetch(load("doze"), {"slots": self._slots})
            if position == "peer" and self._listens:
                await session.fetch(f"UNLISTEN {DOORBELL}")  # one ring must not wake a herd
                self._listens = False
            if position != "asleep":
                return position, inf if due is None else due
            self._holds_key = True
        if not self._listens:  # or an earlier LISTEN was refused, and K in hand would be rung to nobody
            await session.fetch(f"LISTEN {DOORBELL}")
            self._listens = True
        # The look inside doze.sql is older than K: a silent writer may have committed between the two.
        due_s, filling = await self._look.due_s(session)
        if not filling:
            return "asleep", due_s
        await session.fetch(_RELEASE)
        self._holds_key = False
        return "filling", due_s

    async def _listen(self, session: Session, timeout_s: float) -> WakeCause | None:
        """Wait for a ring, a nudge or the timeout (None)."""
        self._observe(Slept(self._holds_key, timeout_s))
        deadline, waits = self._clock() + timeout_s, True
        while waits:
            # Before waiting too: a ring that came with the answer to the look is not on the socket any more.
            if cause := self._hear(session, session.drain_notifications()):
                return cause
            waits = await self._nudge.wait(deadline, session.wait_readable)
        return "nudge" if self._nudge.taken() else None

    def _hear(self, session: Session, notices: list[tuple[str, str, int]]) -> WakeCause | None:
        cause: WakeCause | None = None
        for channel, _, sender in notices:
            self._ping.heard(channel)
            if channel == DOORBELL:
                cause = "notify"
            elif channel == CONTROL:
                self._on_control()
            elif channel == BACKLOG and sender != session.backend_pid:
                cause = cause or "peer"
        return cause

    async def _pause(self, seconds: float) -> bool:
        """Sleep so long, or until nudged (True)."""
        await self._nudge.wait(self._clock() + seconds, anyio.sleep_forever)
        return self._nudge.taken()
