"""The claimer of a relay in order: claims one group of slots at a time, and leaves alone what has to wait.

A claim goes these steps, and has each from one neighbour:

1. `InOrder.ready` (in_order.py) gives the slot group whose turn it is (groups.py): no slot of it is in hand.
2. Its `OrderedCursor` (cursor.py) says after which rows of the index of work the claim may begin.
3. `Held` (core/held.py) knows which aggregates are held, by which rows and why.
4. Rows are claimed by stages/claim_in_order.py. While no row that we know of has to wait: by one statement.
   Else by peek: `peek` reads the rows, `choose` (choose.py) picks those that wait for no other, `claim_chosen` claims
   these. So too when the one statement met a row that somebody had locked.
5. Both ways end in a `Scan` (cursor.py): how far the index was read. From that the cursor knows where the next claim
   begins, and the group whether there is more.
6. `InOrder` notes the rows, and releases those that have to wait after all: what holds them was found out meanwhile.

The base class (relay/claimer.py) does around this what is the same without an order: uncertain claims, pause, trials.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from time import monotonic

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer
from dispatcher.core.held import HoldReason
from dispatcher.core.row import UNSCHEDULED, Batch, ClaimedRow, HandlerMark
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.claimer import Claimer
from dispatcher.relay.order.choose import choose
from dispatcher.relay.order.cursor import Scan, fresh_key, index_order
from dispatcher.relay.order.groups import SlotGroup
from dispatcher.relay.order.in_order import InOrder
from dispatcher.relay.policy import ClaimPolicy, PauseCheck
from dispatcher.relay.settler import Settler
from dispatcher.stages.claim import EventTypeFilter, IndexKey, new_claim_id
from dispatcher.stages.claim_in_order import ClaimRequest, claim_chosen, claim_without_peek, none_claimed, peek

PEEK_FACTOR = 2  # rows that a claim by peek reads for each one that it may take
MOST_PEEKED = 20_000
# One row in so many is kept for what was scheduled and is due: else fresh rows with higher ids would overtake it.
ONE_IN_SO_MANY_SCHEDULED = 8


class OrderedClaimer(Claimer):
    """Claims the group that InOrder.ready() found. `own_pids`: backend pids of our sessions, which write no events."""

    def __init__(
        self,
        policy: ClaimPolicy,
        order: InOrder,
        *,
        own_pids: Callable[[], list[int]],
        dispatcher_id: Callable[[], int | None],
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
    ) -> None:
        super().__init__(policy, dispatcher_id=dispatcher_id, pause=pause, observe=observe, rng=rng)
        self._order = order
        self._own_pids = own_pids
        self._uncertain.on_released = order.released
        self.connection_epochs: Mapping[int, int] = {}  # by sink; written by the relay before each claim
        self._by_id_from = 0  # index into the rows of _by_id() where the next claim begins
        self._parked_since: ClaimRequest | None = None  # a claim that found rows parked that were not before
        self._waiting_types = frozenset[str]()  # that are not claimed now: an event of them holds its aggregate
        self._least_window = 0  # the next claim by peek reads so many rows, at least: more after one that took none

    def make_settler(
        self, *, batch_size: int, wake: Callable[[float], None], on_aside_round: Callable[[], None]
    ) -> Settler:
        """The same, and the order hears of each settle."""
        settler = super().make_settler(batch_size=batch_size, wake=wake, on_aside_round=on_aside_round)
        settler.on_settled = self._order.settled
        return settler

    def lanes_finished(self, claim_id: str) -> None:
        """Note that no lane works on this claim any more. See Claimer."""
        super().lanes_finished(claim_id)
        if claim_id not in self._uncertain.ids:  # what may have been made is in hand until it is released
            self._order.lanes_finished(claim_id)

    def rescan(self) -> None:
        """Begin the next claims at the start: rows before the cursors may be claimable."""
        self._order.rescan()

    def set_event_types(self, event_types: EventTypeFilter | None) -> None:
        """From now on claim these of our event types. Events of the others hold the later ones of their aggregates."""
        waiting = frozenset[str]()
        if event_types is not None and event_types != self._event_types:
            waiting = frozenset(event_types.types)
            if event_types.only_these and self._event_types is not None:
                waiting = frozenset(self._event_types.types) - waiting
        if waiting != self._waiting_types:
            self._waiting_types = waiting
            self._order.end_holds_of_types()

    async def _claim(self, session: Session, limit: int, floor: str | None, mark: HandlerMark | None) -> Batch:
        claim_id = new_claim_id()
        group = await self._order.ready(session, self.connection_epochs, self._left_out)
        if group is None or self._pause_check.paused():  # it may have waited
            # full: do not sleep. Whoever owns no slot sleeps until it gains some: else it would come here fifty times a
            # second for nothing.
            return none_claimed(claim_id, floor)._replace(full=bool(self._order.slots.owned))
        group.leave_out(self._left_out)
        if not group.not_left_out:
            group.more = False
            return none_claimed(claim_id, floor)._replace(full=self._order.groups.more)
        self.in_flight.add(claim_id)
        self._order.begin(claim_id, group)
        self._parked_since = None
        made = (
            False  # whether rows were claimed: what fails after that leaves them picked, and nobody would work on them
        )
        try:
            batch = await self._claim_group(session, claim_id, group, limit, floor, mark)
            if made := bool(batch.rows or batch.undone_by_trigger):
                batch = await self._note_claimed(session, batch)
        except (SessionLost, psycopg.Error) as error:
            if made or isinstance(error, SessionLost):
                self._uncertain.add(claim_id, session)
            self.lanes_finished(claim_id)
            raise
        if not batch.rows:
            self.lanes_finished(claim_id)
        return batch._replace(full=self._order.groups.more)

    async def _note_claimed(self, session: Session, batch: Batch) -> Batch:
        """Note the rows that were claimed. Returns the batch without those that have to wait, which are released."""
        order = self._order
        order.claimed(batch)
        if self._parked_since is not None:
            await self._note_parked(session, self._parked_since)
        kept = await order.release_waiting(session, batch)
        if len(kept.rows) < len(batch.rows):
            order.claimed(kept)
        if order.one_per_aggregate:
            order.leave_slots(batch.claim_id)
        return kept

    async def _claim_group(
        self, session: Session, claim_id: str, group: SlotGroup, limit: int, floor: str | None, mark: HandlerMark | None
    ) -> Batch:
        cursor, held, began = group.cursor, self._order.held, monotonic()
        while True:
            held.holds_ended.clear()
            cursor.begin(began)
            await cursor.prove(session, self._own_pids())
            sure = not cursor.running  # no transaction is open that may have written rows before the position
            wanted = self._wanted(group, limit, floor, mark)
            batch = await self._claim_without_peek(session, claim_id, group, wanted)
            if batch is None:
                batch = await self._claim_by_peek(session, claim_id, group, wanted)
            self._order.groups.note(group, batch.aggregate_keys.values(), full=group.more)
            if batch.rows or batch.undone_by_trigger or group.more:
                return batch
            if sure:
                cursor.ended(monotonic())
                return batch
            cursor.reset()  # its position was valid only while a certain transaction ran, which may be over by now

    def _wanted(self, group: SlotGroup, limit: int, floor: str | None, mark: HandlerMark | None) -> ClaimRequest:
        position = group.cursor.position
        return ClaimRequest(
            dispatcher=self._dispatcher_id(),
            limit=limit,
            fresh_limit=min(group.cursor.fresh_limit.limit(limit), limit - limit // ONE_IN_SO_MANY_SCHEDULED),
            fresh_after=position.fresh,
            after=position.scheduled,
            floor=floor,
            mark=mark,
            mask=group.mask_parameter,
            owned=group.not_left_out.bit_count(),
            slot_epochs=self._order.slots.slot_epochs(group.not_left_out),
            layout=self._policy.layout,
            most_bytes=self._policy.max_payload_bytes,
            event_types=self._event_types,
            running=list(group.cursor.running),
            parked=self._order.held.rows(HoldReason.PARKED),
            by_id=self._by_id(max(1, limit // ONE_IN_SO_MANY_SCHEDULED)),
            waiting_types=tuple(self._waiting_types),
        )

    def _by_id(self, most: int) -> list[int]:
        """Rows that are tried by their ids, for they may lie before the cursor: these now, others next time."""
        ids = self._order.held.rows(HoldReason.CLAIMABLE, HoldReason.LOCKED)
        if len(ids) > most:
            ids.sort()
            self._by_id_from = self._by_id_from % len(ids)
            ids = [*ids, *ids][self._by_id_from : self._by_id_from + most]
            self._by_id_from += most
        return ids

    async def _claim_without_peek(
        self, session: Session, claim_id: str, group: SlotGroup, wanted: ClaimRequest
    ) -> Batch | None:
        """Claim without a peek. None: rows have to be chosen, as some may have to wait or somebody has locked one."""
        held = self._order.held
        if held.later_event_seen or self._waiting_types or held.rows(HoldReason.LOCKED, HoldReason.CLAIMABLE):
            return None
        claimed = await claim_without_peek(session, claim_id, wanted)
        if claimed is None:
            return None
        batch, others_parked = claimed
        if others_parked:
            self._parked_since = wanted
        if batch.over_budget:  # what did not fit was released: it lies before the last key
            group.more = True
            return batch
        self._note_scan(group, wanted, _scan_of(batch.rows, wanted), read=bool(batch.rows))
        if batch.rows and not group.more:
            group.cursor.ended(monotonic())
        return batch

    def _note_scan(self, group: SlotGroup, wanted: ClaimRequest, scan: Scan, *, read: bool) -> None:
        """Note how far a claim has read. `read`: whether it read at all: a claim without rows may have been refused."""
        done_fresh = min(scan.done_fresh, wanted.limit)
        group.cursor.fresh_limit.note(wanted.limit, wanted.fresh_limit, done_fresh, scan.done_scheduled)
        group.more = scan.more
        if read:
            group.cursor.note(scan)

    async def _note_parked(self, session: Session, wanted: ClaimRequest) -> None:
        """Rows are parked that were not before: they hold the later ones, before any of those is published.

        One peek returns at most 10,000 of them. It is repeated until none is left: a later event would overtake them.
        """
        held, parked_only = self._order.held, replace(wanted, limit=0, fresh_limit=0, by_id=())
        while rows := await peek(session, replace(parked_only, parked=held.rows(HoldReason.PARKED))):
            for row in rows:
                held.add(row.id, row.aggregate_key, HoldReason.PARKED)

    async def _claim_by_peek(self, session: Session, claim_id: str, group: SlotGroup, wanted: ClaimRequest) -> Batch:
        """Peek, and claim what does not have to wait."""
        limit, held = wanted.limit, self._order.held
        window = max(PEEK_FACTOR * limit, self._least_window)
        fresh_window = wanted.fresh_limit * window // limit
        rows = await peek(session, replace(wanted, limit=window, fresh_limit=fresh_window))
        if any(row.kind == "parked" for row in rows):
            await self._note_parked(session, wanted)
        one = self._order.one_per_aggregate
        choice = choose(rows, held, limit, window=window, fresh_window=fresh_window, one_per_aggregate=one)
        self._note_scan(group, wanted, choice.scan, read=bool(rows))
        if choice.earlier_first:
            self._begin_again(group)
        self._least_window = min(2 * window, MOST_PEEKED)
        if not choice.rows:
            return none_claimed(claim_id, wanted.floor)
        batch = await claim_chosen(session, claim_id, wanted, list(choice.rows))
        self._least_window = 0 if batch.rows else self._least_window
        if not batch.rows and group.cursor.running:  # one of them may be over
            self._begin_again(group)
        elif not batch.undone_by_trigger:
            for row_id in choice.rows.keys() - batch.aggregate_keys.keys():
                held.add(row_id, choice.rows[row_id], HoldReason.LOCKED)
        if batch.over_budget:  # what did not fit was released
            self._begin_again(group)
        return batch

    @staticmethod
    def _begin_again(group: SlotGroup) -> None:
        """The next claim of the group begins at the start."""
        group.cursor.reset()
        group.more = True


def _scan_of(rows: list[ClaimedRow], wanted: ClaimRequest) -> Scan:
    """What a claim without a peek read: the rows that it took, in the order of their ids."""
    scheduled = [IndexKey(row.next_run_at, row.id) for row in rows if row.next_run_at != UNSCHEDULED]
    fresh = [row for row in rows if row.fresh] if scheduled else rows
    return Scan(
        limit=wanted.limit,
        fresh_limit=wanted.fresh_limit,
        fresh=len(fresh),
        scheduled=len(scheduled),
        done_fresh=len(fresh),
        done_scheduled=len(scheduled),
        last_fresh=fresh_key(fresh[-1].id) if fresh else None,
        last_scheduled=max(scheduled, key=index_order) if scheduled else None,
    )
