"""The claimer of a relay in order: claims one group of the slots at a time, and leaves alone what has to wait."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from time import monotonic

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer
from dispatcher.core.row import UNSCHEDULED, Batch, HandlerMark
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.claimer import Claimer
from dispatcher.relay.order.choose import Choice, choose
from dispatcher.relay.order.cursor import Looked, fresh_key
from dispatcher.relay.order.groups import SlotGroup
from dispatcher.relay.order.in_order import InOrder
from dispatcher.relay.policy import ClaimPolicy, PauseCheck
from dispatcher.stages.claim import EventTypeFilter, IndexKey, new_claim_id
from dispatcher.stages.claim_in_order import (
    OrderedClaim,
    Peeked,
    claim_chosen,
    claim_plainly,
    none_claimed,
    peek,
)

WINDOW = 2  # rows that a careful claim looks at for each one that it may take
MOST_LOOKED_AT = 20_000
OTHERS = 8  # one row in so many is kept for what was scheduled and is due: it must not come after fresh ones behind it


class OrderedClaimer(Claimer):
    """Claims the group that InOrder.ready() found. `sessions`: pids of sessions that write no events."""

    def __init__(
        self,
        policy: ClaimPolicy,
        order: InOrder,
        *,
        sessions: Callable[[], list[int]],
        dispatcher_id: Callable[[], int | None],
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
    ) -> None:
        super().__init__(policy, dispatcher_id=dispatcher_id, pause=pause, observe=observe, rng=rng)
        self._order = order
        self._sessions = sessions
        self._uncertain.on_released = order.released
        self.connection_epochs: Mapping[int, int] = {}  # by sink; written by the relay before each claim
        self._by_id_from = 0  # with which of these rows the next claim begins
        self._parked_since: OrderedClaim | None = None  # a claim that found rows parked that were not before
        self._held_back = frozenset[str]()  # event types that are not claimed now; earlier ones of an aggregate hold it
        self._window = 0  # rows that the last careful claim looked at, if it took none

    def claim_ended(self, claim_id: str) -> None:
        """Note that no row of this claim is worked on any more."""
        super().claim_ended(claim_id)
        if claim_id not in self._uncertain.ids:  # what may have been made is in hand until it is released
            self._order.claim_ended(claim_id)

    def rescan(self) -> None:
        """Begin the next claims at the start: rows were put back."""
        self._order.rescan()

    def choose(self, event_types: EventTypeFilter | None) -> None:
        """From now on claim these of our event types. Events of the others hold the later ones of their aggregates."""
        held_back = frozenset[str]()
        if event_types is not None and event_types != self._event_types:
            held_back = frozenset(event_types.types)
            if event_types.only_these and self._event_types is not None:
                held_back = frozenset(self._event_types.types) - held_back
        if held_back != self._held_back:
            self._held_back = held_back
            self._order.free_types()

    async def _claim(self, session: Session, limit: int, floor: str | None, mark: HandlerMark | None) -> Batch:
        claim_id = new_claim_id()
        group = await self._order.ready(session, self.connection_epochs, self._closed)
        if group is None or self._pause_check.paused():  # it may have waited
            # Whoever owns no slot sleeps until it gains some: it would look fifty times a second for nothing.
            return none_claimed(claim_id, floor)._replace(full=bool(self._order.slots.owned))
        group.leave_out(self._closed)
        if not group.open:
            group.more = False
            return none_claimed(claim_id, floor)._replace(full=self._order.groups.more)
        self.in_flight.add(claim_id)
        self._order.begin(claim_id, group)
        self._parked_since = None
        made = False  # whether rows were claimed: what fails after that leaves them picked, and nobody would hold them
        try:
            batch = await self._claim_group(session, claim_id, group, limit, floor, mark)
            if made := bool(batch.rows or batch.undone_by_trigger):
                batch = await self._look_through(session, batch)
        except (SessionLost, psycopg.Error) as error:
            if made or isinstance(error, SessionLost):
                self._uncertain.add(claim_id, session)
            self.claim_ended(claim_id)
            raise
        if not batch.rows:
            self.claim_ended(claim_id)
        return batch._replace(full=self._order.groups.more)

    async def _look_through(self, session: Session, batch: Batch) -> Batch:
        """What was claimed, without what has to wait."""
        order = self._order
        order.claimed(batch)
        if self._parked_since is not None:
            await self._note_parked(session, self._parked_since)
        kept = await order.hold_back_waiting(session, batch)
        if len(kept.rows) < len(batch.rows):
            order.claimed(kept)
        if order.one_per_aggregate:
            order.begun(batch.claim_id)
        return kept

    async def _claim_group(
        self, session: Session, claim_id: str, group: SlotGroup, limit: int, floor: str | None, mark: HandlerMark | None
    ) -> Batch:
        cursor, held, began = group.cursor, self._order.held, monotonic()
        while True:
            held.let_go_meanwhile.clear()
            cursor.begin(began)
            await cursor.prove(session, self._sessions())
            sure = not cursor.running  # no transaction is open that may have written rows before the position
            wanted = self._wanted(group, limit, floor, mark)
            found = None
            if not held.later_event_seen and not self._held_back and not held.rows("locked", "free"):
                found = await claim_plainly(session, claim_id, wanted)
                if found is not None and found[1]:
                    self._parked_since = wanted
            batch = found[0] if found is not None else await self._claim_carefully(session, claim_id, group, wanted)
            if found is not None:
                self._note_plain(group, wanted, batch)
            self._order.groups.note(group, batch.aggregate_keys.values(), full=group.more)
            if batch.rows or batch.undone_by_trigger or group.more:
                return batch
            if sure:
                cursor.ended(monotonic())
                return batch
            cursor.reset()  # a transaction may be over during which its position was right

    def _wanted(self, group: SlotGroup, limit: int, floor: str | None, mark: HandlerMark | None) -> OrderedClaim:
        position = group.cursor.position
        return OrderedClaim(
            dispatcher=self._dispatcher_id(),
            limit=limit,
            fresh_limit=min(group.cursor.share.limit(limit), limit - limit // OTHERS),
            fresh_after=position.fresh,
            after=position.other,
            floor=floor,
            mark=mark,
            mask=group.mask_parameter,
            owned=group.open.bit_count(),
            slot_epochs=self._order.slots.slot_epochs(group.open),
            layout=self._policy.layout,
            most_bytes=self._policy.max_payload_bytes,
            event_types=self._event_types,
            running=list(group.cursor.running),
            parked=self._order.held.rows("parked"),
            by_id=self._by_id(max(1, limit // OTHERS)),
            held_back=tuple(self._held_back),
        )

    def _by_id(self, most: int) -> list[int]:
        """Rows that are tried by their ids, for they may lie before the cursor: these now, others next time."""
        ids = self._order.held.rows("free", "locked")
        if len(ids) > most:
            ids.sort()
            self._by_id_from = self._by_id_from % len(ids)
            ids = [*ids, *ids][self._by_id_from : self._by_id_from + most]
            self._by_id_from += most
        return ids

    def _note_plain(self, group: SlotGroup, wanted: OrderedClaim, batch: Batch) -> None:
        """Note how far a plain claim has looked."""
        if batch.over_budget:  # what did not fit was released: it lies before the last key
            group.more = True
            return
        others = [(row.next_run_at, row.id) for row in batch.rows if row.next_run_at != UNSCHEDULED]
        fresh = [row for row in batch.rows if row.fresh] if others else batch.rows
        room = wanted.limit - len(fresh)
        group.cursor.share.note(wanted.limit, wanted.fresh_limit, len(fresh), len(others))
        more_fresh, more_others = len(fresh) >= wanted.fresh_limit, len(others) >= room
        group.more = more_fresh or more_others
        if not batch.rows:  # perhaps the claim was refused, and looked at nothing
            return
        group.cursor.note(
            Looked(fresh_key(fresh[-1].id) if fresh else None, not more_fresh),
            # Of those that were scheduled only what comes before the last fresh row was looked at.
            Looked(
                IndexKey(*max(others)) if others and not more_fresh else None,
                bool(room) and not (more_others or more_fresh),
            ),
        )
        if not group.more:
            group.cursor.ended(monotonic())

    async def _note_parked(self, session: Session, wanted: OrderedClaim) -> None:
        """Rows are parked that were not before: they hold the later ones, before any of those is published.

        One look tells of 10,000 of them: a later event behind one of which it does not tell would go out before it.
        """
        held, parked_only = self._order.held, replace(wanted, limit=0, fresh_limit=0, by_id=())
        while rows := await peek(session, replace(parked_only, parked=held.rows("parked"))):
            for row in rows:
                held.add(row.id, row.aggregate_key, "parked")

    async def _claim_carefully(self, session: Session, claim_id: str, group: SlotGroup, wanted: OrderedClaim) -> Batch:
        """Look first, and claim what does not have to wait."""
        limit = wanted.limit
        window = max(WINDOW * limit, self._window)
        fresh_window = wanted.fresh_limit * window // limit
        rows = await peek(session, replace(wanted, limit=window, fresh_limit=fresh_window))
        if any(row.kind == "parked" for row in rows):
            await self._note_parked(session, wanted)
        choice = choose(rows, self._order.held, limit, fresh_window, one_per_aggregate=self._order.one_per_aggregate)
        self._note_careful(group, wanted, rows, choice, window, fresh_window)
        self._window = min(2 * window, MOST_LOOKED_AT)
        if not choice.rows:
            return none_claimed(claim_id, wanted.floor)
        batch = await claim_chosen(session, claim_id, wanted, list(choice.rows))
        self._window = 0 if batch.rows else self._window
        if not batch.rows and group.cursor.running:  # one of them may be over
            group.cursor.reset()
            group.more = True
        elif not batch.undone_by_trigger:
            for row_id in choice.rows.keys() - batch.aggregate_keys.keys():
                self._order.held.add(row_id, choice.rows[row_id], "locked")
        if batch.over_budget:  # what did not fit was released
            group.cursor.reset()
            group.more = True
        return batch

    def _note_careful(
        self,
        group: SlotGroup,
        wanted: OrderedClaim,
        rows: Sequence[Peeked],
        choice: Choice,
        window: int,
        fresh_window: int,
    ) -> None:
        """Note how far a careful claim has looked."""
        fresh, others = (sum(row.kind == kind for row in rows) for kind in ("fresh", "other"))
        seen, last = choice.seen, choice.last
        more_fresh = seen["fresh"] < fresh or seen["fresh"] >= fresh_window
        room = window - fresh
        more_other = seen["other"] < others or seen["other"] >= room
        group.cursor.share.note(wanted.limit, wanted.fresh_limit, min(seen["fresh"], wanted.limit), seen["other"])
        if rows:
            group.cursor.note(
                Looked(fresh_key(last["fresh"].id) if "fresh" in last else None, not more_fresh),
                Looked(
                    _key(last["other"]) if "other" in last and not more_fresh else None,
                    bool(room) and not more_other and not more_fresh,
                ),
            )
        group.more = more_fresh or more_other or choice.let_go
        if choice.let_go:
            group.cursor.reset()


def _key(row: Peeked) -> IndexKey:
    return IndexKey(row.due_at or UNSCHEDULED, row.id)
