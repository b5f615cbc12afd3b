"""What is held: aggregates of which one event has to go out, or to be given up, before any later one. Pure.

An event holds the later ones of its aggregate from the moment at which it is not known to be in the stream, until it is
sent, released, dead (unless the dead hold too) or deleted. Aggregates are told by a key of 64 bits, whose last 8 are
the slot; see sql/statements/claim.sql. Two aggregates with the same key would only wait for each other.
"""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

from dispatcher.core.outcome import BatchOutcomes

MOST_DEAD = 50_000  # dead events to be named by the next entry of their aggregate; of more the oldest are forgotten


class HoldReason(StrEnum):
    """Why a row holds its aggregate. held_load.sql and held_check.sql return some of these, and other kinds."""

    OUR_CLAIM = "our_claim"  # a claim of ours has it, or had it a moment ago
    OTHER_CLAIM = "other_claim"  # another dispatcher has claimed it
    RETRY = "retry"  # it failed, or waits, and is due again later
    PARKED = "parked"
    DEAD = "dead"
    LOCKED = "locked"  # somebody had locked it when we claimed
    CLAIMABLE = "claimable"  # nobody has it any more, and it may lie before the claims' cursors
    TYPE_WAITS = "type_waits"  # no event of its type may be claimed now


# Rows that hold for one of these are claimed in their turn: by their ids, or once their type may be claimed again.
FOUND_BY_CLAIMS = (HoldReason.LOCKED, HoldReason.CLAIMABLE, HoldReason.TYPE_WAITS)


class UnannouncedDead(NamedTuple):
    """A dead event that the next entry of its aggregate names, in its field AFTER_DEAD (publish.py, order.md)."""

    row_id: int
    event_id: str


class Held:
    """The rows that hold, of one relay. `hold`: the dead hold too. Written by the relay's tasks, on one loop."""

    def __init__(self, *, hold: bool) -> None:
        self.hold = hold
        self.later_event_seen: set[int] = set()  # keys of held aggregates of which a claim met a later event
        # Rows of dead events that no entry has to name any more; emptied by whoever writes that down (watch.py).
        self.announced: list[int] = []
        # Keys of which a row has ceased to hold since the running claim began; cleared before each claim.
        self.holds_ended: set[int] = set()
        self._rows: dict[int, tuple[int, HoldReason]] = {}  # by row id: the key, and why it holds
        self._by_key: dict[int, set[int]] = {}
        self._dead: dict[int, UnannouncedDead] = {}  # by key

    def __len__(self) -> int:
        """How many aggregates are held."""
        return len(self._by_key)

    @property
    def is_empty(self) -> bool:
        """Whether no row has to wait, and no entry has to name a dead event."""
        return not self._by_key and not self._dead

    def blocks(self, key: int, row_id: int, but: Collection[int] = ()) -> bool:
        """Whether this row has to wait for an earlier one of its aggregate. `but`: rows that are published with it."""
        rows = self._by_key.get(key)
        return rows is not None and any(each < row_id and each not in but for each in rows)

    def add(self, row_id: int, key: int, reason: HoldReason) -> None:
        """This row holds its aggregate from now on, or for another reason than before."""
        self._rows[row_id] = (key, reason)
        self._by_key.setdefault(key, set()).add(row_id)

    def reason(self, row_id: int) -> HoldReason | None:
        """Why this row holds; None: it does not."""
        known = self._rows.get(row_id)
        return None if known is None else known[1]

    def end_hold(self, row_id: int) -> bool:
        """This row holds nothing any more. Returns whether a later event of its aggregate was seen."""
        known = self._rows.pop(row_id, None)
        if known is None:
            return False
        key = known[0]
        self.holds_ended.add(key)
        rows = self._by_key[key]
        rows.discard(row_id)
        waited = key in self.later_event_seen
        if not rows:
            del self._by_key[key]
            self.later_event_seen.discard(key)
        return waited

    def forget(self, slots: Collection[int]) -> None:
        """What is known of these slots is of an earlier time of owning them. Rows that are ours are kept."""
        for row_id in [
            each
            for each, (key, reason) in self._rows.items()
            if key & 255 in slots and reason is not HoldReason.OUR_CLAIM
        ]:
            self.end_hold(row_id)
        for key in [each for each in self._dead if each & 255 in slots]:
            del self._dead[key]

    def rows(self, *reasons: HoldReason) -> list[int]:
        """The rows that hold for one of these reasons."""
        return [row_id for row_id, (_, reason) in self._rows.items() if reason in reasons]

    def after_dead(self, key: int) -> UnannouncedDead | None:
        """The dead event that the next entry of this aggregate has to name."""
        return self._dead.get(key)

    def note_died(self, row_id: int, key: int, event_id: str) -> None:
        """A dead event that does not hold: the next entry of its aggregate names it."""
        known = self._dead.pop(key, None)
        if len(self._dead) >= MOST_DEAD:
            del self._dead[next(iter(self._dead))]
        self._dead[key] = UnannouncedDead(row_id, event_id) if known is None or known.row_id < row_id else known

    def forget_dead(self, key: int, dead: UnannouncedDead) -> None:
        """No entry has to name this dead event any more: one that does is in the stream, or the event is retried."""
        if self._dead.get(key) == dead:
            del self._dead[key]
        self.announced.append(dead.row_id)

    def note_settled(
        self, outcomes: BatchOutcomes, not_ours: Collection[int], undone: Collection[int], event_ids: dict[int, str]
    ) -> bool:
        """Hear what became of rows, once it is written. Whether something waits that lies before the claims' cursors.

        `not_ours`: rows that another dispatcher took over; `undone`: that are ours as before. `event_ids`: of rows that
        died.
        """
        again = bool(outcomes.released)
        if not self._rows:
            return again
        for row_id in [*outcomes.sent_ids, *outcomes.done_ids, *outcomes.released]:
            if row_id in self._rows and row_id not in undone:
                again |= self.end_hold(row_id)
        for row_id, _ in outcomes.retries:
            if row_id in self._rows and row_id not in undone:
                self.add(row_id, self._rows[row_id][0], HoldReason.RETRY)
        for row_id, _ in outcomes.dead:
            if row_id not in self._rows or row_id in not_ours or row_id in undone:
                continue
            key = self._rows[row_id][0]
            if self.hold:
                self.add(row_id, key, HoldReason.DEAD)
            else:
                self.note_died(row_id, key, event_ids.get(row_id, ""))
                again |= self.end_hold(row_id)
        for row_id in not_ours:
            self.note_not_ours(row_id)
        return again

    def note_not_ours(self, row_id: int) -> None:
        """This row is not ours any more: it holds until the next check (watch.py)."""
        if row_id in self._rows:
            self.add(row_id, self._rows[row_id][0], HoldReason.OTHER_CLAIM)

    def note_checked(self, found: Iterable[tuple[int, str, str]], asked: Collection[int]) -> bool:
        """Hear what the table says of rows: id, kind and event_id, see held_check.sql. Returns as `note_settled`."""
        again, there = False, {row_id: (kind, event_id) for row_id, kind, event_id in found}
        for row_id in asked:
            known = self._rows.get(row_id)
            if known is None or known[1] is HoldReason.OUR_CLAIM:  # claimed since it was asked for
                continue
            kind, event_id = there.get(row_id, ("deleted", ""))
            if kind in ("deleted", "sent", "holds_nothing"):
                again |= self.end_hold(row_id)
            elif kind == HoldReason.DEAD and not self.hold:
                self.note_died(row_id, known[0], event_id)
                again |= self.end_hold(row_id)
            elif kind == HoldReason.CLAIMABLE:
                again |= known[1] not in FOUND_BY_CLAIMS
                self.add(row_id, known[0], known[1] if known[1] in FOUND_BY_CLAIMS else HoldReason.CLAIMABLE)
            elif kind == HoldReason.RETRY:
                again |= known[1] is not HoldReason.RETRY
                self.add(row_id, known[0], HoldReason.RETRY)
            elif kind in (HoldReason.PARKED, HoldReason.OTHER_CLAIM, HoldReason.DEAD):
                self.add(row_id, known[0], HoldReason(kind))
        return again
