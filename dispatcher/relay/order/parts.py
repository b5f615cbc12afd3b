"""The parts of the slots that a dispatcher owns: what one claim takes, and which of them are in hand.

Of each slot one batch is in flight. So that lanes overlap in a backlog, the slots are cut into parts that take turns;
at a light load one claim takes all, for each claim costs. Parts are cut so that each has as many rows as the others. A
slot that has most of the rows is no reason for parts: the others would be passed over by claims that find nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import Ranges, mask_of, mask_of_ranges, ranges_of
from dispatcher.relay.order.cursor import OrderedCursor

ALL = (1 << SLOTS) - 1
FADES = 0.9  # what a claim's rows count when the next one came
SMALLEST = 0.2  # of the rows: a smaller part would cost more than it brings
CUT_AGAIN_AFTER = 8  # claims: not for each whim of the load


@dataclass(slots=True, eq=False)
class Part:
    """Slots that are claimed together. `mask`: bit k is slot k."""

    mask: int
    cursor: OrderedCursor = field(default_factory=OrderedCursor)
    closed: int = 0  # slots that were left out of the last claim
    more: bool = True  # there may be something to claim

    @property
    def ranges(self) -> Ranges:
        """Its slots."""
        return ranges_of(self.mask & ~self.closed)

    @property
    def wire(self) -> str | None:
        """The slots as the statements take them; None: all."""
        mask = self.mask & ~self.closed
        return None if mask == ALL else "\\x" + mask.to_bytes(SLOTS // 8, "little").hex()

    def leave_out(self, closed: Iterable[int]) -> None:
        """From now on claim no row of these slots: what a claim passed over then may be claimed now."""
        mask = mask_of(closed) & self.mask
        if mask != self.closed:
            self.closed = mask
            self.cursor.reset()


class Parts:
    """Used by the task whose turn it is to claim. `most`: parts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._weights = [0.0] * SLOTS
        self._of = 0  # the slots that were cut
        self._wanted = 1
        self._claims = 0  # since they were cut
        self.all: list[Part] = []
        self._turn = 0

    def reset(self) -> None:
        """Let all begin at the start."""
        for part in self.all:
            part.cursor.reset()

    def next(self, claimable: Ranges, in_hand: int) -> Part | None:
        """The part whose turn it is; None: each has a slot in hand. `in_hand`: the slots that are, of those we own."""
        free = mask_of_ranges(claimable)
        owned = free | in_hand
        if owned != self._of or len(self.all) != self._wanted:
            if in_hand and owned == self._of:
                return None  # what is in hand would lie in several of the new parts
            self._cut(owned)
        for _ in self.all:
            part = self.all[self._turn % len(self.all)]
            self._turn += 1
            if not part.mask & ~free:
                return part
        return None

    @property
    def more(self) -> bool:
        """Whether there may be something to claim in any of them."""
        return any(part.more for part in self.all)

    def note(self, part: Part, slots: list[int], *, full: bool) -> None:
        """A claim of this part took a row of each of these slots; `full`: more may follow."""
        part.more = full
        self._claims += 1
        if not full:
            if self._wanted > 1 and self._claims > CUT_AGAIN_AFTER:
                self._wanted = 1
            return
        self._weights = [each * FADES for each in self._weights]
        for slot in slots:
            self._weights[slot] += 1.0
        if self._claims > CUT_AGAIN_AFTER or self._wanted == 1:
            self._wanted, self._claims = len(self._cuts(self._of)), 0

    def _cut(self, owned: int) -> None:
        cuts = self._cuts(owned) if self._wanted > 1 else [owned]
        self._of, self._claims, self._turn = owned, 0, 0
        self._wanted = len(cuts)
        self.all = [Part(mask) for mask in cuts if mask]

    def _cuts(self, owned: int) -> list[int]:
        """The slots in up to `most` ranges of about as many rows each."""
        slots = [slot for low, high in ranges_of(owned) for slot in range(low, high + 1)]
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
