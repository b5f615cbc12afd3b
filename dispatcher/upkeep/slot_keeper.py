"""The keeper of slots: owns a fair share of the 256 slots for this dispatcher, while there is an order.

Each dispatcher makes the same plan of the same tables (core/slot_plan.py) and does its own part of it: it releases what
the plan gives to others, once nothing of it is in hand, and takes what is free and its own. It checks when another one
says that something changed, and every few seconds, which is its sign of life too.

Its statements run on the control session, which holds our lock in the registry: who looks dead takes no slot. Only the
LISTEN is on the upkeep session. Ownership stands in Postgres, and every claim asks for it there; the views of the
relays only say what is worth claiming.
"""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.events import Observer, SlotsChanged, SlotsWithoutOwner
from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import OwnedSlots, mask_of, ranges_of
from dispatcher.core.silence import Silence
from dispatcher.core.slot_plan import Member, plan
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.duty import tell_failure
from dispatcher.upkeep.registry import Registry

CHANGED = "outbox_slots"  # rung by whoever releases, frees or joins
EVERY_S = 5.0
AGAIN_S = 0.5  # after a failure
TELL_OWNERLESS_AFTER_S = 10.0  # slots that nobody owned for so long are told of


class Frozen(NamedTuple):
    """A dispatcher that may own slots and gave no sign of life for a lease. `seen_at`: the last one, as written."""

    id: int
    name: str
    seen_at: str


class SlotsState(NamedTuple):
    """The columns of sql/statements/slots_state.sql."""

    owners: list[int | None]
    epochs: list[int]
    revoked_from: list[int | None]
    fenced: list[bool]
    ids: list[int] | None
    names: list[str] | None
    may_own: list[int | None] | None
    seen_at: list[str] | None
    alive: list[bool] | None
    done: int  # 0: our row in the registry is gone

    def dispatchers(self) -> list[tuple[int, str, int | None, str, bool]]:
        """id, name, how many slots it may own (None: none), last sign of life and whether it holds its lock of each."""
        columns = (self.ids, self.names, self.may_own, self.seen_at, self.alive)
        return list(zip(*(each or [] for each in columns), strict=True))


class SlotKeeper:
    """Keeps the slots of one dispatcher. Its own task writes its fields; anyone sets `_rung`, and stop() `_leaving`.

    `views`: those of the relays, which own the same. `may_own()`: of how many of the first slots we may own some now;
    None: of none. Seconds are monotonic.
    """

    def __init__(
        self,
        registry: Registry,
        upkeep: ReconnectingSession,
        views: Sequence[OwnedSlots],
        *,
        may_own: Callable[[], int | None],
        lease_s: float,
        observe: Observer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._registry = registry
        self._control = registry.control
        self._upkeep = upkeep
        self._views = views
        self._may_own = may_own
        self._every_s = min(EVERY_S, lease_s / 4)
        self._observe = observe
        self._clock = clock
        self._silence = Silence(lease_s, at_most_s=2 * self._every_s)
        self._session: Session | None = None  # the session of the last check
        self._known: dict[int, int] = {}  # the epoch of each slot of ours
        self._told: dict[int, int] | None = None  # as told last
        self._revoked = 0  # slots taken from us since then
        self._ownerless_since: float | None = None
        self._ownerless = 0  # as told last
        self._leaving = False  # written by stop()
        self._left = anyio.Event()  # nothing is ours any more, after a stop
        self._rung = anyio.Event()  # replaced by run()
        self.frozen: tuple[Frozen, ...] = ()  # as of the last check
        self.unfinished = False  # as of the last check: slots are revoked, and not free yet
        for view in views:
            view.drained = self.check_soon
        upkeep.prepare(self._listen)
        upkeep.on_change(lambda up, reason: self._hear())
        self._control.on_change(lambda up, reason: self.check_soon())

    def check_soon(self) -> None:
        """Check now: something changed, here or in Postgres."""
        self._rung.set()

    def stop(self) -> None:
        """Give up all slots, each as soon as nothing of it is in hand."""
        self._leaving = True
        self.check_soon()

    async def leave(self) -> None:
        """Wait until the last slot is released, after `stop()` and when no relay works any more.

        Without a control session nothing is released: our lock is free, so others take us for dead, as they must.
        """
        self.stop()
        while self._known and self._control.session is not None and not self._left.is_set():
            with anyio.move_on_after(AGAIN_S):
                await self._left.wait()

    async def run(self) -> None:
        """Keep the slots until cancelled."""
        failed = tell_failure(self._observe, "slots")
        while True:
            session = await self._control.get()
            self._rung, rest_s = anyio.Event(), AGAIN_S  # replaced, then checked: what happens meanwhile is not lost
            try:
                await self.follow_plan(session)
                rest_s = self._every_s
            except SessionLost:
                pass
            except (psycopg.Error, DispatcherError) as error:
                failed(error)
            with anyio.move_on_after(rest_s):
                await self._rung.wait()

    async def follow_plan(self, session: Session) -> None:
        """Check once, and do what the plan says. Raises SessionLost or psycopg.Error; the next check goes on."""
        state = await self._read(session)
        us, may_own = self._registry.id, self._we_may_own()
        if us is None:
            return
        self._compare(state, us)
        await self._mark_own_fenced(session, state, us)
        members = [
            Member(id, min(theirs, SLOTS))
            for id, name, theirs, _, alive in state.dispatchers()
            if theirs and alive and id != us and not any(each.id == id for each in self.frozen)
        ]
        target = plan(state.owners, [*members, Member(us, may_own)] if may_own else members)
        given_up = [slot for slot in self._known if target[slot] != us]
        for view in self._views:
            view.give_up(given_up)
        released = await self._release(session, us)
        free = [
            slot
            for slot, (owner, revoked) in enumerate(zip(state.owners, state.revoked_from, strict=True))
            if owner is revoked is None and target[slot] == us
        ]
        if free:
            rows = await session.fetch(load("slots_take"), {"self": us, "wanted": free})
            self._gain({slot: epoch for slot, epoch, _ in rows})
        self._tell(released)
        if self._leaving and not self._known:
            self._left.set()

    async def _read(self, session: Session) -> SlotsState:
        if session is not self._session:
            self._session = session
            self._silence.forget()
        parameters = {"self": self._registry.id, "may_own": self._we_may_own()}
        [row] = await session.fetch(load("slots_state"), parameters)
        state = SlotsState._make(row)
        if (
            not state.done and not self._registry.deregistered
        ):  # somebody removed our row: nobody could take over from us
            await self._registry.enrol(session)
            self.check_soon()
        self._silence.note_check(self._clock())
        self.frozen = tuple(
            Frozen(id, name, seen_at)
            for id, name, may_own, seen_at, alive in state.dispatchers()
            if alive and id != self._registry.id and (may_own or id in state.owners) and self._silence.note(id, seen_at)
        )
        self.unfinished = any(each is not None for each in state.revoked_from)
        alive = {id for id, _, _, _, alive in state.dispatchers() if alive}
        self._note_ownerless(sum(owner not in alive for owner in state.owners))
        return state

    def _note_ownerless(self, slots: int) -> None:
        now = self._clock()
        if not slots:
            self._ownerless_since = None
        elif self._ownerless_since is None:
            self._ownerless_since = now
        late = self._ownerless_since is not None and now - self._ownerless_since >= TELL_OWNERLESS_AFTER_S
        if (told := slots if late else 0) != self._ownerless and not self._leaving:
            self._ownerless = told
            self._observe(SlotsWithoutOwner(told))

    def _we_may_own(self) -> int | None:
        return None if self._leaving else self._may_own()

    def _compare(self, state: SlotsState, us: int) -> None:
        """What is ours in Postgres is ours, under the epoch that stands there, and nothing else."""
        ours = {slot: state.epochs[slot] for slot, owner in enumerate(state.owners) if owner == us}
        lost = [slot for slot, epoch in self._known.items() if ours.get(slot) != epoch]
        self._revoked += len(lost)
        self._lose(lost)
        self._gain({slot: epoch for slot, epoch in ours.items() if slot not in self._known})

    async def _mark_own_fenced(self, session: Session, state: SlotsState, us: int) -> None:
        """Mark slots as fenced that were revoked from us, who are awake, and of which we have nothing in hand.

        Whoever revoked them fences us, unless it died before that: then nobody would, and they had no owner for good.
        """
        revoked = [
            slot
            for slot, (owner, fenced) in enumerate(zip(state.revoked_from, state.fenced, strict=True))
            if owner == us and not fenced
        ]
        if nothing_of := frozenset(revoked).intersection(*(view.out_of_hand(revoked) for view in self._views)):
            await session.fetch(load("slots_fenced"), {"owner": us, "wanted": sorted(nothing_of), "at_epochs": None})

    async def _release(self, session: Session, us: int) -> int:
        """Release what may be released in every view; returns how many slots."""
        releasable = frozenset.intersection(*(view.releasable for view in self._views))
        if not releasable:
            return 0
        parameters = {"self": us, "wanted": sorted(releasable)}
        rows = await session.fetch(load("slots_release"), parameters)
        # What was not ours any more is found by the next check.
        self._lose([slot for slot, *_ in rows])
        return len(rows)

    def _gain(self, epochs: Mapping[int, int]) -> None:
        self._known |= epochs
        for view in self._views:
            view.gain(epochs)

    def _lose(self, slots: Sequence[int]) -> None:
        for slot in slots:
            del self._known[slot]
        for view in self._views:
            view.lose(slots)

    def _tell(self, released: int) -> None:
        if self._known == self._told:
            return
        gained = len(self._known.items() - (self._told or {}).items())
        ranges, revoked = ranges_of(mask_of(self._known)), self._revoked
        self._told, self._revoked = dict(self._known), 0
        self._observe(SlotsChanged(len(self._known), len(ranges), gained, released, revoked))

    async def _listen(self, session: Session) -> None:
        await session.fetch(f"LISTEN {CHANGED}")

    def _hear(self) -> None:
        """Hear what the others say, on the upkeep session: nobody else reads its notifications."""
        session = self._upkeep.session
        if session is None or session.closed:
            return
        try:
            if any(channel == CHANGED for channel, _, _ in session.drain_notifications()):
                self.check_soon()
            session.when_readable(self._hear)
        except SessionLost:
            return  # it is opened again, and calls us
