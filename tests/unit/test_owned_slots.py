"""Which slots may be claimed: owned, loaded, not in hand, not being given up."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import OwnedSlots, mask_of, ranges_of, slots_of

ALL = ((0, 255),)


def owner_of(*slots: int, epoch: int = 1) -> OwnedSlots:
    """A view that owns these slots and has loaded them."""
    owned = OwnedSlots()
    owned.gain(dict.fromkeys(slots, epoch))
    owned.loaded(owned.gained)
    return owned


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_becomes_the_fewest_ranges_and_back(seed: int) -> None:
    rng = Random(seed)
    slots = set(rng.sample(range(SLOTS), rng.randint(0, SLOTS)))
    ranges = ranges_of(mask_of(slots))
    assert slots_of(mask_of(slots)) == slots == {s for low, high in ranges for s in range(low, high + 1)}
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))


def test_what_is_gained_is_claimable_once_it_is_loaded() -> None:
    owned = OwnedSlots()
    calls = list[str]()
    owned.changed = lambda: calls.append("changed")
    assert ranges_of(owned.claimable()) == ()
    owned.gain(dict.fromkeys(range(SLOTS), 3))
    assert (ranges_of(owned.claimable()), owned.owned, calls) == ((), ALL, ["changed"])
    owned.loaded(owned.gained)
    assert (ranges_of(owned.claimable()), owned.gained) == (ALL, {})
    assert owned.slot_epochs(mask_of(range(SLOTS))) == 3 * SLOTS
    owned.gain(dict.fromkeys(range(SLOTS), 3))
    assert ranges_of(owned.claimable()) == ALL, "what is owned already is no gain"


def test_a_slot_in_hand_is_not_claimed_again_and_the_claim_gives_back_what_it_found_empty() -> None:
    owned = owner_of(*range(10))
    owned.begin_claim(owned.claimable())
    assert (ranges_of(owned.claimable()), owned.out_of_hand(range(11))) == ((), frozenset({10}))
    owned.end_claim(mask_of({*range(10)} - {4, 7}))
    assert ranges_of(owned.claimable()) == ((0, 3), (5, 6), (8, 9))
    owned.end_claim(mask_of([4]))
    assert ranges_of(owned.claimable()) == ((0, 6), (8, 9))


def test_a_slot_is_releasable_only_when_nothing_of_it_is_in_hand() -> None:
    owned = owner_of(1, 2, 3)
    drained = list[frozenset[int]]()
    owned.drained = lambda: drained.append(owned.releasable)
    owned.begin_claim(mask_of(range(2, 4)))
    owned.give_up([1, 2, 9])
    assert (ranges_of(owned.claimable()), owned.releasable) == ((), frozenset({1}))
    owned.end_claim(mask_of([3]))
    assert ranges_of(owned.claimable()) == ((3, 3),)
    assert (owned.releasable, drained) == (frozenset({1}), list[frozenset[int]]())
    owned.end_claim(mask_of([2]))
    assert drained == [frozenset({1, 2})]
    owned.lose([1, 2])
    assert (owned.owned, owned.releasable) == (((3, 3),), frozenset())


def test_a_batch_in_the_stream_is_followed_by_the_next_but_its_slot_is_released_when_all_are_settled() -> None:
    owned = owner_of(5)
    drained = list[frozenset[int]]()
    owned.drained = lambda: drained.append(owned.releasable)
    for _ in range(2):
        owned.begin_claim(mask_of([5]))
        owned.let_next_claim(mask_of([5, 5]))
        assert ranges_of(owned.claimable()) == ((5, 5),)
    owned.give_up([5])
    owned.settled(mask_of([5]))
    assert (owned.releasable, drained) == (frozenset(), [frozenset()])
    owned.settled(mask_of([5, 5]))
    assert owned.releasable == drained[-1] == frozenset({5})


def test_what_is_not_given_up_after_all_is_claimable_again() -> None:
    owned = owner_of(1, 2)
    calls = list[str]()
    owned.changed = lambda: calls.append("changed")
    owned.give_up([1, 2])
    assert (ranges_of(owned.claimable()), calls) == ((), [])
    owned.give_up([2])
    assert (ranges_of(owned.claimable()), calls) == (((1, 1),), ["changed"])


def test_a_slot_that_was_lost_in_hand_stays_in_hand_and_is_not_claimed_when_it_comes_back() -> None:
    owned = owner_of(5)
    owned.begin_claim(mask_of([5]))
    owned.lose([5])
    assert (owned.out_of_hand([5]), owned.owned) == (frozenset(), ())
    owned.gain({5: 2})
    owned.loaded(owned.gained)
    assert ranges_of(owned.claimable()) == ()
    owned.end_claim(mask_of([5]))
    assert (ranges_of(owned.claimable()), owned.slot_epochs(mask_of([5]))) == (((5, 5),), 2)


@pytest.mark.parametrize(
    "regain", [lambda owned: owned.gain({5: 2}), lambda owned: (owned.lose([5]), owned.gain({5: 2}))]
)
def test_a_load_that_began_before_the_slot_was_lost_does_not_count(regain: Callable[[OwnedSlots], object]) -> None:
    owned = OwnedSlots()
    owned.gain({5: 1})
    loading = owned.gained
    regain(owned)
    owned.loaded(loading)
    assert (ranges_of(owned.claimable()), owned.gained) == ((), {5: 2})
    owned.loaded(owned.gained)
    assert ranges_of(owned.claimable()) == ((5, 5),)
