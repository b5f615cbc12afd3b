# tests/test_shop.py
import asyncio

import redis.asyncio
from dispatcher.testing import run_one_async
from shop.database import make_engine, make_sessions
from shop.worker import make_worker

ORDER = {"customer": "ada", "total": "42.50"}


def test_an_order_adds_its_event(client, outbox) -> None:
    assert client.post("/orders", json=ORDER).status_code == 201
    [event] = outbox.relay_once()
    assert (event.event_type, event.aggregate_id, event.json()) == ("order.placed", "1", ORDER)


def test_an_order_that_is_refused_adds_none(client, outbox) -> None:
    assert client.post("/orders", json=ORDER | {"total": "-1"}).status_code == 422
    assert outbox.relay_once() == []


def test_an_event_that_comes_twice_is_invoiced_once(client, outbox) -> None:
    client.post("/orders", json=ORDER)
    [event] = outbox.relay_once()

    async def twice() -> None:
        engine = make_engine()
        async with redis.asyncio.Redis.from_url(outbox.redis_url) as connection:
            worker = make_worker(connection, make_sessions(engine))
            for _ in range(2):
                assert await run_one_async(worker, event) == "handled"
        await engine.dispose()

    asyncio.run(twice())
    assert client.get("/orders/1").json() == ORDER | {"id": 1, "invoiced": True}
