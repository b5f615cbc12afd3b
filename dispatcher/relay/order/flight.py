"""One claim in order, from its statement to the end of what is done with its rows: which slots others may not take."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.owned_slots import mask_of


@dataclass(slots=True)
class Flight:
    """One claim. `in_hand`: its slots that no other claim may take."""

    in_hand: int
    connection_epochs: Mapping[int, int]  # by sink, as it was claimed
    opened: int = 0  # slots that other claims may take, though its rows of them are not settled
    rows: dict[int, int] = field(default_factory=dict)  # that are not settled, with their slots, by id
    not_sent: dict[int, int] = field(default_factory=dict)  # rows that are not in the stream, with their slots, by id
    failed: set[int] = field(default_factory=set)  # rows that were answered, and are not in the stream

    def perhaps_lost(self, connection_epochs: Mapping[int, int], sink_slots: Sequence[int]) -> int:
        """Slots whose sink is open, by another connection than as this was claimed: its entries may be lost.

        `connection_epochs`: of the sinks that are open now; `sink_slots`: as a mask, by sink.
        """
        mask = 0
        for sink, epoch in self.connection_epochs.items():
            if connection_epochs.get(sink, epoch) != epoch:
                mask |= sink_slots[sink]
        return mask and mask & mask_of(self.rows.values())

    def settled(self, outcomes: BatchOutcomes, undone: Collection[int]) -> int:
        """Rows of it are settled, but for `undone`. The slots that have others; 0: it has none any more."""
        ids = chain(outcomes.sent_ids, outcomes.done_ids, outcomes.released)
        for row_id in chain(ids, (each for each, _ in chain(outcomes.retries, outcomes.dead))):
            if row_id not in undone:
                self.rows.pop(row_id, None)
                self.not_sent.pop(row_id, None)
        return mask_of(self.rows.values())
