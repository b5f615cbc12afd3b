"""The oracle itself: each promise is broken once, and it says so."""

import pytest

from tests.support.faults.claims import Claims
from tests.support.faults.load import Ledger
from tests.support.faults.oracle import Allowance, Seen, judge, p95, recovered_at
from tests.support.faults.order import Place, find_disorder

FIRST, SECOND = (Place("events", "order", "a1", number) for number in (1, 2))
QUIET = Claims(0.0, [], [])


def seen(**changes: object) -> Seen:
    """Two events, committed, in the stream, sent."""
    base: dict[str, object] = {
        "ledger": Ledger(acknowledged={"a": 1.0, "b": 12.0}, rolled_back={"c"}),
        "rows": {"a": ("sent", 0), "b": ("sent", 0)},
        "dead_letters": set(),
        "stream": [("a", 1.1), ("b", 12.1)],
        "claims": QUIET,
        "lease_s": 6.0,
        "healed": 10.0,
    }
    return Seen(**(base | changes))  # type: ignore[arg-type]


def problems(found: Seen, **allowed: object) -> list[str]:
    return judge(found, Allowance(**allowed), "fault", "test")[1]  # type: ignore[arg-type]


@pytest.mark.quick
def test_all_is_well() -> None:
    measured, found = judge(seen(), Allowance(), "fault", "test")
    assert found == []
    assert (measured.missing, measured.doubled, measured.first_s, measured.recovered_s) == (0, 0, 2.1, 0.0)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stream": [("a", 1.1)]}, "neither in the stream nor dead"),
        ({"rows": {"a": ("sent", 0)}}, "Postgres lost 1"),
        ({"stream": [("a", 1.1), ("b", 2.1), ("x", 3.0)]}, "never committed"),
        ({"stream": [("a", 1.1), ("b", 2.1), ("c", 3.0)]}, "rolled back"),
        ({"stream": [("a", 1.1), ("b", 2.1), ("b", 3.0)]}, "1 duplicates"),
        ({"rows": {"a": ("sent", 0), "b": ("dead", 1)}}, "1 dead"),
        ({"rows": {"a": ("sent", 0), "b": ("picked", 0)}}, "not settled"),
        ({"rows": {"a": ("sent", 0), "b": ("sent", 1)}}, "charged an attempt"),
        ({"claims": Claims(17.1, [], [])}, "held for 17.1 s"),
        ({"claims": Claims(0.0, ["row 1"], [])}, "taken from the living"),
        ({"claims": Claims(0.0, [], ["row 1 was claimed while it was claimed"])}, "while it was claimed"),
    ],
)
def test_it_complains(changes: dict[str, object], complaint: str) -> None:
    assert any(complaint in problem for problem in problems(seen(**changes)))


@pytest.mark.quick
def test_what_is_allowed_is_no_problem() -> None:
    assert problems(seen(stream=[("a", 1.1), ("b", 2.1), ("b", 3.0)]), duplicates=1) == []
    buried = seen(rows={"a": ("sent", 0), "b": ("dead", 1)}, stream=[("a", 1.1)], dead_letters={"b"})
    assert problems(buried, dead=1) == []


@pytest.mark.quick
def test_an_event_behind_a_later_one_of_its_aggregate() -> None:
    turned = seen(stream=[("b", 1.1), ("a", 1.1)], places={"a": FIRST, "b": SECOND})
    assert problems(turned) == []
    assert ["1 events came after a later one" in problem for problem in problems(turned, disorder=False)] == [True]
    for other in (
        Place("orders", "order", "a1", 2),
        Place("events", "order", "a2", 2),
        Place("events", "cart", "a1", 2),
    ):
        apart = seen(stream=[("b", 1.1), ("a", 1.1)], places={"a": FIRST, "b": other})
        assert problems(apart, disorder=False) == []


@pytest.mark.quick
def test_what_comes_again_after_a_loss_is_a_rewind() -> None:
    places = {"a": FIRST, "b": SECOND, "c": Place("events", "order", "a1", 3)}
    found = find_disorder(["a", "b", "a", "b", "c", "unknown"], places)
    assert (found.overtaken, found.rewinds) == ([], 2)
    assert find_disorder(["b", "a", "c"], places).overtaken == ["a"]


@pytest.mark.quick
def test_recovery_is_the_end_of_the_last_slow_moment() -> None:
    assert recovered_at([(10.1, 0.2), (10.9, 0.1)], 10.0) == 10.0
    assert recovered_at([(10.1, 3.0), (10.3, 2.8), (10.6, 0.1)], 10.0) == 10.5
    assert recovered_at([(10.1, 0.1), (10.6, 3.0)], 10.0) is None
    assert recovered_at([], 10.0) is None
    assert p95([float(n) for n in range(1, 101)]) == 95.0
