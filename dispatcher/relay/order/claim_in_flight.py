"""One claim in order, from its statement to the end of what is done with its rows: which slots others may not take."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.owned_slots import SlotMask, mask_of


@dataclass(slots=True)
class ClaimInFlight:
    """One claim. `in_hand`: its slots that no other claim may take."""

    in_hand: SlotMask
    connection_epochs: Mapping[int, int]  # by sink, as it was claimed
    claimable_again: SlotMask = 0  # slots that other claims may take, though its rows of them are not settled
    rows: dict[int, int] = field(default_factory=dict)  # that are not settled, with their slots, by id
    not_in_stream: dict[int, int] = field(default_factory=dict)  # rows that are not known to be there, as in `rows`
    refused: set[int] = field(default_factory=set)  # those that were answered: refused, released, or not found

    def perhaps_lost(self, connection_epochs: Mapping[int, int], sink_slots: Sequence[SlotMask]) -> SlotMask:
        """Slots whose sink is open, by another connection than as this was claimed: its entries may be lost.

        `connection_epochs`: of the sinks that are open now; `sink_slots`: by sink.
        """
        mask: SlotMask = 0
        for sink, epoch in self.connection_epochs.items():
            if connection_epochs.get(sink, epoch) != epoch:
                mask |= sink_slots[sink]
        return mask and mask & mask_of(self.rows.values())

    def settled(self, outcomes: BatchOutcomes, undone: Collection[int]) -> SlotMask:
        """Rows of it are settled, but for `undone`. The slots that have others; 0: it has none any more."""
        gone = outcomes.known_ids().difference(undone)
        self.rows = {row_id: slot for row_id, slot in self.rows.items() if row_id not in gone}
        self.not_in_stream = {row_id: slot for row_id, slot in self.not_in_stream.items() if row_id not in gone}
        return mask_of(self.rows.values())
