"""Order within an aggregate, put together: dispatchers and what may befall them, in every order of steps."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.explore import Explored, explore
from tests.model.order.flaws import Flaw
from tests.model.order.owners import Owners
from tests.model.order.relay import Relay
from tests.model.order.state import (
    NOBODY,
    Belief,
    Dispatcher,
    Event,
    Lane,
    Row,
    Slot,
    State,
    put,
)

TWO_AND_ONE = (Event(0, 0), Event(0, 0), Event(1, 1))  # two of one aggregate; another one in the other slot


@dataclass(frozen=True, slots=True)
class Order:
    """The protocol, and how much may happen.

    `mishaps`: crashes, freezes, cuts, refusals and locks, in all; `moves`: slots that are given up; `absent`: so many
    dispatchers are started only when all others are dead; `cursor`: claims begin where the one before ended (with one
    slot only); `flaw`: what is wrong (None: nothing).
    """

    events: tuple[Event, ...] = TWO_AND_ONE
    dispatchers: int = 2
    absent: int = 0
    lanes: int = 2
    mishaps: int = 1
    moves: int = 1
    cursor: bool = False
    flaw: Flaw | None = None

    def check(self) -> Explored[State]:
        """Look for a state in which an event is out of order, doubled or lost."""
        return explore(self.start(), self.successors(), lambda state: bool(state.wrong))

    def start(self) -> State:
        """The first dispatcher owns all slots; nothing is committed yet."""
        slots = 1 + max(event.slot for event in self.events)
        idle = (Lane(),) * self.lanes
        nothing = Dispatcher(beliefs=(Belief(),) * slots, lanes=idle)
        owner = nothing._replace(beliefs=(Belief("ready"),) * slots)
        others = [nothing] * (self.dispatchers - self.absent - 1)
        absent = [nothing._replace(at="absent")] * self.absent
        return State(
            rows=(Row(),) * len(self.events),
            slots=(Slot(0),) * slots,
            dispatchers=(owner, *others, *absent),
            mishaps=self.mishaps,
            moves=self.moves,
        )

    def successors(self) -> "_Successors":
        """What may happen next in a state."""
        relay = Relay(self.events, self.flaw, cursor=self.cursor)
        return _Successors(relay, Owners(self.events, relay, self.flaw))

    def over(self, state: State) -> bool:
        """Every event is sent; or nobody is up, and nobody will be started."""
        return all(row.at == "sent" for row in state.rows) or all(us.at == "dead" for us in state.dispatchers)


class _Successors:
    def __init__(self, relay: Relay, owners: Owners) -> None:
        self._relay = relay
        self._owners = owners

    def __call__(self, state: State) -> Iterator[tuple[str, State]]:
        for number, us in enumerate(state.dispatchers):
            for what, after in self._dispatcher(state, number, us):
                yield f"dispatcher {number + 1} {what}", after
        if state.locked != NOBODY:
            yield f"somebody lets go of event {state.locked + 1}", state._replace(locked=NOBODY)
        elif state.mishaps:
            for at, row in enumerate(state.rows):
                if row.at in ("pending", "picked"):
                    less = state._replace(mishaps=state.mishaps - 1, locked=at)
                    yield f"somebody locks event {at + 1}", less

    def _dispatcher(self, state: State, number: int, us: Dispatcher) -> Iterator[tuple[str, State]]:
        if us.at == "absent":
            if all(them.at != "up" for them in state.dispatchers):
                yield "starts", state.with_us(number, us._replace(at="up"))
            return
        yield from self._relay.steps(state, number)
        if us.at == "up":
            yield from self._owners.steps(state, number)
            if state.mishaps:
                less = state._replace(mishaps=state.mishaps - 1)
                yield from _mishaps(less, number, us)


def _mishaps(state: State, number: int, us: Dispatcher) -> Iterator[tuple[str, State]]:
    """It dies; the session of a claim breaks; its connection to Redis is cut. What is on its way may still arrive."""
    going_on = tuple(lane if lane.at == "claim sees" else Lane() for lane in us.lanes)
    nothing = (Belief(),) * len(us.beliefs)
    dead = Dispatcher("dead", beliefs=nothing, lanes=going_on, wire=us.wire)
    yield "dies", state.with_us(number, dead)
    for which, lane in enumerate(us.lanes):
        if lane.at == "claim sees" and not lane.lost:
            lost = us._replace(lanes=put(us.lanes, which, lane._replace(lost=True)))
            yield "loses the session of its claim", state.with_us(number, lost)
    if any(lane.at == "written" for lane in us.lanes):
        lanes = tuple(_cut(lane) for lane in us.lanes)
        yield "loses its connection to Redis", state.with_us(number, us._replace(lanes=lanes))


def _cut(lane: Lane) -> Lane:
    if lane.at == "written":
        return lane._replace(at="unknown")
    return lane._replace(stale=True) if lane.at == "batch" else lane
