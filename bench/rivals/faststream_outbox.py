"""faststream-outbox: asyncpg with NOTIFY, several workers, batched terminal deletes, its own autovacuum settings."""

from typing import Any

from bench.rivals.entry import OF_ONE, OF_SAMPLES, Publisher

INSTALLED = "faststream-outbox"
CHANGES = "asyncpg on uvloop, max_workers 8, fetch_batch_size 100, terminal_flush_batch_size 100, autovacuum DDL"
WORKERS, BATCH = 8, 100
BODY = "convert_to(({})::text, 'UTF8')"
FILL = f"""
    INSERT INTO outbox (queue, payload, headers)
    SELECT 'relay', {BODY.format(OF_SAMPLES)},
        jsonb_build_object('content-type', 'application/json', 'correlation_id', gen_random_uuid())
    FROM generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% %s
"""
LEFT = "SELECT count(*) FROM outbox"
EMPTY = "TRUNCATE outbox"


def _broker(url: str) -> tuple[Any, Any, Any]:
    from faststream_outbox import OutboxBroker, make_outbox_table
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import create_async_engine

    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=WORKERS + 4)
    return OutboxBroker(engine, outbox_table=table), metadata, engine


async def prepare(url: str) -> None:
    """Its table."""
    from faststream_outbox.autovacuum import outbox_autovacuum_ddl
    from sqlalchemy import text

    _, metadata, engine = _broker(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text(outbox_autovacuum_ddl("outbox")))
    await engine.dispose()


def insert() -> str:
    """The INSERT of its `publish`, which notifies."""
    headers = "jsonb_build_object('content-type', 'application/json', 'correlation_id', $1::text)"
    row = f"'relay', {BODY.format(OF_ONE)}, {headers}"
    return (
        f"INSERT INTO outbox (queue, payload, headers) VALUES ({row}) RETURNING id, pg_notify('outbox_outbox', queue)"
    )


async def relay(url: str, redis_url: str, stream: str) -> None:
    """One subscriber."""
    import asyncio

    publisher = await Publisher.connect(redis_url, stream)
    broker, _, _ = _broker(url)

    async def handle(body: dict[str, str | None]) -> None:
        await publisher.publish(body)

    subscribe = broker.subscriber(
        "relay",
        max_workers=WORKERS,
        fetch_batch_size=BATCH,
        terminal_flush_batch_size=BATCH,
        min_fetch_interval=0.01,
        max_fetch_interval=0.1,
    )
    subscribe(handle)
    await broker.start()
    try:
        await asyncio.Event().wait()
    finally:
        await broker.stop()
