"""Who should own which slot: fair, few moves, few ranges, whoever joins and leaves, in whatever order it is done."""

from collections import Counter
from itertools import groupby
from random import Random

import pytest

from dispatcher.core.layout import SLOTS
from dispatcher.core.slot_plan import MOST_RANGES, Member, fair_shares, plan

Owners = list[int | None]
NOBODY: Owners = [None] * SLOTS


def ranges_of(owners: Owners) -> Counter[int | None]:
    """How many ranges each has."""
    return Counter(owner for owner, _ in groupby(owners))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([], {}),
        ([Member(7)], {7: 256}),
        ([Member(2), Member(1), Member(3)], {1: 86, 2: 85, 3: 85}),
        ([Member(1), Member(2), Member(3, 26)], {1: 115, 2: 115, 3: 26}),
        ([Member(1), Member(2, 200)], {1: 128, 2: 128}),
        ([Member(1), Member(2, 26), Member(3, 26), Member(4, 4)], {1: 230, 2: 11, 3: 11, 4: 4}),
        ([Member(1, 26)], {1: 26}),
        ([Member(1), Member(2, 0)], {1: 256}),
        ([Member(1), Member(2, 3), Member(3, 3), Member(4, 3), Member(5, 3)], {1: 253, 2: 1, 3: 1, 4: 1, 5: 0}),
    ],
)
def test_shares_are_as_equal_as_what_each_may_own_allows(members: list[Member], expected: dict[int, int]) -> None:
    assert fair_shares(members) == expected


def test_more_dispatchers_than_slots_leave_some_without() -> None:
    shares = fair_shares(Member(number) for number in range(300))
    assert Counter(shares.values()) == {1: 256, 0: 44}


def test_one_that_joins_takes_from_those_that_have_most_and_nothing_else_moves() -> None:
    before = plan(NOBODY, [Member(1), Member(2)])
    assert before == [1] * 128 + [2] * 128
    after = plan(before, [Member(1), Member(2), Member(3)])
    assert Counter(after) == {1: 86, 2: 85, 3: 85}
    assert ranges_of(after) == {1: 1, 2: 1, 3: 1}
    assert {(was, now) for was, now in zip(before, after, strict=True) if was != now} == {(1, 3), (2, 3)}


def test_the_slots_of_one_that_leaves_are_shared_and_nothing_else_moves() -> None:
    before = plan(NOBODY, [Member(1), Member(2), Member(3), Member(4)])
    after = plan(before, [Member(1), Member(2), Member(4)])
    assert all(now == was for was, now in zip(before, after, strict=True) if was != 3)
    assert max(Counter(after).values()) <= 86


def test_a_canary_gets_slots_of_its_share_only_and_gives_them_back() -> None:
    members = [Member(1), Member(2)]
    before = plan(NOBODY, members)
    with_canary = plan(before, [*members, Member(3, 26)])
    assert {slot for slot, owner in enumerate(with_canary) if owner == 3} == set(range(26))
    assert Counter(with_canary) == {1: 115, 2: 115, 3: 26}
    assert Counter(plan(with_canary, members)) == {1: 128, 2: 128}
    alone = plan(NOBODY, [Member(3, 26)])
    assert alone == [3] * 26 + [None] * 230, "what nobody may own has no owner"


def test_a_slot_that_a_canary_may_not_own_is_given_up() -> None:
    assert Counter(plan([3] * 256, [Member(3, 26), Member(1)])) == {3: 26, 1: 230}


@pytest.mark.parametrize("seed", range(30))
def test_shares_stay_fair_in_few_ranges_and_moves_few_while_dispatchers_come_and_go(seed: int) -> None:
    rng, owners, members, laid_anew = Random(seed), NOBODY, list[Member](), 0
    for number in range(100):
        if members and (len(members) > 8 or rng.random() < 0.5):
            members.remove(rng.choice(members))
        else:
            members.append(Member(number, rng.choice([SLOTS, SLOTS, SLOTS, 26])))
        target, shares = plan(owners, members), fair_shares(members)
        assert {id: target.count(id) for id in shares} == shares
        assert all(
            target[slot] is None or slot < m.may_own for m in members for slot in range(SLOTS) if target[slot] == m.id
        )
        assert all(count <= MOST_RANGES for owner, count in ranges_of(target).items() if owner is not None)
        assert plan(target, members) == target, "nothing is left to do"
        too_many = sum(max(0, owners.count(id) - share) for id, share in shares.items())
        moved = sum(was != now for was, now in zip(owners, target, strict=True) if was in shares)
        laid_anew += moved > too_many + 26  # and room for a canary
        owners = target
    assert laid_anew <= 10


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_same_whoever_does_its_part_first(seed: int) -> None:
    """Each looks at its own time, gives up what its plan says, and takes what is free: that comes to rest."""
    rng = Random(seed)
    members = [Member(number, rng.choice([SLOTS, SLOTS, 26])) for number in range(rng.randint(1, 9))]
    owners: Owners = [rng.choice([None, *range(12)]) for _ in range(SLOTS)]
    owners = [owner if owner is None or owner < len(members) else None for owner in owners]
    gave: Counter[int] = Counter()
    for _ in range(200):
        member = rng.choice(members)
        target = plan(owners, members)
        if owners == target:
            break
        for slot in range(SLOTS):
            if owners[slot] == member.id != target[slot] and rng.random() < 0.7:  # the others are in hand
                owners[slot] = None
                gave[slot] += 1
        target = plan(owners, members)
        owners = [
            member.id if owners[slot] is None and target[slot] == member.id else owners[slot] for slot in range(SLOTS)
        ]
    assert owners == plan(owners, members)
    assert max(gave.values(), default=0) <= 2, "no slot wanders"
