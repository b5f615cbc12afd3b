"""With DISPATCH_ORDER=aggregate handlers of one aggregate run one after the other, in the order of the ids."""

from typing import Any

import anyio
import anyio.lowlevel
import psycopg

from dispatcher.core.events import Settled
from dispatcher.core.pacing import HANDLER_BYTES
from tests.integration.test_order import add, count, sent
from tests.support.handlers import MakeModule
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]
ORDER = {"order": "aggregate", "tick_ms": 100, "backoff_base_ms": 10, "backoff_max_ms": 20}


async def test_handlers_of_an_aggregate_run_one_after_the_other(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    seen: dict[str, list[int]] = {}
    running: list[str] = []
    together: list[str] = []

    async def handle(payload: Any, event: Any) -> None:
        together.extend(each for each in running if each == event.aggregate_id)
        running.append(event.aggregate_id)
        await anyio.lowlevel.checkpoint()
        seen.setdefault(event.aggregate_id, []).append(payload["n"])
        running.remove(event.aggregate_id)

    name = handlers_module({"order.created": handle})
    for number in range(30):
        await add(db, f"a{number % 3}", number)
    async with dispatcher(handlers=name, **ORDER):
        await becomes(lambda: sent(db), 30)
        await add(db, "a0", 100)
        await becomes(lambda: sent(db), 31)
    assert not together
    assert [numbers == sorted(numbers) for numbers in seen.values()] == [True] * 3


async def test_events_that_waited_for_the_one_before_leave_room_for_later_ones(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    """Each time three are claimed and two of them are given back, of half a megabyte each."""

    async def handle(payload: Any) -> None:
        """Do nothing."""

    add_three = """
        INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload)
        SELECT 'order.created', 'a', jsonb_build_object('n', i, 'text', repeat('x', 500000))
        FROM generate_series(1, 3) AS i
    """
    async with dispatcher(handlers=handlers_module({"order.created": handle}), **ORDER) as running:
        for _ in range(HANDLER_BYTES // 1_000_000):
            await db.execute(add_three)
            await running.tap.add_up(Settled, sent=3)


async def test_a_handler_that_fails_holds_its_aggregate_and_nothing_else(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    done: list[tuple[str, int]] = []
    broken = True

    async def handle(payload: Any, event: Any) -> None:
        if broken and (event.aggregate_id, payload["n"]) == ("a", 2):
            raise ValueError("not yet")
        done.append((event.aggregate_id, payload["n"]))

    name = handlers_module({"order.created": handle})
    await add(db, "a", 1, 2, 3)
    await add(db, "b", 1, 2)
    async with dispatcher(handlers=name, max_attempts=1000, **ORDER):
        await becomes(lambda: sent(db), 3)
        await add(db, "b", 3)
        await becomes(lambda: sent(db), 4)
        assert ("a", 3) not in done
        broken = False
        await becomes(lambda: sent(db), 6)
        assert await count(db, "dead") == 0
    assert [number for aggregate, number in done if aggregate == "a"] == [1, 2, 3]


async def test_an_event_whose_type_has_no_free_place_is_not_overtaken_by_the_next_of_its_aggregate(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    """Of two places the slow type gets one. Events of other aggregates run meanwhile."""
    done: list[tuple[str, int]] = []
    go = anyio.Event()

    async def slow(payload: Any, event: Any) -> None:
        await go.wait()
        done.append((event.aggregate_id, payload["n"]))

    async def quick(payload: Any, event: Any) -> None:
        done.append((event.aggregate_id, payload["n"]))

    name = handlers_module({"slow": slow, "quick": quick})
    async with dispatcher(handlers=name, max_parallel=2, **ORDER):
        await add(db, "first", 1, event_type="slow")
        await becomes(lambda: count(db, "picked"), 1)
        for number in range(20):
            await add(db, f"a{number}", 1, event_type="slow")
            await add(db, f"a{number}", 2, event_type="quick")
            await add(db, "b", number, event_type="quick")
            await becomes(lambda: len(done), number + 1)
        assert {aggregate for aggregate, _ in done} == {"b"}
        go.set()
        await becomes(lambda: sent(db), 61)
    for number in range(20):
        assert [n for aggregate, n in done if aggregate == f"a{number}"] == [1, 2]
