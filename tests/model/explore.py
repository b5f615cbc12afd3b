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


def _trace(state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
    steps = []
    while (before := came_from[state]) is not None:
        state, step = before
        steps.append(step)
    return steps[::-1]
