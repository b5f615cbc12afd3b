"""With DISPATCH_ORDER=aggregate handlers of one aggregate run one after the other, in the order of the ids."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from dispatcher.core.events import LayoutChanged, Settled, Ticked
from dispatcher.core.layout import Layout
from dispatcher.core.pacing import HANDLER_BYTES
from dispatcher.handlers import Dead
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.dead_letters.decide import Decision
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.held.decide import decide_held
from dispatcher.ops.held.find import find_held
from dispatcher.stages.claim import EventTypeFilter, claim, new_claim_id
from tests.integration.test_order import add, count, sent
from tests.support.dead_letters import prune
from tests.support.handlers import MakeModule
from tests.support.layouts import stand_in_order, stand_in_postgres
from tests.support.rows import STREAM
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]
ORDER = {"order": "aggregate", "tick_ms": 100, "backoff_base_ms": 10, "backoff_max_ms": 20}
HANDLERS_ONLY: dict[str, Any] = {"unrouted": "dead", "redis_url": "", **ORDER}


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test", query_timeout_s=20.0), "api")
    yield session
    await session.close()


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


@pytest.mark.promise("in-order")
async def test_without_a_stream_the_order_stands_in_postgres_too(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule, session: Session
) -> None:
    """Retention deleted the dead event, which ended the hold unseen; `held` said that there was no order."""
    done: list[int] = []

    async def handle(payload: Any) -> None:
        if payload["n"] == 1:
            raise Dead("never")
        done.append(payload["n"])

    name = handlers_module({"order.created": handle})
    settings = HANDLERS_ONLY | {"handlers": name, "order_on_dead": "hold"}
    await add(db, "a", 1, 2)
    await add(db, "b", 3)
    async with dispatcher(**settings) as running:
        await running.tap.add_up(Settled, sent=1, dead=1)
        await prune(db)
        [head] = (await find_held(session.fetch, Filter())).read()
        assert (head["state"], head["waiting"]) == ("dead", 1)
        assert (done, running.service._readiness()) == ([3], None)
        await decide_held(session.fetch, [head["id"]], Decision("skip", "ada", "nobody needs it"))
        await becomes(lambda: done, [3, 2])


@pytest.mark.promise("in-order")
async def test_without_a_stream_another_order_claims_nothing(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule
) -> None:
    done: list[int] = []

    async def handle(payload: Any) -> None:
        done.append(payload["n"])

    await stand_in_order(db, "hold")
    async with dispatcher(handlers=handlers_module({"order.created": handle}), **HANDLERS_ONLY) as running:
        change = await running.tap.next(LayoutChanged)
        assert change.reason is not None
        assert running.service._readiness() == change.reason
        await add(db, "a", 1)
        await running.tap.next(Ticked, timeout=50.0)
        assert done == []
        await stand_in_order(db)
        await db.execute("NOTIFY outbox_control")
        await becomes(lambda: done, [1])


@pytest.mark.promise("in-order")
@pytest.mark.parametrize("unrouted", ["dead", "stream"])
async def test_a_dispatcher_without_the_order_calls_no_handler_beside_one_that_has_it(
    dispatcher: StartDispatcher, db: Db, handlers_module: MakeModule, unrouted: str
) -> None:
    """It called them, whoever owned the slot: only for streams did it claim nothing."""
    done: list[int] = []

    async def handle(payload: Any) -> None:
        done.append(payload["n"])

    name = handlers_module({"order.created": handle})
    async with dispatcher(handlers=name, tick_ms=20, unrouted=unrouted) as running:
        await add(db, "a", 1)
        await becomes(lambda: done, [1])
        await stand_in_order(db)
        await add(db, "a", 2)  # the dispatcher has not read it
        await db.execute("NOTIFY outbox_control")
        change = await running.tap.next(LayoutChanged, lambda event: event.reason is not None)
        assert running.service._readiness() == change.reason
        await running.tap.next(Ticked)
        assert (done, await sent(db)) == ([1], 1)
        await db.execute("DELETE FROM messaging.layout")
        await db.execute("NOTIFY outbox_control")
        await becomes(lambda: done, [1, 2])
        assert running.service._readiness() is None


@pytest.mark.promise("in-order")
async def test_a_claim_for_handlers_asks_for_the_order_and_for_nothing_else_of_the_layout(
    db: Db, session: Session
) -> None:
    await add(db, "a", 1, 2)

    async def claimed(**how: Any) -> int:
        batch = await claim(session, claim_id=new_claim_id(), dispatcher=None, limit=1, floor=None, **how)
        return len(batch.rows)

    await stand_in_order(db)
    types = EventTypeFilter(["order.created"], only_these=True)
    assert [await claimed(), await claimed(fresh_limit=1), await claimed(fresh_limit=1, event_types=types)] == [0, 0, 0]
    await stand_in_postgres(db, Layout(STREAM, 4))
    assert [await claimed(fresh_limit=1), await claimed()] == [1, 1]
