"""Sleep until there may be something to claim, without slowing the writers down while awake.

A dispatcher that sleeps and is to be rung holds the doorbell's key, an advisory lock, exclusively; a writer that fails
to take the key shared at its commit rings. While rows come slowly the dispatcher keeps the key awake too; when they
come fast it releases the key, claims at short intervals, and writers commit in silence. No wake-up is lost: once a
dispatcher has the key, every writer that stayed silent has ended, and the due check after that sees what they
committed; every later writer rings. See triggers/doorbell.sql and docs/explanation/architecture.md.

All methods are called by one task at a time, the one whose turn it is to claim; `nudge` and `note_arrivals` by anyone.
"""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Literal

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import ListenerChanged, Observer, Slept, Ticked, WakeCause, Woke
from dispatcher.core.layout import SLOTS
from dispatcher.core.pacing import ArrivalRate, PollBackoff
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.doorbell.due import DueCheck, OwnRows, why_due
from dispatcher.stages.doorbell.listener import DOORBELL, PEERS, Listener
from dispatcher.stages.doorbell.owners import OwnerBell
from dispatcher.stages.doorbell.timer import WakeTimer

RING_PEERS_EVERY_S = 1.0
COUNT_RINGS_EVERY_S = 0.25
MANY_WAIT = 2  # commits that wait to ring: two are a queue; a single one happens at a light load too
_RING_PEERS = f"SELECT pg_notify('{PEERS}', '')"
_RELEASE = f"SELECT pg_advisory_unlock({locks.DOORBELL})"

# asleep: we have the key, and every writer rings us. writers: a writer that does not ring is committing, so check
# again soon. peer: another dispatcher has the key and is rung. filling: Postgres's notification queue is half full, so
# nobody has the key, nobody rings, and we check on the tick.
KeyState = Literal["asleep", "writers", "peer", "filling"]


class Doorbell:
    """Waits on the control session, or on the tick alone while that session is down.

    Rows of slots below `slots` are ours; `proof_events`: of `dispatcher prove` only; `owners`: see OwnerBell (order).
    """

    def __init__(
        self,
        control: ReconnectingSession,
        *,
        tick_s: float,
        slots: int,
        heartbeat_channel: str,
        observe: Observer,
        clock: Callable[[], float] = monotonic,
        proof_events: bool = False,
        owners: OwnerBell | None = None,
    ) -> None:
        self._control = control
        self._tick_s = tick_s
        self._slots = slots
        self.listener = Listener(heartbeat_channel, owners, clock)
        self._observe = observe
        self._clock = clock
        self._backoff = PollBackoff(tick_s)
        self._owners = owners
        owned = None if owners is None else lambda: owners.ranges
        self._rows = OwnRows(slots, proof_events=proof_events, owned=owned)
        self._due_check = DueCheck(self._rows, observe, clock)
        self._arrivals = ArrivalRate()
        self._session: Session | None = None  # the session that the next two speak of
        self._holds_key = self._listens = False
        self._rang_peers_at = self._offered_key_at = self._counted_rings_at = -inf
        self._timer = WakeTimer(clock)
        self._woken_by: WakeCause = "nudge"
        self._woken_at = -inf  # when the last wait ended: since then somebody claimed
        self._due_but_not_claimed = False  # the last due check found a row, and the claim after it took none
        control.prepare(self.listener.attach)
        control.on_change(self._control_changed)

    def nudge(self, due_in_s: float = 0.0) -> None:
        """Wake in so many seconds, when a row of ours is due; 0: at once, or the relay's state changed."""
        self._timer.wake_in(due_in_s)

    def _control_changed(self, up: bool, reason: str | None) -> None:
        self._observe(ListenerChanged(up, reason))
        if up:
            self.nudge()

    async def wait(self) -> WakeCause:
        """Wait until there may be something to claim, and say why."""
        self._woken_by = await self._wait()
        self._woken_at = self._clock()
        self._observe(Woke(self._woken_by))
        return self._woken_by

    async def note_claim(self, rows: int) -> None:
        """Note that the claim after a wake-up took so many rows; releases the key when they come too fast to ring."""
        now = self._clock()
        # With an order a ring may be for another owner's row. It still counts as one arrival.
        rang_for_other = 1 if self._owners is not None and self._woken_by == "notify" else 0
        self._arrivals.note(rows or rang_for_other, now)
        if rows:
            # Rows came: make the pauses short again. Otherwise constant writers make us wait as long as the tick.
            self._backoff.reset()
        if self._holds_key and self._woken_by == "notify" and self._arrivals.commits_may_queue(now):
            await self._count_rings_waiting(now)
        if self._holds_key and self._arrivals.polling:
            await self.release_key()
            await self._offer_key(now)
        self._due_but_not_claimed = not rows and self._woken_by in ("busy", "due", "tick", "writers")
        if not rows and self._slots < SLOTS and self._woken_by == "notify" and self._control.session is not None:
            # The row that rang is not in our slots, and its dispatcher was not rung: only the holder of the key is.
            await self._try_fetch(self._control.session, _RING_PEERS)

    async def _count_rings_waiting(self, now: float) -> None:
        """Find out whether commits that ring wait for one another, as happens where a flush to disk is slow."""
        session = self._control.session
        if session is None or session is not self._session or now - self._counted_rings_at < COUNT_RINGS_EVERY_S:
            return
        self._counted_rings_at = now
        waiting = await self._try_fetch(session, load("rings_waiting"))
        if waiting and waiting[0][0] >= MANY_WAIT:
            self._arrivals.note_rings_wait(now)

    async def _offer_key(self, now: float) -> None:
        """With an order, ring the peers, so that one of them takes the key: we look for rows of our own slots only."""
        if self._owners is None or self._owners.owns_all or now - self._offered_key_at < self._tick_s:
            return
        if self._control.session is not None:
            self._offered_key_at = now
            await self._try_fetch(self._control.session, _RING_PEERS)

    def note_arrivals(self, rows: int) -> None:
        """Note rows that the handler relay claimed: they too say how fast writers ring."""
        self._arrivals.note(rows, self._clock())

    async def read_notifications(self) -> None:
        """Read what arrived while awake, without waiting. Claim next: a ring read here will not wake us again."""
        session = self._control.session
        if session is not None and session is self._session:
            try:
                self.listener.hear(session)
            except SessionLost:
                return

    async def wait_while_paused(self, longest_s: float) -> None:
        """Nothing may be claimed: wait for a nudge, a ring, a pause, a resume or the tick; `longest_s` at most."""
        session = self._control.session
        self._note_session(session)
        await self.release_key()
        if session is None or session.closed:
            await self._pause(min(longest_s, self._tick_s))
            return
        try:
            await self.listener.heartbeat.check(session)
            await self._listen(session, min(longest_s, self._tick_s))
        except SessionLost:
            return
        except psycopg.Error as error:
            self._observe(Ticked("error", 0.0, describe(error)))

    async def release_key(self) -> None:
        """Release the key: writers need not ring, because we claim without it, or cannot claim now."""
        session = self._control.session
        if session is None or session is not self._session or not self._holds_key:
            return
        if await self._try_fetch(session, _RELEASE) is not None:
            self._holds_key = False

    async def ring_peers(self) -> None:
        """Tell the other dispatchers that there is more than one can take; at most once a second."""
        session, now = self._control.session, self._clock()
        if session is None or self._due_check.filling or now - self._rang_peers_at < RING_PEERS_EVERY_S:
            return
        self._rang_peers_at = now
        await self._try_fetch(session, _RING_PEERS)

    async def _wait(self) -> WakeCause:
        session = self._control.session
        if self._note_session(session) and session is not None:
            return "reconnect"  # rings between the old and the new session are lost, so claim now
        if self._arrivals.polling and not self._holds_key:
            now = self._clock()
            pause_s = min(self._arrivals.poll_s(now, now - self._woken_at), self._tick_s)
            return "nudge" if await self._pause(pause_s) else "poll"
        if session is not None:
            try:
                return await self._sleep(session)
            except SessionLost:
                return "reconnect"
            except psycopg.Error as error:
                self._observe(Ticked("error", 0.0, describe(error)))
                if not self._holds_key:
                    # doze.sql may have taken the key before it failed. We do not know, so release: the next one would
                    # take it a second time, and one release would not be enough.
                    await self._try_fetch(session, _RELEASE)
        return "nudge" if await self._pause(self._tick_s) else "tick"

    def _note_session(self, session: Session | None) -> bool:
        """Whether the session is another one than before; then nothing is known of it."""
        if session is self._session:
            return False
        self._session, self._holds_key, self._listens = session, False, False
        self._due_check.begin()
        self.listener.begin()
        return True

    async def _try_fetch(self, session: Session, sql: str) -> list[tuple[Any, ...]] | None:
        """The rows of the statement; None: it failed, or the session was lost."""
        try:
            return await session.fetch(sql)
        except SessionLost:
            return None
        except psycopg.Error as error:
            self._observe(Ticked("error", 0.0, describe(error)))
            return None

    async def _sleep(self, session: Session) -> WakeCause:
        """Loop: try to get the key, ask when a row is due, listen until a ring, that time or the tick.

        Returns why the loop ended.
        """
        first, until_due = True, False
        before: KeyState | None = None
        while True:
            if self._timer.nudged(only_now=True):
                return "nudge"
            # First read what came, then check: a ring that comes during the due check is still there to wake us.
            self.listener.hear(session)
            began = self._clock()
            key_state, due_s = await self._take_key(session)
            now = self._clock()
            pause_s = inf
            if due_s <= 0 and self._due_but_not_claimed:
                # A row is due, but the claim did not take it: it is locked, or waits for another one, perhaps for long.
                # To check again at once would spin, so pause. No standstill: an alert asks for ticks.
                self._due_but_not_claimed, due_s, pause_s = False, inf, self._backoff.pause_s()
                self._observe(Ticked("ok", now - began))
            if due_s <= 0:
                return why_due(first=first, writers=before == "writers", until_due=until_due)
            before = key_state
            if not first:
                self._observe(Ticked("ok", now - began))
            first = False
            if key_state != "filling":
                await self.listener.heartbeat.check(session)
            timeout, until_due = min(self._tick_s, due_s), due_s < self._tick_s
            if pause_s < inf:
                timeout = min(timeout, pause_s)
            elif key_state == "writers":
                timeout = min(timeout, self._backoff.pause_s())
            else:
                self._backoff.reset()
            if cause := await self._listen(session, timeout):
                return cause

    async def _take_key(self, session: Session) -> tuple[KeyState, float]:
        """Get the key if it is free, then check. Returns who has it, and in how many seconds a row is due."""
        if self._due_check.filling:
            due_s, filling = await self._due_check.due_s(session)
            if filling:
                return "filling", due_s
        if not self._holds_key:
            [(key_state, due)] = await session.fetch(load("doze", owned=self._rows.in_order), self._rows.parameters())
            if key_state == "peer" and self._listens:
                await session.fetch(f"UNLISTEN {DOORBELL}")  # one ring must not wake a herd
                self._listens = False
            if key_state != "asleep":
                return key_state, inf if due is None else due
            self._holds_key = True
        if not self._listens:  # or an earlier LISTEN was refused, and rings would reach nobody
            await session.fetch(f"LISTEN {DOORBELL}")
            self._listens = True
        # The due check inside doze.sql is older than the key: a silent writer may have committed between the two.
        due_s, filling = await self._due_check.due_s(session)
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
            # Before waiting too: a ring that came with the answer to the due check is not on the socket any more.
            if cause := self.listener.hear(session):
                return cause
            waits = await self._timer.wait(deadline, session.when_readable)
        return "nudge" if self._timer.nudged() else None

    async def _pause(self, seconds: float) -> bool:
        """Sleep so long, or until nudged (True)."""
        await self._timer.wait(self._clock() + seconds)
        return self._timer.nudged()
