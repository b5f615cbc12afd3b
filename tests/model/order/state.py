"""The state of the model: rows, slots and stream as the servers have them, dispatchers with what they believe.

A frozen dispatcher is one that takes no step for a while, so every step of the model may meet it. What it had sent goes
on without it: a statement in Postgres, bytes on their way to Redis.
"""

from typing import Literal, NamedTuple, TypeVar

One = TypeVar("One")
NOBODY = -1
TAKEOVER = -1  # in place of a lane: the claim under which rows are adopted


class Event(NamedTuple):
    """What never changes of an event: the number of its aggregate, and its slot. Its id is its place in the list."""

    aggregate: int
    slot: int


class Row(NamedTuple):
    """A row of the outbox. `claim`: dispatcher and lane; `failed`: attempts > 0."""

    at: Literal["unborn", "pending", "picked", "sent"] = "unborn"
    claim: tuple[int, int] | None = None
    failed: bool = False


class Slot(NamedTuple):
    """A row of slot_owner. Free when it has no owner and was not revoked, or is freed since."""

    owner: int = NOBODY
    epoch: int = 0
    revoked_from: int = NOBODY
    fenced: bool = False  # revoked_from was fenced since


class Belief(NamedTuple):
    """What a dispatcher believes of a slot. ready: it knows what is held there."""

    at: Literal["not ours", "ready", "giving up"] = "not ours"
    epoch: int = 0


class Lane(NamedTuple):
    """A lane, with the batch it works on."""

    at: Literal["idle", "claim sees", "claim lost", "batch", "written", "unknown", "answered"] = "idle"
    slots: tuple[tuple[int, int], ...] = ()  # of the batch, and the epochs in which they are claimed
    seen: tuple[int, ...] = ()  # rows that the snapshot of the claim shows as due
    rows: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    refused: int = NOBODY  # the row that was refused for its own sake
    lost: bool = False  # the session of the claim broke: its answer will not be read
    stale: bool = False  # the connection it was claimed for broke


class Takeover(NamedTuple):
    """How far a dispatcher is with what it takes over."""

    victim: int
    at: Literal["revoked", "fenced", "noted", "adopted"]


class Dispatcher(NamedTuple):
    """A process, its sessions, and its connection to Redis with what is on its way there."""

    at: Literal["absent", "up", "dead"] = "up"
    beliefs: tuple[Belief, ...] = ()
    held: frozenset[int] = frozenset()  # of the slots it owns: rows that failed, or that a claim met and found locked
    cursor: int = 0  # the next claim looks at rows from this one on, and at held ones
    reset: bool = False  # the cursor was set to the start since the running claim began
    let_go: frozenset[int] = frozenset()  # aggregates of which a row stopped to hold since the running claim began
    lanes: tuple[Lane, ...] = ()
    wire: tuple[tuple[int, tuple[int, ...]], ...] = ()  # lane and rows, first written first
    takeover: Takeover | None = None


class State(NamedTuple):
    """Everything. `mishaps`, `moves`: how many more may happen; `wrong`: what must never be."""

    rows: tuple[Row, ...]
    slots: tuple[Slot, ...]
    dispatchers: tuple[Dispatcher, ...]
    stream: frozenset[int] = frozenset()
    locked: int = NOBODY  # a row that somebody from outside has locked
    mishaps: int = 0
    moves: int = 0
    wrong: str = ""

    def with_us(self, number: int, us: Dispatcher) -> "State":
        """This dispatcher is like that now."""
        return self._replace(dispatchers=put(self.dispatchers, number, us))

    def picked_by(self, dispatcher: int, lane: int | None = None) -> tuple[int, ...]:
        """The rows it has claimed, with this lane or any."""
        return tuple(
            number
            for number, row in enumerate(self.rows)
            if row.claim is not None and row.claim[0] == dispatcher and lane in (None, row.claim[1])
        )

    def settle(self, claim: tuple[int, int], sent: tuple[int, ...] = (), back: tuple[int, ...] = ()) -> "State":
        """Settle and give back rows that still bear this claim."""
        state = self
        for number in sent:
            if self.rows[number].claim == claim:
                wrong = state.wrong or ("" if number in self.stream else f"event {number + 1} is lost")
                done = self.rows[number]._replace(at="sent", claim=None)
                state = state._replace(rows=put(state.rows, number, done), wrong=wrong)
        for number in back:
            if self.rows[number].claim == claim:
                done = self.rows[number]._replace(at="pending", claim=None)
                state = state._replace(rows=put(state.rows, number, done))
        return state


def put(those: tuple[One, ...], number: int, one: One) -> tuple[One, ...]:
    """The same with one replaced."""
    return (*those[:number], one, *those[number + 1 :])
