"""Explore: every state a model can reach, breadth first, so that the trace to a bad one is as short as can be.

Nothing is drawn by chance: the same model gives the same number of states and the same trace.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Explored(Generic[State]):
    """The states that were reached, and the shortest way to a bad one: a line a step; empty when none is bad."""

    states: Collection[State]
    trace: list[str]


def explore(
    start: State,
    successors: Callable[[State], Iterable[tuple[str, State]]],
    bad: Callable[[State], bool],
    same: Callable[[State], Hashable] = lambda state: state,
) -> Explored[State]:
    """Walk until a bad state or to the end. States with the same `same` count as one (interchangeable processes)."""
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    seen, row = {same(start)}, [start]
    while row:
        following = []
        for state in row:
            for step, after in successors(state):
                if (key := same(after)) in seen:
                    continue
                seen.add(key)
                came_from[after] = (state, step)
                if bad(after):
                    return Explored(came_from, _trace(after, came_from))
                following.append(after)
        row = following
    return Explored(came_from, [])


def dead_end(
    explored: Explored[State], successors: Callable[[State], Iterable[tuple[str, State]]], goal: Callable[[State], bool]
) -> list[str] | None:
    """The shortest way to a state from which no way leads to the goal any more; None when there is none.

    All states must have been explored, and each counted as itself.
    """
    came_from = explored.states
    assert isinstance(came_from, dict)
    before: dict[State, list[State]] = {}
    reached = [state for state in came_from if goal(state)]
    for state in came_from:
        for _, after in successors(state):
            before.setdefault(after, []).append(state)
    can = set(reached)
    while reached:
        for state in before.get(reached.pop(), ()):
            if state not in can:
                can.add(state)
                reached.append(state)
    return next((_trace(state, came_from) for state in came_from if state not in can), None)


def _trace(state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
    steps = []
    while (before := came_from[state]) is not None:
        state, step = before
        steps.append(step)
    return steps[::-1]
