"""procrastinate: an asyncio worker, its concurrency raised, done jobs deleted."""

from typing import Any

from bench.rivals.entry import OF_ONE, OF_SAMPLES, Publisher

INSTALLED = "procrastinate"
CHANGES = "psycopg, concurrency 10, a pool of 10, delete_jobs=always"
CONCURRENCY = POOL = 10  # more was slower: 32 and 64 reached two thirds of it
FILL = f"""
    INSERT INTO procrastinate_jobs (queue_name, task_name, args) SELECT 'default', 'relay', {OF_SAMPLES}
    FROM generate_series(%s::integer, %s::integer) AS i JOIN bench_samples AS s ON s.n = i %% %s
"""
LEFT = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
EMPTY = "TRUNCATE procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers"


def _app(url: str) -> Any:
    import procrastinate

    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=POOL)
    return procrastinate.App(connector=connector)


async def prepare(url: str) -> None:
    """Its tables."""
    app = _app(url)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def insert() -> str:
    """The function its `defer` calls."""
    job = f"ROW('default', 'relay', 0, NULL, NULL, {OF_ONE}, NULL)::procrastinate_job_to_defer_v1"
    return f"SELECT procrastinate_defer_jobs_v1(ARRAY[{job}])"


async def relay(url: str, redis_url: str, stream: str) -> None:
    """One worker process."""
    publisher = await Publisher.connect(redis_url, stream)
    app = _app(url)

    async def handle(**event: str | None) -> None:
        await publisher.publish(event)

    app.task(name="relay")(handle)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False, fetch_job_polling_interval=0.1
        )
