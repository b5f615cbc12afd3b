"""Who should own which slot. Pure: every dispatcher makes the same plan of the same state, and does its part of it.

Shares are fair, whatever was before. Who owns more than its share gives up what is too much, and nothing else moves: a
slot that moves waits for a moment. Each dispatcher's slots stay few ranges, because a claim of many ranges is slow.

For example, A owns all 256 slots, then B joins, and C, a canary of the first 32. The shares are 112, 112 and 32: C gets
slots 0 to 31, B gets 112 to 223, and A keeps 32 to 111 and 224 to 255.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dispatcher.core.layout import SLOTS

MOST_RANGES = 8  # of one dispatcher; with more all slots are given anew: from a dozen ranges on a claim is slow


class Member(NamedTuple):
    """A dispatcher that may own slots: some of the first `may_own` of 256; a canary may own less than all."""

    id: int
    may_own: int = SLOTS


def fair_shares(members: Iterable[Member]) -> dict[int, int]:
    """How many slots each should own, by id: every slot that somebody may own is given, as equally as possible."""
    left = sorted({member for member in members if member.may_own > 0}, key=lambda member: (member.may_own, member.id))
    shares: dict[int, int] = {}
    given = 0
    while left:
        # A canary may own only the first slots. So the first `at` members, narrowest first, get what the widest of them
        # may own, divided by `at`. Where that is least, they get it and no more; the others share what is left.
        _, tightest = min(
            ((left[at - 1].may_own - given) / at, -at)
            for at in range(1, len(left) + 1)
            if at == len(left) or left[at].may_own > left[at - 1].may_own
        )
        bound, left = left[:-tightest], left[-tightest:]
        room = bound[-1].may_own - given
        for at, member in enumerate(bound):
            shares[member.id] = room // len(bound) + (at < room % len(bound))
        given += room
    return shares


def plan(owners: Sequence[int | None], members: Sequence[Member]) -> list[int | None]:
    """Who should own each slot. `owners`: by slot; those who are no members count as nobody."""
    shares, most = fair_shares(members), {member.id: member.may_own for member in members}
    target = [owner if owner in shares and slot < most[owner] else None for slot, owner in enumerate(owners)]
    for number, member in enumerate(sorted(shares, key=lambda each: _first(target, each))):
        _trim(target, member, shares[member], from_below=bool(number % 2))
    # The narrow first: they may own no others, and whoever has to make room for them is filled after them.
    for width in sorted({most[member] for member in shares}):
        lacking = {id: shares[id] - target.count(id) for id in shares if most[id] == width}
        _make_room(target, sum(lacking.values()), width, {id for id in shares if most[id] > width})
        _fill(target, lacking, width)
    if max((len(_runs(target, member)) for member in shares), default=0) > MOST_RANGES:
        return _one_range_each(target, shares, most)
    return target


def _one_range_each(target: Sequence[int | None], shares: dict[int, int], most: dict[int, int]) -> list[int | None]:
    """One range each: the narrow first, others about where they are."""

    def width_and_position(member: int) -> tuple[int, float, int]:
        theirs = [slot for slot, owner in enumerate(target) if owner == member]
        return most[member], sum(theirs) / max(len(theirs), 1), member

    laid = [member for member in sorted(shares, key=width_and_position) for _ in range(shares[member])]
    return [*laid, *[None] * (SLOTS - len(laid))]


def _first(target: Sequence[int | None], member: int) -> int:
    return target.index(member) if member in target else SLOTS


def _runs(target: Sequence[int | None], owner: int | None, width: int = SLOTS) -> list[range]:
    """The ranges of these slots below `width`."""
    runs, low = list[range](), None
    for slot in range(width + 1):
        theirs = slot < width and target[slot] == owner
        if theirs and low is None:
            low = slot
        elif not theirs and low is not None:
            runs.append(range(low, slot))
            low = None
    return runs


def _trim(target: list[int | None], member: int, share: int, *, from_below: bool) -> None:
    """Take from a member what it has too much: its smallest ranges, then an end of the next."""
    surplus = target.count(member) - share
    for run in sorted(_runs(target, member), key=len):
        if surplus <= 0:
            return
        given = run if len(run) <= surplus else run[:surplus] if from_below else run[-surplus:]
        surplus -= len(given)
        for slot in given:
            target[slot] = None


def _make_room(target: list[int | None], wanted: int, width: int, wider: set[int]) -> None:
    """Free as many of the first slots as narrow members lack, from the wider."""
    wanted -= target[:width].count(None)
    for slot in reversed(range(width)):
        if wanted > 0 and target[slot] in wider:
            target[slot] = None
            wanted -= 1


def _fill(target: list[int | None], lacking: dict[int, int], width: int) -> None:
    """Give free slots to those that lack some: next to their own if possible, else where most are free."""
    while runs := _runs(target, None, width):
        member, lacks = max(lacking.items(), key=lambda item: (item[1], -item[0]))
        if lacks <= 0:
            return
        after_own = [run for run in runs if target[run[0] - 1 : run[0]] == [member]]
        before_own = [run for run in runs if target[run[-1] + 1 : run[-1] + 2] == [member]]
        run = _best([each for each in runs if each in after_own or each in before_own] or runs, lacks)
        taken = run[-lacks:] if run in before_own and run not in after_own else run[:lacks]
        for slot in taken:
            target[slot] = member
        lacking[member] -= len(taken)


def _best(runs: Sequence[range], lacks: int) -> range:
    """The longest range that is taken as a whole, else the shortest one."""
    whole = [run for run in runs if len(run) <= lacks]
    return max(whole, key=len) if whole else min(runs, key=len)
