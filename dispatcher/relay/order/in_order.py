"""What one relay has to know to keep the order: what is in hand, what is held, and whose turn it is to be claimed.

A batch is in hand until all of its rows are in the stream, though their settle may still be on its way; or until what
is not in the stream was given back, or holds its aggregate. So a later claim of the same slots finds no earlier row of
an aggregate that could still be published, or refused, behind it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from dispatcher.core.held import Held
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.owned_slots import OwnedSlots, mask_of, mask_of_ranges, slots_of
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.session import Session
from dispatcher.relay.order.parts import Part, Parts
from dispatcher.relay.order.watch import HeldWatch
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.stages.settle import Settlement, release

MOST_PARTS = 2  # one is claimed while the other is answered; a third would make each claim pass over more
WAIT_S = 0.1  # for slots, before a stop or a pause is looked for


@dataclass(frozen=True, slots=True)
class OrderParts:
    """What keeps the order. `hold`: a dead event holds the later ones of its aggregate."""

    slots: OwnedSlots
    hold: bool


@dataclass(slots=True)
class Flight:
    """One claim. `in_hand`: its slots that no other claim may take; `slots`: all of those that it took rows of."""

    in_hand: int
    epochs: Mapping[int, int]  # of the connections, by sink, as it was claimed
    slots: int = 0
    published: int = 0  # those of them that other claims may take already
    unanswered: int = 0  # rows
    whole: bool = True  # all rows that were answered are in the stream


@dataclass(slots=True)
class InOrder:
    """Written by the tasks of one relay, on one event loop.

    `claims`: the ids of our claims that are in flight. `wake()`: something may be claimed that could not be before.
    `alone`: of an aggregate one event is in flight, as for handlers, where each of a batch ends when it likes.
    """

    slots: OwnedSlots
    held: Held
    watch: HeldWatch
    parts: Parts
    claims: Callable[[], Collection[str]]
    wake: Callable[[], None]
    alone: bool = False
    _flights: dict[str, Flight] = field(default_factory=dict)  # by claim id
    _event_ids: dict[int, str] = field(default_factory=dict)  # of rows that are not in the stream, by row id
    _free: anyio.Event = field(default_factory=anyio.Event)  # replaced by ready()
    _epochs: Mapping[int, int] = field(default_factory=dict)

    # Before a claim.

    async def ready(self, session: Session, epochs: Mapping[int, int]) -> Part | None:
        """The part to claim now; waits for a moment until there is one. None: there is none yet.

        `epochs`: of the connections, by sink. Raises SessionLost or psycopg.Error.
        """
        if epochs != self._epochs:  # what another server has lost was put back
            self._epochs = epochs
            self.parts.reset()
        if await self.watch.look(session, self.slots, self.held, self.claims()):
            self.parts.reset()
        with anyio.move_on_after(WAIT_S):
            while (part := self._next()) is None:
                self._free = anyio.Event()
                await self._free.wait()
        return part

    def _next(self) -> Part | None:
        in_hand = 0
        for flight in self._flights.values():
            in_hand |= flight.in_hand
            if flight.epochs != self._epochs:  # its entries may be lost: its settle will tell
                in_hand |= flight.slots
        claimable = self.slots.claimable()
        part = self.parts.next(claimable, in_hand)
        return part if part is None or not part.mask & in_hand else None

    def note_change(self) -> None:
        """Slots were gained, or may be claimed again."""
        self._free.set()

    def rescan(self) -> None:
        """Rows were put back that may lie anywhere."""
        self.parts.reset()
        for part in self.parts.all:
            part.more = True

    # Around a claim.

    def begin(self, claim_id: str, part: Part) -> None:
        """A claim of this part is about to be sent."""
        ranges = part.ranges
        self.slots.begin_claim(ranges)
        self._flights[claim_id] = Flight(mask_of_ranges(ranges), self._epochs)

    def claimed(self, batch: Batch) -> None:
        """The claim was answered: only slots of which it has a row stay in hand."""
        flight = self._flights[batch.claim_id]
        flight.slots = mask_of(batch.keys[row.id] & 255 for row in batch.rows)
        flight.unanswered = len(batch.rows)
        self._put_down(flight, flight.in_hand & ~flight.slots)

    async def sieve(self, session: Session, batch: Batch) -> Batch:
        """The batch without rows that have to wait for others: those are released. Raises SessionLost or psycopg.Error.

        A row that was tried before holds its aggregate from here on, for it is published apart.
        """
        if batch.taken:  # which ones is not known: a trigger undid the claim
            await release(session, [batch.claim_id])
            return batch._replace(rows=[])
        held, keys = self.held, batch.keys
        if held.says_nothing and not self.alone and not any(row.attempts or row.suspect for row in batch.rows):
            return batch
        kept: list[ClaimedRow] = []
        back: list[int] = []
        after: dict[int, str] = {}
        for row in batch.rows:
            key = keys[row.id]
            if held.blocks(key, row.id):
                held.met.add(key)
                back.append(row.id)
                continue
            if self.alone or row.attempts or row.suspect:
                self.hold(row, key)
            dead = None if self.alone else held.after_dead(key)
            if dead is not None and dead.row_id < row.id and key not in {keys[each] for each in after}:
                after[row.id] = dead.event_id
            kept.append(row)
        if back:
            await release(session, [batch.claim_id], back)
            batch = batch._replace(rows=kept)
        return batch._replace(after_dead=after) if after else batch

    def begun(self, claim_id: str) -> None:
        """Each row of the claim holds its aggregate: the others of its slots may be claimed."""
        flight = self._flights.get(claim_id)
        if flight is not None:
            self._publish(flight)

    def hold(self, row: ClaimedRow, key: int) -> None:
        """This row of ours is not in the stream, and may not get there now."""
        self.held.add(row.id, key, "ours")
        self._event_ids[row.id] = row.event_id

    # After a claim.

    def answered(self, batch: Batch, outcomes: BatchOutcomes) -> None:
        """The sink has answered rows of a claim: what is not in the stream holds its aggregate from here on."""
        sent: Collection[int] = outcomes.sent_ids
        if len(sent) < len(batch.rows) or batch.after_dead:
            sent = set(sent)
        for row in batch.rows if len(sent) < len(batch.rows) else ():
            if row.id not in sent:
                self.hold(row, batch.keys[row.id])
        for row_id, event_id in batch.after_dead.items():
            dead = self.held.after_dead(batch.keys[row_id])
            if row_id in sent and dead is not None and dead.event_id == event_id:
                self.held.told(batch.keys[row_id], dead)
        flight = self._flights.get(batch.claim_id)
        if flight is not None:
            flight.unanswered -= len(batch.rows)
            flight.whole &= len(sent) == len(batch.rows)
            if not flight.unanswered and flight.whole:
                self._publish(flight)

    def settled(self, outcomes: BatchOutcomes, settlement: Settlement) -> None:
        """What became of rows is written."""
        if self.held.settled(outcomes, settlement.lost, settlement.undone, self._event_ids):
            self.rescan()
            self.wake()
        if self._event_ids:
            for row_id in [each for each in self._event_ids if self.held.state(each) != "ours"]:
                del self._event_ids[row_id]

    def finished(self, claim_id: str) -> None:
        """Nothing of the claim is worked on any more, but for rows that hold their aggregates."""
        flight = self._flights.pop(claim_id, None)
        if flight is not None:
            self._put_down(flight, flight.in_hand)
            if flight.published:
                self.slots.settled(slots_of(flight.published))
            self._free.set()

    def lost(self, ids: Collection[int]) -> None:
        """These rows are not ours any more: they hold until somebody has looked what became of them."""
        for row_id in ids:
            self.held.lost(row_id)

    def may_go(self, batch: Batch, rows: Sequence[ClaimedRow]) -> list[ClaimedRow]:
        """Those of these rows, which are to be published together, that need not wait for another one."""
        together = {row.id for row in rows}
        return [row for row in rows if not self.held.blocks(batch.keys[row.id], row.id, together)]

    def forgotten(self, ids: Collection[int]) -> None:
        """These rows are in flight no more: what is not written by now was lost, or is kept aside."""
        self.lost([row_id for row_id in ids if self.held.state(row_id) == "ours"])

    def _publish(self, flight: Flight) -> None:
        self.slots.published(slots_of(flight.in_hand))
        flight.published, flight.in_hand = flight.in_hand, 0
        self._free.set()

    def _put_down(self, flight: Flight, mask: int) -> None:
        if mask:
            flight.in_hand &= ~mask
            self.slots.give_back(slots_of(mask))
            self._free.set()


def make_order(
    parts: OrderParts,
    doorbell: Doorbell,
    claims: Callable[[], Collection[str]],
    *,
    wake: Callable[[], None],
    event_types: EventTypeFilter | None,
    lanes: int = 1,
    alone: bool = False,
) -> InOrder:
    """What keeps the order of one relay with so many lanes. The others: see InOrder and HeldWatch."""
    held, watch = Held(hold=parts.hold), HeldWatch(event_types)
    order = InOrder(parts.slots, held, watch, Parts(min(lanes, MOST_PARTS)), claims, wake, alone)

    def changed() -> None:
        order.note_change()
        wake()

    def look() -> None:
        watch.look_soon()
        if len(held):
            wake()

    parts.slots.changed = changed
    doorbell.listener.on_control(look)
    return order
