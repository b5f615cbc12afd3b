"""Claims of one dispatcher: what may be claimed now, the statement in Postgres, and a claim whose answer was lost.

A claim is two steps: a snapshot that shows owners and rows, then the update. Its answer is read with the second.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations

from tests.model.order.flaws import Flaw
from tests.model.order.state import Dispatcher, Event, Lane, Row, State, put

Steps = Iterator[tuple[str, State]]


class Claims:
    """The steps of claims. `events`: in the order of their ids.

    `cursor`: a claim begins where the one before ended. It looks at rows before that only if they hold, by their ids.
    """

    def __init__(self, events: tuple[Event, ...], flaw: Flaw | None, *, cursor: bool = False) -> None:
        self._events = events
        self._flaw = flaw
        self._cursor = cursor

    def claimable(self, us: Dispatcher) -> list[tuple[int, int]]:
        """Slots and their epochs that may be claimed now: ours, loaded, not in hand."""
        in_hand = set() if self._flaw == "two batches of a slot in flight" else self.in_hand(us)
        return [
            (slot, belief.epoch)
            for slot, belief in enumerate(us.beliefs)
            if belief.at == "ready" and slot not in in_hand
        ]

    def in_hand(self, us: Dispatcher) -> set[int]:
        """Slots of batches that are in flight. A batch that was accepted as a whole is not: only its settle is."""
        forgets_lost = self._flaw == "a slot is claimed again while a claim of it has no answer"
        return {
            slot
            for lane in us.lanes
            for slot, _ in lane.slots
            if not (lane.at == "answered" and lane.accepted == lane.rows)
            if not (forgets_lost and (lane.lost or lane.at == "claim lost"))
        }

    def _claims(self, state: State, number: int, which: int) -> Steps:
        """Send a claim: its snapshot shows owners and rows; what is committed by then is decided here."""
        us = state.dispatchers[number]
        claimable = self.claimable(us)
        for size in range(1, len(claimable) + 1):
            for wanted in combinations(claimable, size):
                granted = {slot for slot, epoch in wanted if self._grants(state, number, slot, epoch)}
                # With a cursor, what has to wait is put back when the answer is read: see _updates().
                held = frozenset() if self._flaw == "no held set" or self._cursor else us.held
                for what, rows in self._commits(state.rows, granted):
                    seen = tuple(
                        at
                        for at, row in enumerate(rows)
                        if row.at == "pending" and self._may_take(rows, at, held, granted)
                        if at >= us.cursor or at in us.held
                    )
                    if seen:  # a claim that finds nothing changes nothing, and its slots are back at once
                        began = state._replace(rows=rows).with_us(number, us._replace(reset=False, let_go=frozenset()))
                        after = with_lane(began, number, which, Lane("claim sees", wanted, seen))
                        yield f"claims of slots {sorted(granted)}: sees {names(seen)}{what}", after

    def _commits(self, rows: tuple[Row, ...], slots: set[int]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        """What may have been committed since the last look. Writers of an aggregate are serialised."""
        yield "", rows
        for at, row in enumerate(rows):
            event = self._events[at]
            before = (rows[b] for b in range(at) if self._events[b].aggregate == event.aggregate)
            if row.at == "unborn" and event.slot in slots and all(each.at != "unborn" for each in before):
                for what, more in self._commits(put(rows, at, Row("pending")), slots):
                    yield f"{what}, {at + 1} being new", more

    def _may_take(self, rows: tuple[Row, ...], at: int, held: frozenset[int], slots: set[int]) -> bool:
        """Nothing behind a row that failed; one that failed only when all before it are sent."""
        event = self._events[at]
        before = [each for each in range(at) if self._events[each].aggregate == event.aggregate]
        if event.slot not in slots or held.intersection(before):
            return False
        if self._flaw == "nothing before a held row goes out" and not rows[at].failed:
            return not any(self._events[each].aggregate == event.aggregate for each in held)
        only_first = rows[at].failed and self._flaw != "a row that failed goes before one that was given back"
        return not (only_first and any(rows[each].at != "sent" for each in before))

    def _in_postgres(self, state: State, number: int, which: int, lane: Lane) -> Steps:
        if lane.at == "claim sees":
            yield from self._updates(state, number, which, lane)

    def _grants(self, state: State, number: int, slot: int, epoch: int) -> bool:
        if self._flaw == "the claim does not ask for the owner":
            return True
        owner = state.slots[slot]
        if self._flaw == "the claim asks for the owner, not for the epoch":
            return owner.owner == number
        return owner.owner == number and owner.epoch == epoch

    def _updates(self, state: State, number: int, which: int, lane: Lane) -> Steps:
        us = state.dispatchers[number]
        takes_behind = self._flaw == "a locked head is passed over"
        overtakes = self._flaw == "a claim from behind the cursor overtakes what was held as it began"
        failed = {at for at in lane.seen if state.rows[at].failed}
        # A row that failed may not be due yet; or the share of fresh rows is used up, and only it is taken.
        for left_out in (set(), failed, set(lane.seen) - failed) if failed else (set(),):
            rows: list[int] = []
            passed_over = set[int]() if overtakes else set(us.let_go)
            held = us.held if self._cursor else frozenset()
            for at in lane.seen:
                row, aggregate = state.rows[at], self._events[at].aggregate
                before = [each for each in range(at) if self._events[each].aggregate == aggregate]
                if row.at != "pending" or at == state.locked or held.intersection(before):
                    passed_over.add(aggregate)
                elif at not in left_out and (aggregate not in passed_over or takes_behind):
                    rows.append(at)
            after = state
            for at in rows:
                picked = state.rows[at]._replace(at="picked", claim=(number, which))
                after = after._replace(rows=put(after.rows, at, picked))
            if us.at != "up":
                done = Lane()
            elif lane.lost:
                done = Lane("claim lost", slots=lane.slots)
            else:
                done = Lane("batch", slots=lane.slots, rows=tuple(rows), stale=lane.stale) if rows else Lane()
            if self._cursor and us.at == "up" and not lane.lost:
                after = self._notes_cursor(after, number, lane, rows)
            yield f"claim: takes {names(rows)}", with_lane(after, number, which, done)

    def _notes_cursor(self, state: State, number: int, lane: Lane, rows: list[int]) -> State:
        """Note how far a claim has looked: nothing can appear before that any more. A row it found locked holds."""
        us = state.dispatchers[number]
        unborn = [at for at, row in enumerate(state.rows) if row.at == "unborn"]
        behind = min([lane.seen[-1] + 1, *unborn])
        met = {state.locked}.intersection(lane.seen)
        moved = us._replace(cursor=0 if us.reset or us.let_go else max(us.cursor, behind), held=us.held | met)
        return state.with_us(number, moved)

    def _settle(
        self, state: State, claim: tuple[int, int], sent: tuple[int, ...] = (), back: tuple[int, ...] = ()
    ) -> State:
        """Settle and give back rows of a claim. What is given back lies before the cursor."""
        after = state.settle(claim, sent, back)
        if not self._cursor or not back:
            return after
        return after.with_us(claim[0], after.dispatchers[claim[0]]._replace(cursor=0, reset=True))

    def _gives_lost_claim_back(self, state: State, number: int, which: int) -> Steps:
        rows = state.picked_by(number, which)
        if state.locked in rows:
            return
        lane = state.dispatchers[number].lanes[which]
        after = self._settle(state, (number, which), back=rows)
        if self._flaw == "the session of a lost claim is not ended before its rows are given back" and lane.lost:
            # It may be made later: its slots are in nobody's hand.
            yield "gives a lost claim back", with_lane(after, number, which, lane._replace(slots=()))
        yield "ends the session of a lost claim, gives it back", with_lane(after, number, which, Lane())


def with_lane(state: State, number: int, which: int, lane: Lane) -> State:
    """That lane of that dispatcher is like this now."""
    us = state.dispatchers[number]
    return state.with_us(number, us._replace(lanes=put(us.lanes, which, lane)))


def names(rows: Iterable[int]) -> str:
    """For a trace."""
    return ", ".join(str(row + 1) for row in rows) or "nothing"
