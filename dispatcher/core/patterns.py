"""Which of several patterns can ever match: found out exactly, by walking all of them through every kind of text.

A pattern is what fnmatch takes: `*`, `?`, `[seq]`, `[!seq]`. A later route that matches only what earlier ones take
would look like one that works.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate

MOST_STATES = 500  # walked at once: many `*` have no end of them; then a pattern is taken for one that can match

_Step = Callable[[str], object] | None  # whether it takes a character; None: `*`


def unreachable(patterns: Sequence[str]) -> Iterator[int]:
    """The numbers of the patterns that match nothing which no earlier one, or several together, match."""
    steps = [_steps(pattern) for pattern in patterns]
    for number, wanted in enumerate(steps):
        # One by one first: that is quick, and is what people get wrong.
        several = [([each], [patterns[other]]) for other, each in enumerate(steps[:number])]
        several.append((steps[:number], list(patterns[:number])))
        if not all(_matches_more(wanted, earlier, _alphabet([patterns[number], *texts])) for earlier, texts in several):
            yield number


def _matches_more(wanted: list[_Step], earlier: Sequence[list[_Step]], alphabet: Sequence[str]) -> bool:
    """Whether some text matches `wanted` and none of the earlier ones."""
    automata = [wanted, *earlier]
    start = tuple(_rest(steps, {0}) for steps in automata)
    seen, walk = {start}, [start]
    while walk:
        here = walk.pop()
        ends = [len(steps) in states for steps, states in zip(automata, here, strict=True)]
        if ends[0] and not any(ends[1:]):
            return True
        for character in alphabet:
            if not (mine := _after(wanted, here[0], character)):
                continue
            theirs = (_after(steps, at, character) for steps, at in zip(earlier, here[1:], strict=True))
            after = (mine, *theirs)
            if after not in seen:
                seen.add(after)
                walk.append(after)
        if len(seen) > MOST_STATES:
            return True
    return False


def _after(steps: list[_Step], states: frozenset[int], character: str) -> frozenset[int]:
    if not states:
        return states
    found = set()
    for state in states:
        if state < len(steps):
            step = steps[state]
            if step is None:
                found.add(state)
            elif step(character):
                found.add(state + 1)
    return _rest(steps, found)


def _rest(steps: list[_Step], states: set[int]) -> frozenset[int]:
    """These states, and those behind a `*`, which may stand for nothing."""
    found = set(states)
    for state in sorted(states):
        while state < len(steps) and steps[state] is None:
            state += 1
            found.add(state)
    return frozenset(found)


def _steps(pattern: str) -> list[_Step]:
    steps: list[_Step] = []
    for part in _parts(pattern):
        if part == "*":
            steps.append(None)
        elif len(part) == 1 and part != "?":
            steps.append(part.__eq__)
        else:
            steps.append(re.compile(translate(part)).match)
    return steps


def _parts(pattern: str) -> Iterator[str]:
    """The pattern in pieces that stand for one character each, or for any number of them (`*`)."""
    at = 0
    while at < len(pattern):
        end = at + 1
        if pattern[at] == "[":
            begin = at + 1 + (pattern[at + 1 : at + 2] == "!")
            close = pattern.find("]", begin + 1)  # one that comes first is a character of the set
            end = close + 1 if close >= 0 else end
        yield pattern[at:end]
        at = end


def _alphabet(patterns: Sequence[str]) -> list[str]:
    """Characters that stand for all others: those that are named, their neighbours, and one that is not."""
    named = {ord(each) for pattern in patterns for each in pattern}
    around = {each + offset for each in named for offset in (-1, 0, 1)} | {0x10FFFD}
    return [chr(each) for each in sorted(around) if 0 < each < 0x110000 and not 0xD800 <= each < 0xE000]
