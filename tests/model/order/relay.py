"""The relay of one dispatcher: claim, publish, refuse, cut, settle, by one of its lanes.

One step is what nothing can come between. A claim is two: a snapshot that shows owners and rows, then the update. An
answer is read with the step it answers; where it is lost, that is a step of its own.
"""

from typing import Literal

from tests.model.order.claims import Claims, Steps, names, with_lane
from tests.model.order.state import NOBODY, Dispatcher, Lane, State, put


class Relay(Claims):
    """The steps of lanes."""

    def steps(self, state: State, number: int) -> Steps:
        """What the lanes of a dispatcher may do next, and the servers for them."""
        us = state.dispatchers[number]
        for which, lane in enumerate(us.lanes):
            yield from self._in_postgres(state, number, which, lane)
            if us.at == "up":
                yield from self._by_itself(state, number, which, lane)
        if us.wire:
            yield from self._in_redis(state, number, us)

    def _by_itself(self, state: State, number: int, which: int, lane: Lane) -> Steps:
        us, me = state.dispatchers[number], (number, which)
        match lane.at:
            case "idle" if which == 0 or us.lanes[which - 1].at != "idle":
                yield from self._claims(state, number, which)
            case "claim lost":
                yield from self._gives_lost_claim_back(state, number, which)
            case "claim sees" if lane.lost:
                yield from self._gives_lost_claim_back(state, number, which)
            case "batch" if lane.stale and self._flaw != "claimed for a connection that broke, written to the next":
                if state.locked not in lane.rows:
                    after = self._settle(state, me, back=lane.rows)
                    yield "gives back what it did not write", with_lane(after, number, which, Lane())
            case "batch":
                written = with_lane(state, number, which, lane._replace(at="written", stale=False))
                us = written.dispatchers[number]
                yield "writes its batch", written.with_us(number, us._replace(wire=(*us.wire, (which, lane.rows))))
            case "unknown":
                yield from self._looks(state, number, which, lane)
            case "answered" if state.locked not in lane.rows:
                yield from self._settles(state, number, which, lane)

    def _in_redis(self, state: State, number: int, us: Dispatcher) -> Steps:
        (which, rows), *others = us.wire
        lane = us.lanes[which]
        waits = us.at == "up" and lane.at == "written"  # for the answer
        left = us._replace(wire=tuple(others))
        if self._flaw == "no MULTI":
            yield from self._one_by_one(state, number, which, rows, tuple(others))
            return
        accepted = self._append(state, rows)
        done = lane._replace(at="answered", accepted=rows) if waits else lane
        yield f"Redis takes {names(rows)}", with_lane(accepted.with_us(number, left), number, which, done)
        if waits and state.mishaps:
            less = state._replace(mishaps=state.mishaps - 1).with_us(number, left)
            refused = lane._replace(at="answered")
            yield f"Redis is full, refuses {names(rows)}", with_lane(less, number, which, refused)
            for row in rows:
                refused = lane._replace(at="answered", refused=row)
                yield f"Redis refuses {names(rows)} for {names([row])}", with_lane(less, number, which, refused)

    def _one_by_one(
        self,
        state: State,
        number: int,
        which: int,
        rows: tuple[int, ...],
        others: tuple[tuple[int, tuple[int, ...]], ...],
    ) -> Steps:
        us = state.dispatchers[number]
        lane, (row, *more) = us.lanes[which], rows
        left = us._replace(wire=((which, tuple(more)), *others) if more else others)
        last: Literal["written", "answered"] = "written" if more else "answered"
        waits = us.at == "up" and lane.at == "written"
        taken = lane._replace(at=last, accepted=(*lane.accepted, row)) if waits else lane
        after = self._append(state, (row,)).with_us(number, left)
        yield f"Redis takes {names([row])}", with_lane(after, number, which, taken)
        if waits and state.mishaps:
            less = state._replace(mishaps=state.mishaps - 1).with_us(number, left)
            yield f"Redis refuses {names([row])}", with_lane(less, number, which, lane._replace(at=last))

    def _append(self, state: State, rows: tuple[int, ...]) -> State:
        stream, wrong = state.stream, state.wrong
        for row in rows:
            aggregate = self._events[row].aggregate
            before = {at for at in range(row) if self._events[at].aggregate == aggregate}
            if row in stream:
                wrong = wrong or f"event {row + 1} is doubled"
            elif before - stream:
                wrong = wrong or f"event {row + 1} is out of order"
            stream |= {row}
        return state._replace(stream=stream, wrong=wrong)

    def _looks(self, state: State, number: int, which: int, lane: Lane) -> Steps:
        """After a cut: end the old connection, look for the rows, settle those that are there, give back the rest."""
        if state.locked in lane.rows:
            return
        us, me = state.dispatchers[number], (number, which)
        there = tuple(row for row in lane.rows if row in state.stream)
        if self._flaw == "given back after a cut without a look":
            there = ()
        ended = us if self._flaw == "looked before the old connection was ended" else us._replace(wire=())
        away = tuple(row for row in lane.rows if row not in there)
        after = self._settle(state.with_us(number, ended), me, there, away)
        what = (
            f"ends the old connection, looks: {names(there)} is there" if there else "ends the old one, looks: nothing"
        )
        yield what, with_lane(self._note_sent(after, number, there), number, which, Lane())

    def _settles(self, state: State, number: int, which: int, lane: Lane) -> Steps:
        me = (number, which)
        if lane.refused == NOBODY:
            back = tuple(row for row in lane.rows if row not in lane.accepted)
            after = self._note_sent(self._settle(state, me, lane.accepted, back), number, lane.accepted)
            what = "gives back" if back == lane.rows else "settles"
            yield f"{what} {names(lane.rows)}", with_lane(after, number, which, Lane())
            return
        # The row is proved to be the cause: it waits for its retry and holds its aggregate; the others go out.
        event, us = self._events[lane.refused], state.dispatchers[number]
        held = us._replace(held=us.held | {lane.refused})
        rest = tuple(row for row in lane.rows if row != lane.refused)
        behind = tuple(row for row in rest if row > lane.refused and self._events[row].aggregate == event.aggregate)
        if self._flaw == "what follows a refused row in its batch goes out":
            behind = ()
        after = self._settle(state.with_us(number, held), me, back=(lane.refused, *behind))
        if state.rows[lane.refused].claim == me:
            failed = after.rows[lane.refused]._replace(failed=True)
            after = after._replace(rows=put(after.rows, lane.refused, failed))
        rest = tuple(row for row in rest if row not in behind)
        done = Lane("batch", slots=lane.slots, rows=rest, stale=lane.stale) if rest else Lane()
        yield f"settles {names([lane.refused])}: to be retried", with_lane(after, number, which, done)

    def _note_sent(self, state: State, number: int, rows: tuple[int, ...]) -> State:
        us = state.dispatchers[number]
        gone = self._aggregates_of(rows) if self._flaw == "one held row an aggregate" else rows
        left = us._replace(held=us.held.difference(gone))
        if self._cursor and (let_go := us.held.intersection(rows)):
            aggregates = {self._events[row].aggregate for row in let_go}
            left = left._replace(cursor=0, reset=True, let_go=us.let_go | aggregates)
        return state.with_us(number, left)

    def _aggregates_of(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        wanted = {self._events[row].aggregate for row in rows}
        return tuple(at for at, event in enumerate(self._events) if event.aggregate in wanted)
