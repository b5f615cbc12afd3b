"""Order within an aggregate by model: no order of steps turns two events round, and nothing can be left out.

The model is in tests/model/order. `pytest -s` shows, for each part left out, the shortest way to what must never be.
"""

from typing import Any, get_args

import pytest

from tests.model.explore import dead_end
from tests.model.order.flaws import Flaw, HandoverFlaw, LivenessFlaw, RelayFlaw
from tests.model.order.protocol import Order
from tests.model.order.state import Event

TWO = (Event(0, 0), Event(0, 0))  # of one aggregate
THREE = (*TWO, Event(0, 0))
THIRD_BESIDE = (*TWO, Event(1, 0))  # another aggregate of the same slot
ALONE: dict[str, Any] = {"dispatchers": 1, "moves": 0}
# How much it takes to see it. One mishap is enough for most.
NEEDS: dict[Flaw, dict[str, Any]] = {
    "given up while a batch is in flight": {"mishaps": 0},
    "no revocation before the fence": {"moves": 0},
    "no fence in Postgres": {"moves": 0},
    "no fence in Redis": {"moves": 0},
    "not adopted before the slot is free": {"moves": 0},
    "adopted rows are given back without a look": {"moves": 0},
    "looked for before the fence": {"moves": 0},
    "freed while a row of the slot is claimed": {"moves": 0},
    "a revoked slot counts as free": {"moves": 0},
    "adopted from one that owns the slot again": {"moves": 0},
    "the claim does not ask for the owner": {"moves": 0},
    "the claim asks for the owner, not for the epoch": {"mishaps": 2, "events": TWO},
    "claimed for a connection that broke, written to the next": {"dispatchers": 2, "moves": 0, "events": TWO},
    "two batches of a slot in flight": {"mishaps": 0, "lanes": 2} | ALONE,
    "a slot is claimed again while a claim of it has no answer": {"lanes": 2} | ALONE,
    "the session of a lost claim is not ended before its rows are given back": {"lanes": 2} | ALONE,
    "one held row an aggregate": {"mishaps": 2, "events": THREE} | ALONE,
    "a row that failed goes before one that was given back": {"mishaps": 2} | ALONE,
    "a claim from behind the cursor overtakes what was held as it began": {"lanes": 2, "events": THREE, "cursor": True}
    | ALONE,
}
LIVENESS_NEEDS: dict[LivenessFlaw, dict[str, Any]] = {
    "who was frozen waits to be fenced": {"mishaps": 2, "moves": 0, "events": TWO[:1]},
    "a takeover is due for owners only": {"mishaps": 2, "moves": 0, "events": TWO[:1], "dispatchers": 3, "absent": 1},
    "nothing before a held row goes out": {"mishaps": 2, "moves": 0, "dispatchers": 1},
}


def short(flaw: Flaw | None, **settings: Any) -> Order:
    return Order(**({"lanes": 1, "flaw": flaw} | settings))


@pytest.mark.promise("in-order")
@pytest.mark.parametrize(
    "model",
    [
        Order(dispatchers=1, mishaps=2, moves=0),
        Order(dispatchers=1, mishaps=2, moves=0, events=THIRD_BESIDE),
        Order(lanes=1, mishaps=1, moves=1, events=TWO),
        Order(lanes=1, mishaps=1, moves=0),
        Order(dispatchers=1, mishaps=2, moves=0, events=THREE, cursor=True),
        Order(dispatchers=1, mishaps=1, moves=0, events=(*THREE, Event(0, 0)), cursor=True),
    ],
    ids=str,
)
def test_no_event_is_out_of_order_doubled_or_lost(model: Order) -> None:
    assert model.check().trace == []


@pytest.mark.promise("in-order")
@pytest.mark.parametrize("flaw", [*get_args(HandoverFlaw), *get_args(RelayFlaw)])
def test_nothing_can_be_left_out(flaw: Flaw) -> None:
    handover: dict[str, Any] = {"events": TWO}
    needs = (handover if flaw in get_args(HandoverFlaw) else ALONE) | NEEDS.get(flaw, {})
    trace = short(flaw, **needs).check().trace
    assert trace
    print(f"\n{flaw}:", *trace, sep="\n  ")  # noqa: T201


@pytest.mark.promise("in-order")
@pytest.mark.parametrize(
    "model",
    [
        short(None, moves=0, events=TWO),
        short(None, moves=0, mishaps=2, dispatchers=1),
        short(None, moves=0, mishaps=2, dispatchers=1, lanes=2, events=THREE, cursor=True),
    ],
    ids=str,
)
def test_whatever_happened_all_events_can_still_be_sent(model: Order) -> None:
    """With somebody up, or somebody who is started."""
    explored = model.check()
    assert dead_end(explored, model.successors(), model.over) is None


@pytest.mark.parametrize("flaw", get_args(LivenessFlaw))
def test_without_it_events_wait_for_good(flaw: LivenessFlaw) -> None:
    model = short(flaw, **LIVENESS_NEEDS[flaw])
    trace = dead_end(model.check(), model.successors(), model.over)
    assert trace
    print(f"\n{flaw}:", *trace, sep="\n  ")  # noqa: T201


def test_why_one_batch_of_a_slot_is_in_flight() -> None:
    assert short("two batches of a slot in flight", **NEEDS["two batches of a slot in flight"]).check().trace == [
        "dispatcher 1 claims of slots [0]: sees 1, 1 being new",
        "dispatcher 1 claim: takes 1",
        "dispatcher 1 claims of slots [0]: sees 2, 2 being new",
        "dispatcher 1 claim: takes 2",
        "dispatcher 1 writes its batch",
        "dispatcher 1 Redis takes 2",
    ]
