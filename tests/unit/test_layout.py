"""The layout, its routes, and what a connection knows of the entries of several streams."""

from collections import Counter
from fnmatch import fnmatchcase
from itertools import product
from random import Random

import pytest

from dispatcher.core.known_entries import KnownEntries
from dispatcher.core.layout import SLOTS, Layout, Route
from dispatcher.core.patterns import unreachable


@pytest.mark.parametrize("shards", [1, 2, 4, 8, 64, 256])
def test_each_slot_is_in_one_shard_and_shards_are_ranges_of_one_size(shards: int) -> None:
    layout = Layout("s", shards)
    assert Counter(map(layout.shard_of, range(SLOTS))) == dict.fromkeys(range(shards), SLOTS // shards)
    assert all(layout.shard_of(slot) == shard for shard in range(shards) for slot in layout.slots_of(shard))
    assert len(set(layout.keys)) == shards
    assert {layout.key_of("any", slot) for slot in range(SLOTS)} == set(layout.keys)


def test_the_first_route_that_matches_counts_and_case_matters() -> None:
    layout = Layout("all", 1, (Route("order.paid", "paid"), Route("order.*", "orders")))
    kinds = ("order.paid", "order.new", "Order.new", "order", "other")
    assert [layout.stream_of(kind) for kind in kinds] == ["paid", "orders", "all", "all", "all"]
    assert layout.keys == ("all", "paid", "orders")


def test_a_plain_layout_has_no_fingerprint_and_others_differ() -> None:
    layouts = [
        Layout("s", 2),
        Layout("s", 4),
        Layout("t", 2),
        Layout("s", 2, (Route("a", "b"),)),
        Layout("s", 1, (Route("a", "b"),)),
        Layout("s", order="aggregate"),
        Layout("s", 2, order="aggregate"),
        Layout("s", order="aggregate", on_dead="hold"),
    ]
    assert Layout("s", on_dead="hold") == Layout("s")  # without an order it means nothing
    assert Layout("s").fingerprint == Layout("t").fingerprint == ""
    assert Layout("s", 2).fingerprint == "00a3c3d3fc80d252", "a layout that stands in a database keeps its name"
    assert len({each.fingerprint for each in layouts} | {""}) == len(layouts) + 1
    assert all(Layout.of_spec(each.spec()) == each for each in layouts)


def test_a_pattern_is_called_unreachable_if_and_only_if_earlier_ones_take_all() -> None:
    texts = ["".join(each) for length in range(5) for each in product("abc", repeat=length)]
    rng = Random(7)
    for _ in range(300):
        count = rng.randint(1, 4)
        patterns = [
            "".join(rng.choices(["a", "b", "*", "?", "[ab]", "[!a]"], k=rng.randint(1, 3))) for _ in range(count)
        ]

        def takes_more(number: int, patterns: list[str] = patterns) -> bool:
            return any(
                fnmatchcase(text, patterns[number]) and not any(fnmatchcase(text, each) for each in patterns[:number])
                for text in texts
            )

        assert list(unreachable(patterns)) == [n for n in range(count) if not takes_more(n)], patterns


def test_many_stars_do_not_take_for_ever() -> None:
    assert 10 in list(unreachable([f"*{n}*" for n in range(40)]))


def test_of_one_stream_the_floor_is_its_newest_entry() -> None:
    known = KnownEntries(["s"])
    known.begin({"s": "7-3"}, 9000)
    assert known.floor == "7-3"
    known.note(["8-0", "8-1"])
    known.note_clock(10_000)
    assert (known.floor, known.newest("s"), known.take()) == ("8-1", "8-1", {"s": ("8-1", "8-1")})
    known.forget()
    assert (known.floor, known.added) == ("8-1", False)


def test_of_several_streams_the_floor_is_below_the_clock_and_follows_it_back() -> None:
    known = KnownEntries(["a", "b"])
    known.begin({"a": "99-0"}, 50)
    assert known.floor == "49-0"
    known.note(["99-1", "60-0"], ["a", "b"])  # the clock is behind the newest entry of a
    assert (known.floor, known.newest("a"), known.newest("b")) == ("59-0", "99-1", "60-0")
    known.note(["99-2"], ["a"])  # says nothing of the clock
    assert known.floor == "59-0"
    known.note(["40-0"], ["b"])
    assert known.floor == "39-0"
    known.begin({"a": "99-2"}, None)  # a server that does not tell its clock
    assert known.floor == "0-0"


def test_a_search_begins_below_what_the_clock_was_set_back_by() -> None:
    seconds = 0.0
    known = KnownEntries(["a", "b"], now=lambda: seconds)
    known.begin({}, 100_000)
    seconds = 1.0
    known.note_clock(101_000)
    assert known.search_from("100999-0") == "99999-0"
    seconds = 2.0
    known.note_clock(92_000)  # ten seconds back
    seconds = 3.0
    known.note_clock(93_000)
    assert known.search_from("100999-0") == "89999-0"
    assert known.search_from("5-0") == "0-0"
    seconds = 1000.0
    assert known.search_from("100999-0") == "99999-0"
    assert KnownEntries(["a"]).search_from("7-3") == "7-3"
