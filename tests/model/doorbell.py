"""The doorbell's protocol put together: writers, dispatchers, key K, and what may befall them, in every order.

Every step is one that nothing can interrupt; between two steps of one process any other may move. Left out, because it
only adds wake-ups: rings of peers, nudges by retries, due times. Left out, because it is what must not be needed: the
tick counts as a step, but never as a reason why a row will be found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

from tests.model.dispatcher import (
    Dispatcher,
    DispatcherFlaw,
    DispatcherStep,
    Sees,
    dispatcher_steps,
)
from tests.model.explore import Explored, explore
from tests.model.mishaps import broken, refused, tick
from tests.model.writer import Writer, WriterFlaw, WriterStep, writer_steps

Flaw = DispatcherFlaw | WriterFlaw
One = TypeVar("One")


class State(NamedTuple):
    """Everybody. K and the rows are in the hands of those who have them."""

    writers: tuple[Writer, ...]
    dispatchers: tuple[Dispatcher, ...]


@dataclass(frozen=True, slots=True)
class Doorbell:
    """So many of each, what may happen to them, and what is wrong with the protocol (None: nothing)."""

    writers: int
    dispatchers: int
    sessions_break: bool = True
    statements_are_refused: bool = False
    dispatchers_die: bool = False
    flaw: Flaw | None = None

    def check(self) -> Explored[State]:
        """Look for a state in which a committed row waits for the tick."""
        start = State((Writer(),) * self.writers, (Dispatcher(),) * self.dispatchers)
        return explore(start, self._successors, a_row_waits_for_the_tick, _regardless_of_names)

    def _successors(self, state: State) -> Iterator[tuple[str, State]]:
        sleeper = any(each.owns_key for each in state.dispatchers)
        for number, writer in enumerate(state.writers):
            for step in _writer_steps(writer, sleeper, self.flaw):
                writers = _put(state.writers, number, step.after)
                dispatchers = tuple(map(_ring, state.dispatchers)) if step.rings else state.dispatchers
                yield f"writer {number + 1} {step.what}", State(writers, dispatchers)
        for number, us in enumerate(state.dispatchers):
            sees = _sees(state, number)
            for move in _dispatcher_steps(us, sees, self):
                writers = tuple(map(_claimed, state.writers)) if move.claims else state.writers
                yield (
                    f"dispatcher {number + 1} {move.what}",
                    State(writers, _put(state.dispatchers, number, move.after)),
                )


def a_row_waits_for_the_tick(state: State) -> bool:
    """A row is committed and unclaimed, and no dispatcher will look before its tick. A lost session wakes its owner."""
    alive = [us for us in state.dispatchers if us.at != "dead"]
    return (
        any(writer.at == "over" and writer.row for writer in state.writers)
        and bool(alive)
        and all(map(_only_the_tick_ends_its_wait, alive))
    )


def _only_the_tick_ends_its_wait(us: Dispatcher) -> bool:
    """Up, waiting, no ring on the way, neither the pause for writers nor a poll about to end, no statement refused."""
    if us.session != "up":
        return False
    if us.at == "wait_readable":
        return not us.socket and us.position != "writers"
    return us.at == "tick pause"


@cache
def _writer_steps(writer: Writer, sleeper: bool, flaw: Flaw | None) -> list[WriterStep]:
    return list(writer_steps(writer, sleeper, flaw))


@cache
def _dispatcher_steps(us: Dispatcher, sees: Sees, model: Doorbell) -> list[DispatcherStep]:
    """What it does by itself, and what befalls it."""
    steps = list(dispatcher_steps(us, sees, model.flaw))
    if (after := tick(us)) is not None:
        steps.append(DispatcherStep("has waited for the tick", after))
    if model.statements_are_refused and (after := refused(us)) is not None:
        steps.append(DispatcherStep(f"is refused its statement ({us.at})", after))
    if model.sessions_break and us.session == "up" and us.at != "dead":
        steps.append(DispatcherStep("loses its session, unawares", broken(us)))
    if model.dispatchers_die and us.at != "dead":
        steps.append(DispatcherStep("dies", Dispatcher(at="dead", session="broken")))
    return steps


def _sees(state: State, number: int) -> Sees:
    others = state.dispatchers[:number] + state.dispatchers[number + 1 :]
    return Sees(
        row=any(writer.row for writer in state.writers),
        key_taken=any(other.owns_key for other in others),
        key_shared=any(other.shares_key for other in others) or any(writer.shares_key for writer in state.writers),
    )


def _put(those: tuple[One, ...], number: int, one: One) -> tuple[One, ...]:
    return (*those[:number], one, *those[number + 1 :])


@cache
def _ring(us: Dispatcher) -> Dispatcher:
    return us._replace(socket=True) if us.listening else us


@cache
def _claimed(writer: Writer) -> Writer:
    return writer._replace(row=False)


def _regardless_of_names(state: State) -> State:
    return State(tuple(sorted(state.writers)), tuple(sorted(state.dispatchers)))
