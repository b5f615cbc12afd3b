"""PgQueuer: asyncpg, batches, its own autovacuum settings."""

import json
from typing import Any

from bench.rivals.entry import OF_ONE, OF_SAMPLES, Publisher

INSTALLED = "pgqueuer"
CHANGES = "asyncpg on uvloop, batch_size 256, `pgq autovac`, durable tables"
BATCH = 256
FILL = f"""
    WITH queued AS (
        INSERT INTO pgqueuer (priority, entrypoint, payload, status)
        SELECT 0, 'relay', convert_to(({OF_SAMPLES})::text, 'UTF8'), 'queued'
        FROM generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% %s
        RETURNING id, status, entrypoint, priority
    )
    INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority) SELECT id, status, entrypoint, priority FROM queued
"""
LEFT = "SELECT count(*) FROM pgqueuer"
EMPTY = "TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics"


async def prepare(url: str) -> None:
    """Its tables."""
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


def insert() -> str:
    """Its own statement, with an array of one."""
    from pgqueuer.adapters.persistence.qb import QueryQueueBuilder

    arguments = {
        "$1::int[]": "ARRAY[0]",
        "$2::text[]": "ARRAY['relay']",
        "$3::bytea[]": f"ARRAY[convert_to(({OF_ONE})::text, 'UTF8')]",
        "$4::interval[]": "ARRAY[interval '0']",
        "$5::text[]": "ARRAY[NULL]::text[]",
        "$6::jsonb[]": "ARRAY[NULL]::jsonb[]",
    }
    statement = str(QueryQueueBuilder().build_enqueue_query())
    for parameter, value in arguments.items():
        if parameter not in statement:
            raise RuntimeError(f"this version of pgqueuer enqueues otherwise: {parameter} is gone")
        statement = statement.replace(parameter, value, 1)
    return statement


async def relay(url: str, redis_url: str, stream: str) -> None:
    """Its queue manager on one connection, as its documentation advises."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver

    publisher = await Publisher.connect(redis_url, stream)
    connection = await asyncpg.connect(url)
    queue: Any = PgQueuer(AsyncpgDriver(connection))

    async def handle(job: Any) -> None:
        await publisher.publish(json.loads(job.payload))

    queue.entrypoint("relay")(handle)
    await queue.run(batch_size=BATCH)
