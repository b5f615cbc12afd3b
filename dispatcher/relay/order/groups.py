"""The slots that a dispatcher owns, in groups: a claim takes rows of one group, of which no slot is in hand.

Of each slot one batch is in hand. So that lanes overlap in a backlog, the slots are divided into groups that take
turns; at a light load one claim takes all, because each claim costs. They are divided so that each group has about as
many rows as the others. Where one slot has most of the rows there are no groups: claims of the other slots would find
nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import SlotMask, mask_of, slots_of
from dispatcher.relay.order.cursor import OrderedCursor

ALL_SLOTS_MASK = (1 << SLOTS) - 1
FADES = 0.9  # what a claim's rows count when the next one came
SMALLEST = 0.2  # part of the rows: a smaller group would cost more than it brings
DIVIDE_AGAIN_AFTER = 8  # claims: a short change of the load does not count


@dataclass(slots=True, eq=False)
class SlotGroup:
    """Slots that one claim takes rows of. None of them may have a batch in hand as it begins."""

    mask: SlotMask
    cursor: OrderedCursor = field(default_factory=OrderedCursor)
    left_out: SlotMask = 0  # slots that were left out of the last claim
    more: bool = True  # there may be something to claim

    @property
    def not_left_out(self) -> SlotMask:
        """Its slots without those that are left out."""
        return self.mask & ~self.left_out

    @property
    def mask_parameter(self) -> str | None:
        """The slots as the statements take them; None: all."""
        mask = self.not_left_out
        return None if mask == ALL_SLOTS_MASK else "\\x" + mask.to_bytes(SLOTS // 8, "little").hex()

    def leave_out(self, left_out: Iterable[int]) -> None:
        """From now on claim no row of these slots: what a claim passed over then may be claimed now."""
        mask = mask_of(left_out) & self.mask
        if mask != self.left_out:
            self.left_out = mask
            self.cursor.reset()


class SlotGroups:
    """Used by the task whose turn it is to claim. `most`: groups at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._weights = [0.0] * SLOTS
        self._divided: SlotMask = 0  # the slots that were divided
        self._number = 1
        self._claims = 0  # since they were divided
        self.all: list[SlotGroup] = []
        self._turn = 0

    def reset(self) -> None:
        """Let all begin at the start."""
        for group in self.all:
            group.cursor.reset()

    def next(self, claimable: SlotMask, in_hand: SlotMask, left_out: SlotMask) -> SlotGroup | None:
        """The group whose turn it is; None: each has a slot in hand.

        `claimable`: our slots that may be claimed; `in_hand`: those that are in hand; `left_out`: those that the claim
        will leave out.
        """
        owned = claimable | in_hand
        if owned != self._divided or len(self.all) != self._number:
            if in_hand & ~left_out and owned == self._divided:
                return None  # a batch in flight would have rows of several of the new groups
            self._divide(owned)
        for _ in self.all:
            group = self.all[self._turn % len(self.all)]
            self._turn += 1
            if not group.mask & ~left_out & ~claimable:
                return group
        return None

    @property
    def more(self) -> bool:
        """Whether there may be something to claim in any of them."""
        return any(group.more for group in self.all)

    def note(self, group: SlotGroup, keys: Iterable[int], *, full: bool) -> None:
        """A claim of this group took rows of these keys, see core/held.py; `full`: more may follow."""
        group.more = full
        self._claims += 1
        if not full:
            if self._number > 1 and self._claims > DIVIDE_AGAIN_AFTER:
                self._number = 1
            return
        self._weights = [each * FADES for each in self._weights]
        for key in keys:
            self._weights[key & 255] += 1.0
        if self._claims > DIVIDE_AGAIN_AFTER or self._number == 1:
            self._number, self._claims = len(self._divisions(self._divided)), 0

    def _divide(self, owned: SlotMask) -> None:
        masks = self._divisions(owned) if self._number > 1 else [owned]
        self._divided, self._claims, self._turn = owned, 0, 0
        self._number = len(masks)
        self.all = [SlotGroup(mask) for mask in masks if mask]

    def _divisions(self, owned: SlotMask) -> list[SlotMask]:
        """The slots in up to `most` ranges of about as many rows each."""
        slots = sorted(slots_of(owned))
        total = sum(self._weights[slot] for slot in slots)
        if not total:
            return [owned]
        for count in range(self._most, 1, -1):
            masks, rows = [0] * count, [0.0] * count
            seen = 0.0
            for slot in slots:
                at = min(int((seen + self._weights[slot] / 2) / total * count), count - 1)
                masks[at] |= 1 << slot
                rows[at] += self._weights[slot]
                seen += self._weights[slot]
            if min(rows) >= SMALLEST * total / (count / 2):
                return masks
        return [owned]
