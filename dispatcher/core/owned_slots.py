"""The slots that a dispatcher owns, as one relay sees them: which may be claimed now. Pure; with DISPATCH_ORDER only.

Only the owner of a slot claims its rows, so it may have a whole batch of one aggregate in flight. Two rules
keep the order, and both are kept here:

- Of each slot one batch is in hand. A later batch could reach the stream though the batch before was refused.
- A slot is released in Postgres when nothing of it is in hand, and no lane has a batch of it to settle: that, or a
  claim whose answer is not there yet, would go on under the next owner.

So slots are in hand *before* a relay sends the claim, and until each row of theirs is settled or released, or holds
its aggregate (rows that are isolated or kept aside):

    mask = slots.claimable()
    slots.begin_claim(mask)
    batch = claim(mask, slots.slot_epochs(mask))  # its answer was lost: they stay in hand until that is resolved
    slots.end_claim(those without a row)          # at once
    ...
    slots.end_claim(those of the batch)           # when each of its rows is settled or released

A batch that is in the stream as a whole may be followed by the next one before it is settled:
`let_next_claim`, then `settled`, in place of `end_claim`.
"""

from collections.abc import Callable, Iterable, Mapping

from dispatcher.core.layout import SLOTS

SlotMask = int  # a set of slots: bit k is slot k
Ranges = tuple[tuple[int, int], ...]  # (low, high), both included; sorted, apart from each other

REMEMBERED = 16  # sums of epochs, by mask
_BITS = tuple(1 << slot for slot in range(SLOTS))


def mask_of(slots: Iterable[int]) -> SlotMask:
    """These slots (0 to 255, in any order, repeats do no harm), as a mask."""
    mask = 0
    for slot in frozenset(slots):  # a batch has several rows of most of its slots
        mask |= _BITS[slot]
    return mask


def ranges_of(mask: SlotMask) -> Ranges:
    """The slots of a mask as the fewest ranges."""
    found: list[tuple[int, int]] = []
    low = 0
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        low += skip
        length = (~mask & mask + 1).bit_length() - 1
        found.append((low, low + length - 1))
        mask >>= length
        low += length
    return tuple(found)


def slots_of(mask: SlotMask) -> frozenset[int]:
    """The slots of a mask."""
    return frozenset(slot for low, high in ranges_of(mask) for slot in range(low, high + 1))


class OwnedSlots:
    """One relay's view of what its dispatcher owns. The keeper of the slots writes ownership, the relay the rest.

    `changed()` is called when there is more to claim or to load; whoever builds the relay sets it. `drained()` is
    called when a slot that is to be released is not in hand any more; the keeper sets it.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = _nothing
        self.drained: Callable[[], None] = _nothing
        # Slots that have a batch in the stream which is not settled; those that have two of them; and so on.
        self._unsettled: list[SlotMask] = []
        self._epochs: dict[int, int] = {}  # of each slot that is owned: names this time of owning it
        self._sums: dict[SlotMask, int] = {}  # of the epochs: they change seldom, and each claim asks
        self._owned: SlotMask = 0
        self._in_hand: SlotMask = 0
        self._giving_up: SlotMask = 0
        self._unloaded: SlotMask = 0

    # For the relay.

    def claimable(self) -> SlotMask:
        """What may be claimed now: owned, loaded, not in hand, not being given up."""
        return self._owned & ~(self._in_hand | self._giving_up | self._unloaded)

    def slot_epochs(self, mask: SlotMask) -> int:
        """The sum of the epochs of slots that are owned.

        An epoch only grows, so a claim whose sum is that of Postgres found all of these slots as they are known here.
        """
        if mask not in self._sums:
            if len(self._sums) >= REMEMBERED:
                self._sums.clear()
            self._sums[mask] = sum(self._epochs[slot] for slot in slots_of(mask))
        return self._sums[mask]

    def begin_claim(self, mask: SlotMask) -> None:
        """Take slots in hand, before the statement is sent."""
        self._in_hand |= mask

    def end_claim(self, mask: SlotMask) -> None:
        """Take slots out of hand: none of their rows is in flight, but for those that hold their aggregates."""
        ended, self._in_hand = self._in_hand & mask, self._in_hand & ~mask
        if ended & self._giving_up:
            self.drained()

    def let_next_claim(self, mask: SlotMask) -> None:
        """A batch of these slots is in the stream as a whole: the next may be claimed. `settled` follows."""
        self._in_hand &= ~mask
        more = mask
        for at, those in enumerate(self._unsettled):
            self._unsettled[at], more = those | more, those & more
        if more:
            self._unsettled.append(more)

    def settled(self, mask: SlotMask) -> None:
        """A batch of which `let_next_claim` was called is settled."""
        less = mask
        for at in reversed(range(len(self._unsettled))):
            those = self._unsettled[at]
            self._unsettled[at], less = those & ~less, less & ~those
        while self._unsettled and not self._unsettled[-1]:
            self._unsettled.pop()
        if mask & self._giving_up:
            self.drained()

    @property
    def gained(self) -> dict[int, int]:
        """Slots, with their epochs, that are owned but not loaded: what is held in them is not known yet.

        What a relay knew of such a slot before is of an earlier time of owning it: the load replaces it.
        """
        return {slot: self._epochs[slot] for slot in sorted(slots_of(self._unloaded))}

    def loaded(self, gained: Mapping[int, int]) -> None:
        """What is held in these slots is known. `gained`: as it was before the load began; later gains do not count."""
        self._unloaded &= ~mask_of(slot for slot, epoch in gained.items() if self._epochs.get(slot) == epoch)

    @property
    def owned(self) -> Ranges:
        """What is owned, claimable or not."""
        return ranges_of(self._owned)

    # For the keeper of the slots.

    def gain(self, epochs: Mapping[int, int]) -> None:
        """These slots are ours, under these epochs; they are claimable once they are loaded."""
        new = {slot: epoch for slot, epoch in epochs.items() if self._epochs.get(slot) != epoch}
        if new:
            self.lose(slot for slot in list(new) if slot in self._epochs)
            self._epochs |= new
            self._sums.clear()
            self._owned |= mask_of(new)
            self._unloaded |= mask_of(new)
            self.changed()

    def lose(self, slots: Iterable[int]) -> None:
        """These slots are not ours any more: they were released, or somebody else has revoked them."""
        lost = mask_of(slots)
        for slot in slots_of(lost & self._owned):
            del self._epochs[slot]
        self._sums.clear()
        self._owned &= ~lost
        self._giving_up &= ~lost
        self._unloaded &= ~lost

    def give_up(self, slots: Iterable[int]) -> None:
        """From now on claim nothing of exactly these slots: they are to be released."""
        before, self._giving_up = self._giving_up, mask_of(slots) & self._owned
        if before & ~self._giving_up:
            self.changed()

    def out_of_hand(self, slots: Iterable[int]) -> frozenset[int]:
        """Those of these slots, owned or not, of which nothing is in hand or not settled."""
        return slots_of(mask_of(slots) & ~self._busy)

    @property
    def releasable(self) -> frozenset[int]:
        """Slots to be given up of which nothing is in hand or not settled."""
        return slots_of(self._giving_up & ~self._busy)

    @property
    def _busy(self) -> SlotMask:
        """Slots that have something in hand, or a batch that is not settled."""
        return self._in_hand | (self._unsettled[0] if self._unsettled else 0)


def _nothing() -> None:
    """Nobody listens."""
