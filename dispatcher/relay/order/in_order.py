"""What one relay has to know to keep the order: which slots are in hand, which aggregates are held, what to claim next.

A claim takes all slots of a group in hand, and no other claim takes a slot that is in hand. So a later claim cannot
overtake an earlier row of the same aggregate that may still be published, or refused. Slots whose sink is shut are left
out of the claims: the other slots do not wait for them. What happens to a claim, in this order:

- `begin`: all slots of its group that are not left out are in hand.
- `claimed`: Postgres has answered. Slots without a row of this claim are not in hand any more.
- `answered`: Redis has answered. A row that is not known to be in the stream holds its aggregate. A slot with all its
  rows there may be claimed again before the settle. (Handlers: `leave_slots`, for each row holds its aggregate.)
- `settled`: Postgres has the outcomes. Slots without a row that is left are not in hand any more.
- `lanes_finished`: rows isolated or kept aside go on, and hold. `released`, in place of these three: not published.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from dispatcher.core.held import Held, HoldReason
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.owned_slots import OwnedSlots, SlotMask, mask_of
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.order.claim_in_flight import ClaimInFlight
from dispatcher.relay.order.groups import SlotGroup, SlotGroups
from dispatcher.relay.order.watch import HeldWatch
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.stages.settle import Settlement, release

MOST_GROUPS = 2  # one is claimed while the other is answered; with three, each claim would scan more rows not its own
WAIT_S = 0.02  # for slots, before a stop, a pause, or a sink that is shut by now is noticed


@dataclass(frozen=True, slots=True)
class OrderParts:
    """What keeps the order. `hold`: a dead event holds the later ones of its aggregate."""

    slots: OwnedSlots
    hold: bool


@dataclass(slots=True)
class InOrder:
    """Written by the tasks of one relay, on one event loop.

    `claims_in_flight()`: the ids of our claims. `wake_relay()`: something may be claimed that could not be before.
    `one_per_aggregate`: of an aggregate one event is in flight, as for handlers: those of a batch end in any order.
    """

    slots: OwnedSlots
    held: Held
    held_watch: HeldWatch
    groups: SlotGroups
    claims_in_flight: Callable[[], Collection[str]]
    wake_relay: Callable[[], None]
    one_per_aggregate: bool = False
    _in_flight: dict[str, ClaimInFlight] = field(default_factory=dict)  # by claim id
    sink_slots: Sequence[SlotMask] = ()  # by sink: the slots of its rows
    # Rows not known to be in the stream, by id: the claim of ours that has them, and their event_id.
    _not_in_stream: dict[int, tuple[str, str]] = field(default_factory=dict)
    _slots_changed: anyio.Event = field(default_factory=anyio.Event)  # replaced by ready()
    _connection_epochs: Mapping[int, int] = field(default_factory=dict)

    # Before a claim.

    async def ready(
        self, session: Session, connection_epochs: Mapping[int, int], left_out: Collection[int]
    ) -> SlotGroup | None:
        """The group to claim now; waits for a moment until there is one. None: there is none yet.

        `connection_epochs`: of open sinks, by number; `left_out`: slots of the other sinks. Raises SessionLost or
        psycopg.Error.
        """
        if connection_epochs != self._connection_epochs:  # rows that Redis lost may be back, before our cursor
            self._connection_epochs = connection_epochs
            self.groups.reset()
        if await self.held_watch.check(session, self.slots, self.held, self.claims_in_flight()):
            self.groups.reset()
        with anyio.move_on_after(WAIT_S):
            while (group := self._next(mask_of(left_out))) is None:
                self._slots_changed = anyio.Event()
                await self._slots_changed.wait()
        return group

    def _next(self, left_out: SlotMask) -> SlotGroup | None:
        in_hand = 0
        for claim in self._in_flight.values():
            # The connection was replaced: its entries may be lost, so these slots are not claimed until the settle.
            in_hand |= claim.in_hand | claim.perhaps_lost(self._connection_epochs, self.sink_slots)
        group = self.groups.next(self.slots.claimable(), in_hand, left_out)
        # claimable() knows no connections: it may offer slots of a batch that an earlier connection published.
        return group if group is None or not group.mask & in_hand & ~left_out else None

    def note_change(self) -> None:
        """Wake ready(): slots were gained, or may be claimed again."""
        self._slots_changed.set()

    def rescan(self) -> None:
        """Begin the next claims at the start: rows before the cursors may be claimable."""
        self.groups.reset()
        for group in self.groups.all:
            group.more = True

    def end_holds_of_types(self) -> None:
        """End the holds of rows whose type was not claimed: other types may be claimed now, and these in their turn."""
        for row_id in self.held.rows(HoldReason.TYPE_WAITS):
            self.held.end_hold(row_id)
        self.rescan()

    def begin(self, claim_id: str, group: SlotGroup) -> None:
        """Take the slots of this group in hand, but those left out: its claim is about to be sent."""
        self.slots.begin_claim(group.not_left_out)
        self._in_flight[claim_id] = ClaimInFlight(group.not_left_out, self._connection_epochs)

    def claimed(self, batch: Batch) -> None:
        """Note the rows of a claim: only slots of which it has a row stay in hand."""
        claim = self._in_flight[batch.claim_id]
        keys = batch.aggregate_keys
        if len(keys) > len(batch.rows):  # others were released
            keys = {row.id: keys[row.id] for row in batch.rows}
        claim.rows = {row_id: key & 255 for row_id, key in keys.items()}
        claim.not_in_stream = dict(claim.rows)
        self._end_claim(claim, claim.in_hand & ~mask_of(claim.rows.values()))

    async def release_waiting(self, session: Session, batch: Batch) -> Batch:
        """The batch without rows that have to wait: those are released; all, if a trigger undid one.

        Sets `after_dead`: what entries name. What may be isolated, or goes to a handler, holds now. Raises as `ready`.
        """
        if batch.undone_by_trigger:  # of which rows is not known, so none may be published
            await release(session, [batch.claim_id])
            return batch.only([])
        held, keys = self.held, batch.aggregate_keys
        tried_before = any(row.attempts or row.suspect for row in batch.rows)
        # Of these aggregates an earlier row held until just now, perhaps before the cursor: it has to go first.
        earlier_first = held.holds_ended and held.holds_ended.intersection(keys.values())
        if held.is_empty and not self.one_per_aggregate and not tried_before and not earlier_first:
            return batch
        kept: list[ClaimedRow] = []
        to_release: list[int] = []
        after_dead: dict[int, str] = {}
        for row in batch.rows:
            key = keys[row.id]
            if key in earlier_first:
                to_release.append(row.id)
                continue
            if held.blocks(key, row.id):
                held.later_event_seen.add(key)
                to_release.append(row.id)
                continue
            if self.one_per_aggregate or row.attempts or row.suspect:
                self._hold(batch.claim_id, row, key)
            dead = None if self.one_per_aggregate else held.after_dead(key)
            if dead is not None and dead.row_id == row.id:  # somebody retried it: nothing is missing
                held.forget_dead(key, dead)
            if dead is not None and dead.row_id < row.id and key not in {keys[each] for each in after_dead}:
                after_dead[row.id] = dead.event_id
            kept.append(row)
        if earlier_first:
            self.rescan()
        if to_release:
            await release(session, [batch.claim_id], to_release)
            batch = batch.only(kept)
        return batch._replace(after_dead=after_dead) if after_dead else batch

    def leave_slots(self, claim_id: str) -> None:
        """Let other rows of its slots be claimed before the claim is settled: each of its rows holds its aggregate."""
        claim = self._in_flight.get(claim_id)
        if claim is not None:
            self._take_out_of_hand(claim, claim.in_hand)

    def _hold(self, claim_id: str, row: ClaimedRow, key: int) -> None:
        """This row of ours is not known to be in the stream, and perhaps will not get there."""
        self.held.add(row.id, key, HoldReason.OUR_CLAIM)
        self._not_in_stream[row.id] = (claim_id, row.event_id)

    # After a claim.

    def answered(self, batch: Batch, outcomes: BatchOutcomes) -> None:
        """The sink has answered rows of a claim: those not known to be in the stream hold their aggregates."""
        self.note_announced(batch, outcomes)
        sent: Collection[int] = outcomes.sent_ids
        if len(sent) < len(batch.rows):
            sent = set(sent)
            for row in batch.rows:
                if row.id not in sent:
                    self._hold(batch.claim_id, row, batch.aggregate_keys[row.id])
        claim = self._in_flight.get(batch.claim_id)
        if claim is not None:
            if len(sent) == len(claim.not_in_stream):
                claim.not_in_stream.clear()
            else:
                claim.refused.update(row.id for row in batch.rows if row.id not in sent)
                for row_id in sent:
                    if row_id not in claim.refused:
                        claim.not_in_stream.pop(row_id, None)
            self._take_out_of_hand(claim, claim.in_hand & ~mask_of(claim.not_in_stream.values()))

    def note_announced(self, batch: Batch, outcomes: BatchOutcomes) -> None:
        """Note which dead events the entries that are in the stream have named."""
        for row_id, event_id in batch.after_dead.items():
            dead = self.held.after_dead(batch.aggregate_keys[row_id])
            if dead is not None and dead.event_id == event_id and row_id in outcomes.sent_ids:
                self.held.forget_dead(batch.aggregate_keys[row_id], dead)

    def settled(self, claim_id: str, outcomes: BatchOutcomes, settlement: Settlement) -> None:
        """What became of rows of a claim is written."""
        # Rows that were released may be in a later claim by now, before we hear of it: that one holds them.
        reclaimed = frozenset(row_id for row_id, (holder, _) in self._not_in_stream.items() if holder != claim_id)
        event_ids = {row_id: event_id for row_id, (_, event_id) in self._not_in_stream.items()}
        if self.held.note_settled(outcomes, settlement.not_ours - reclaimed, settlement.undone | reclaimed, event_ids):
            self.rescan()
            self.wake_relay()
        for row_id in [each for each in self._not_in_stream if self.held.reason(each) is not HoldReason.OUR_CLAIM]:
            del self._not_in_stream[row_id]
        claim = self._in_flight.get(claim_id)
        if claim is not None and (left := claim.settled(outcomes, settlement.undone)):
            # Rows of the claim that go to another node may wait for long. Slots without such rows need not wait.
            self._end_claim(claim, claim.in_hand & ~left)
            self.slots.settled(claim.claimable_again & ~left)
            claim.claimable_again &= left

    def lanes_finished(self, claim_id: str) -> None:
        """No lane works on the claim any more. Rows isolated or kept aside hold their aggregates."""
        claim = self._in_flight.pop(claim_id, None)
        if claim is not None:
            self._end_claim(claim, claim.in_hand)
            if claim.claimable_again:
                self.slots.settled(claim.claimable_again)
            self._slots_changed.set()

    def released(self, claim_id: str) -> None:
        """The rows of a claim on which nobody works were released, as far as they were ours still."""
        claim = self._in_flight.get(claim_id)
        if claim is not None:
            self.forgotten(claim.rows)
            self.held_watch.check_soon()
            self.rescan()
        self.lanes_finished(claim_id)

    def note_not_ours(self, ids: Collection[int]) -> None:
        """These rows are not ours any more: they hold until the next check (watch.py) finds out what became of them."""
        for row_id in ids:
            self.held.note_not_ours(row_id)

    def may_go(self, batch: Batch, rows: Sequence[ClaimedRow]) -> list[ClaimedRow]:
        """Those of these rows, which are to be published together, that need not wait for another one."""
        together = {row.id for row in rows}
        return [row for row in rows if not self.held.blocks(batch.aggregate_keys[row.id], row.id, together)]

    def forgotten(self, ids: Collection[int]) -> None:
        """No lane has these rows any more: what holds as ours was lost, or is kept aside; the next check finds out."""
        self.note_not_ours([row_id for row_id in ids if self.held.reason(row_id) is HoldReason.OUR_CLAIM])

    def _take_out_of_hand(self, claim: ClaimInFlight, mask: SlotMask) -> None:
        """Let these slots be claimed before we settle: all their rows are in the stream, or hold their aggregates."""
        if mask:
            self.slots.let_next_claim(mask)
            claim.claimable_again |= mask
            claim.in_hand &= ~mask
            self._slots_changed.set()

    def _end_claim(self, claim: ClaimInFlight, mask: SlotMask) -> None:
        """Take these slots of the claim out of hand."""
        if mask:
            claim.in_hand &= ~mask
            self.slots.end_claim(mask)
            self._slots_changed.set()


def make_order(
    parts: OrderParts,
    doorbell: Doorbell,
    claims_in_flight: Callable[[], Collection[str]],
    *,
    wake_relay: Callable[[], None],
    event_types: EventTypeFilter | None,
    lanes: int = 1,
    one_per_aggregate: bool = False,
) -> InOrder:
    """What keeps the order of one relay with so many lanes. Other parameters: see InOrder and HeldWatch."""
    held, watch = Held(hold=parts.hold), HeldWatch(event_types)
    order = InOrder(
        parts.slots, held, watch, SlotGroups(min(lanes, MOST_GROUPS)), claims_in_flight, wake_relay, one_per_aggregate
    )

    def changed() -> None:
        order.note_change()
        wake_relay()

    def check_soon() -> None:
        watch.check_soon()
        if len(held):
            wake_relay()

    parts.slots.changed = changed
    doorbell.listener.on_control(check_soon)
    return order
