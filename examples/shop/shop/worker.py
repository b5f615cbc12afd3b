# shop/worker.py
import asyncio
import logging
import os
import signal
from datetime import timedelta

import redis.asyncio
from dispatcher.client.consumer import AsyncConsumer, Group, Received
from dispatcher.client.sqlalchemy import first_time_async

from shop.database import Sessions, make_engine, make_sessions
from shop.events import NewOrder
from shop.models import Invoice


def make_worker(client: "redis.asyncio.Redis", sessions: Sessions) -> AsyncConsumer:
    consumer = AsyncConsumer(client, Group(stream="sanctum:messages", group="invoicing"))

    @consumer.on("order.placed", timeout=timedelta(seconds=30))
    async def write_invoice(event: Received) -> None:
        order = NewOrder.model_validate_json(event.text)
        async with sessions.begin() as session:  # one transaction: the invoice, and that this event is done
            if await first_time_async(session, "invoicing", event.event_id):
                session.add(Invoice(order_id=int(event.aggregate_id), customer=order.customer, total=order.total))

    return consumer


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    engine = make_engine()
    async with redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]) as client:
        worker = make_worker(client, make_sessions(engine))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run()  # waits while Redis or Postgres is away; returns after the event in hand
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
