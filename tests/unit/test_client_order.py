"""A consumer that keeps the order: who reads how many shards, and what waits for what."""

import itertools
import random

import pytest

from dispatcher.client.aggregate_lines import Line, Lines, Queued
from dispatcher.client.shard_leases import lease_of
from dispatcher.client.shard_shares import Shares, fair

KEYS = [str(number) for number in range(8)]


@pytest.mark.parametrize(("shards", "members"), [*itertools.product((1, 2, 8, 256), (1, 2, 3, 5, 9))])
def test_shares_are_even_and_give_out_all(shards: int, members: int) -> None:
    names = [f"c{number}" for number in range(members)]
    chance = random.Random(shards * members)
    for _ in range(20):
        holdings = dict.fromkeys(names, 0)
        for _ in range(shards):
            holdings[chance.choice(names)] += 1
        shares = [fair(holdings, names, shards, name) for name in names]
        assert sum(shares) == shards
        assert max(shares) - min(shares) <= 1


def test_who_holds_a_fair_share_moves_nothing() -> None:
    """Whoever has one more than others keeps it, whatever its name."""
    for holdings in ({"a": 3, "b": 2, "c": 3}, {"a": 2, "b": 3, "c": 3}):
        assert {name: fair(holdings, holdings, 8, name) for name in holdings} == holdings


def test_who_is_no_member_has_no_share() -> None:
    assert fair({"a": 8}, ["b"], 8, "a") == 0


def test_several_readers_of_a_consumer_take_no_more_than_its_share() -> None:
    shares = Shares("me", 60.0)
    for key in KEYS:
        shares.note(key, {shares.me, "other"}, {key: ""})
    assert [shares.may_take(key) for key in KEYS].count(True) == 4
    for key in KEYS:
        shares.note(key, {shares.me, "other", "third", "fourth"}, {})
    assert [shares.must_leave(key) for key in KEYS[:4]].count(True) == 2


def test_what_a_node_that_is_away_holds_is_shared_by_nobody() -> None:
    shares = Shares("me", 60.0)
    for key in KEYS:
        shares.note(key, {shares.me, "other"}, {key: "other"})
    for key in KEYS[4:]:
        shares.forget(key, [key])
    for key in KEYS[:2]:
        shares.note(key, {shares.me, "other"}, {key: ""})
    assert [shares.may_take(key) for key in KEYS[:2]] == [True, True]
    shares.note(KEYS[2], {shares.me, "other"}, {KEYS[2]: ""})
    assert not shares.may_take(KEYS[2])


def test_who_is_stuck() -> None:
    shares = Shares("me", 60.0)
    shares.begin(("k", "1"), 100.0)
    assert not shares.is_stuck(159.0)
    assert shares.is_stuck(160.0)
    shares.end(("k", "1"))
    assert not shares.is_stuck(200.0)


def entry(number: int, name: str = "a", key: str = "k", *, loaded: bool = True) -> Queued:
    return Queued(f"{number}-0", Line(key, "order", name), 1, is_new=True, fields={} if loaded else None, size=10)


def test_one_of_a_line_is_in_hand_and_lines_take_turns() -> None:
    lines = Lines(100)
    for number, name in enumerate("aabb"):
        lines.add(entry(number, name))
    first, second = lines.next(0.0), lines.next(0.0)
    assert first
    assert second
    assert (first.id, second.id, lines.next(0.0), lines.is_behind) == ("0-0", "2-0", None, True)
    lines.end(first.line)
    third = lines.next(0.0)
    assert third
    assert (third.id, lines.next(0.0)) == ("1-0", None)


def test_what_failed_is_the_first_of_its_line_when_it_is_due() -> None:
    lines = Lines(100)
    for number in range(3):
        lines.add(entry(number))
    first = lines.next(0.0)
    assert first
    lines.hold(first, 5.0)
    lines.end(first.line)
    assert (lines.next(4.9), lines.next_due) == (None, 5.0)
    assert lines.knows("0-0", first.line)
    again = lines.next(5.0)
    assert again
    assert (again.id, again.fields, lines.count("k")) == ("0-0", None, 2)


def test_what_is_dropped_of_a_shard_keeps_what_failed_only_if_it_is_still_ours() -> None:
    lines = Lines(100)
    for number in range(3):
        lines.add(entry(number))
        lines.add(entry(number, key="other"))
    first = lines.next(0.0)
    assert first
    lines.hold(first, 5.0)
    lines.end(first.line)
    lines.drop("k", failed=False)
    assert (lines.count("k"), lines.count("other")) == (1, 3)
    lines.add(entry(7))
    assert [each and each.line.key for each in (lines.next(0.0), lines.next(0.0))] == ["other", None]
    lines.drop("k", failed=True)
    assert (lines.count("k"), lines.next(9.0)) == (0, None)
    lines.add(entry(8))
    later = lines.next(0.0)
    assert later
    assert later.id == "8-0"


def test_few_wait_with_what_they_carry() -> None:
    lines = Lines(29)
    for number in range(4):
        lines.add(entry(number))
    came = []
    while (found := lines.next(0.0)) is not None:
        came.append(found.fields)
        lines.end(found.line)
    assert came == [{}, {}, None, None]


@pytest.mark.parametrize(
    ("key", "lease"),
    [("s:{3}", "s:{3}:g:lease"), ("s", "{s}:g:lease")],
)
def test_a_lease_lies_on_the_node_of_its_stream(key: str, lease: str) -> None:
    assert lease_of(key, "g") == lease
