"""Owners of slots: take a free one, hear of it, load what is held there, give up; and the takeover.

The takeover from the dead and the frozen: revoke, fence, adopt, look, give back, free. Whoever takes over may freeze or
die after any step, and whoever was taken over from may wake up after any.
"""

from collections.abc import Iterator

from tests.model.order.flaws import UNGUARDED, Flaw
from tests.model.order.relay import Relay
from tests.model.order.state import NOBODY, TAKEOVER, Belief, Dispatcher, Event, Lane, Slot, State, Takeover, put

Steps = Iterator[tuple[str, State]]


class Owners:
    """The steps that move slots."""

    def __init__(self, events: tuple[Event, ...], relay: Relay, flaw: Flaw | None) -> None:
        self._events = events
        self._relay = relay
        self._flaw = flaw

    def steps(self, state: State, number: int) -> Steps:
        """What a dispatcher that is up may do next about slots."""
        us = state.dispatchers[number]
        for slot, row in enumerate(state.slots):
            if row.owner == NOBODY and (row.revoked_from == NOBODY or self._flaw == "a revoked slot counts as free"):
                yield f"takes slot {slot}, which is free", _own(state, slot, Slot(number, row.epoch))
        yield from self._hear(state, number, us)
        yield from self._give_up(state, number, us)
        yield from self._free(state)
        if us.takeover is None:
            yield from self._begin(state, number)
        else:
            yield from self._go_on(state, number, us.takeover)

    def _hear(self, state: State, number: int, us: Dispatcher) -> Steps:
        """Compare what it believes with the table; load what is held in slots that are new, unless they are in hand."""
        beliefs, held = us.beliefs, us.held
        for slot, row in enumerate(state.slots):
            if row.owner != number or self._is_news(beliefs[slot], row):
                beliefs = put(beliefs, slot, Belief())
                held = frozenset(each for each in held if self._events[each].slot != slot)
            if row.owner == number and beliefs[slot].at == "not ours" and slot not in self._relay.in_hand(us):
                beliefs = put(beliefs, slot, Belief("ready", row.epoch))
                held |= self._failed_in(state, slot)
        if beliefs != us.beliefs:
            yield "hears which slots it owns", state.with_us(number, us._replace(beliefs=beliefs, held=held))

    def _failed_in(self, state: State, slot: int) -> frozenset[int]:
        if self._flaw == "held aggregates are not loaded with the slot":
            return frozenset()
        rows = enumerate(state.rows)
        return frozenset(at for at, row in rows if row.failed and row.at != "sent" and self._events[at].slot == slot)

    def _is_news(self, belief: Belief, row: Slot) -> bool:
        return belief.epoch != row.epoch and self._flaw != "the claim asks for the owner, not for the epoch"

    def _give_up(self, state: State, number: int, us: Dispatcher) -> Steps:
        in_hand = self._relay.in_hand(us) if self._flaw != "given up while a batch is in flight" else set()
        for slot, belief in enumerate(us.beliefs):
            row = state.slots[slot]
            if belief.at == "ready" and state.moves:
                less = state._replace(moves=state.moves - 1)
                giving = us._replace(beliefs=put(us.beliefs, slot, belief._replace(at="giving up")))
                yield f"is giving up slot {slot}", less.with_us(number, giving)
            elif belief.at == "giving up" and slot not in in_hand:
                held = frozenset(each for each in us.held if self._events[each].slot != slot)
                without = us._replace(beliefs=put(us.beliefs, slot, Belief()), held=held)
                after = state.with_us(number, without)
                if row.owner == number and row.epoch == belief.epoch:
                    after = _own(after, slot, Slot(NOBODY, row.epoch + 1))
                yield f"gives up slot {slot}", after

            woken = row.revoked_from == number and not row.fenced and belief.at == "not ours" and slot not in in_hand
            if woken and self._flaw != "who was frozen waits to be fenced":  # whoever revoked it may be dead
                yield f"has nothing of slot {slot}: needs no fence", _own(state, slot, row._replace(fenced=True))

    # The takeover.

    def _begin(self, state: State, number: int) -> Steps:
        for victim, them in enumerate(state.dispatchers):
            owes = any(victim == row.owner or (victim == row.revoked_from and not row.fenced) for row in state.slots)
            if self._flaw == "a takeover is due for owners only":
                owes = any(victim == row.owner for row in state.slots)
            else:
                owes = owes or bool(state.picked_by(victim))
            if victim == number or them.at == "absent" or not owes:
                continue
            if them.at == "dead":
                yield self._revoke(state, number, victim)
            elif state.mishaps:  # it is frozen, or looks so
                yield self._revoke(state._replace(mishaps=state.mishaps - 1), number, victim)

    def _revoke(self, state: State, number: int, victim: int) -> tuple[str, State]:
        after, what = state, "looks at"
        if self._flaw != "no revocation before the fence":
            after, what = self._revoked(state, victim), "revokes"
        if self._flaw == "looked for before the fence":
            after = self._look(self._adopt(after, number, victim), number)
        us = after.dispatchers[number]._replace(takeover=Takeover(victim, "revoked"))
        return f"{what} the slots of dispatcher {victim + 1}", after.with_us(number, us)

    def _revoked(self, state: State, victim: int) -> State:
        for slot, row in enumerate(state.slots):
            if row.owner == victim:
                state = _own(state, slot, Slot(NOBODY, row.epoch + 1, revoked_from=victim))
        return state

    def _go_on(self, state: State, number: int, takeover: Takeover) -> Steps:
        victim = takeover.victim
        match takeover.at:
            case "revoked":
                after = self._at(self._fence(state, victim), number, takeover._replace(at="fenced"))
                yield f"fences dispatcher {victim + 1}", after
            case "fenced":
                after = self._revoked(state, victim) if self._flaw == "no revocation before the fence" else state
                for slot, row in enumerate(after.slots):
                    if row.revoked_from == victim:
                        after = _own(after, slot, row._replace(fenced=True))
                yield "notes that it is fenced", self._at(after, number, takeover._replace(at="noted"))
            case "noted":
                after = state
                if self._flaw not in ("not adopted before the slot is free", "looked for before the fence"):
                    after = self._adopt(state, number, victim)
                yield "adopts its rows", self._at(after, number, takeover._replace(at="adopted"))
            case "adopted" if state.locked not in state.picked_by(number, TAKEOVER):
                done = self._at(self._look(state, number), number, None)
                yield "looks for them, gives back the rest", done

    def _fence(self, state: State, victim: int) -> State:
        """Its statements end, made or not; what was on its way to Redis is gone. If it lives, it finds out."""
        them = state.dispatchers[victim]
        lanes = them.lanes
        for which, lane in enumerate(lanes):
            if lane.at == "claim sees" and self._flaw != "no fence in Postgres":
                lost = lane._replace(at="claim lost", seen=(), lost=False)
                lanes = put(lanes, which, lost if them.at == "up" else Lane())
            elif self._flaw != "no fence in Redis" and them.at == "up":
                if lane.at == "written":
                    lanes = put(lanes, which, lane._replace(at="unknown"))
                elif lane.at in ("batch", "answered"):
                    lanes = put(lanes, which, lane._replace(stale=True))
        wire = them.wire if self._flaw == "no fence in Redis" else ()
        return state.with_us(victim, them._replace(lanes=lanes, wire=wire))

    def _adopt(self, state: State, number: int, victim: int) -> State:
        """Not what somebody has locked (SKIP LOCKED); nor what the victim owns again: it claimed that since."""
        rows = set(state.picked_by(victim)) - {state.locked}
        if self._flaw not in ("adopted from one that owns the slot again", "looked for before the fence"):
            rows = {at for at in rows if state.slots[self._events[at].slot].owner != victim}
        for at in rows:
            adopted = state.rows[at]._replace(claim=(number, TAKEOVER))
            state = state._replace(rows=put(state.rows, at, adopted))
        return state

    def _look(self, state: State, number: int) -> State:
        rows = state.picked_by(number, TAKEOVER)
        there = tuple(row for row in rows if row in state.stream)
        if self._flaw == "adopted rows are given back without a look":
            there = ()
        return state.settle((number, TAKEOVER), there, tuple(row for row in rows if row not in there))

    def _free(self, state: State) -> Steps:
        """Whoever comes by: of a slot that is fenced no row is claimed any more."""
        for slot, row in enumerate(state.slots):
            if row.fenced and (self._flaw in UNGUARDED or not self._picked_in(state, slot)):
                yield f"frees slot {slot}", _own(state, slot, Slot(NOBODY, row.epoch))

    def _picked_in(self, state: State, slot: int) -> bool:
        return any(row.at == "picked" and self._events[at].slot == slot for at, row in enumerate(state.rows))

    def _at(self, state: State, number: int, takeover: Takeover | None) -> State:
        return state.with_us(number, state.dispatchers[number]._replace(takeover=takeover))


def _own(state: State, slot: int, row: Slot) -> State:
    return state._replace(slots=put(state.slots, slot, row))
