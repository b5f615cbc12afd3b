"""The notification queue is full: within a tick nobody has to ring any more, and no commit is refused."""

import psycopg
import pytest

from dispatcher.embedded import EmbeddedPostgres
from dispatcher.infra.postgres.migrations import migrate
from tests.support.faults.world import RELAY, ROLES, StartWorld
from tests.support.options import server_options
from tests.support.postgres import StartPostgres
from tests.support.waiting import until


async def prepared(server: EmbeddedPostgres) -> str:
    """Our schema and roles on a server of the test's own; its URL."""
    url = server.url()
    await migrate(url)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE ROLE outbox_dispatcher")
        await connection.execute(f"CREATE ROLE {RELAY} LOGIN IN ROLE outbox_dispatcher")
        await connection.execute(ROLES.encode())
    return url


@pytest.mark.promise("quiet-writers")
async def test_queue_full(world: StartWorld, own_postgres: StartPostgres, pytestconfig: pytest.Config) -> None:
    if server_options(pytestconfig).postgres[0] < 17:
        pytest.skip("max_notify_queue_pages came with Postgres 17")
    url = await prepared(own_postgres(durable=True, options={"fsync": "off", "max_notify_queue_pages": "64"}))
    async with world(admin_url=url) as w:
        one = await w.dispatcher()
        w.load.rate = 5.0  # slow enough for the dispatcher to fall asleep between two commits, so that each would ring
        async with w.survives("the notification queue is full") as fault:
            async with await psycopg.AsyncConnection.connect(url) as blocker:
                await blocker.execute("LISTEN anything")
                await blocker.commit()
                await blocker.execute("SELECT 1")  # a transaction left open keeps the queue from advancing
                await fill_queue(url)
                await until(lambda: one.events("notification_queue_filling"), "the dispatcher lets its key go")
                refused = len(w.load.errors)
                await w.commits(20)
                await w.drained()  # on the tick
                assert len(w.load.errors) == refused, "a commit was refused because it had to ring"
            fault.heal()
            await until(lambda: one.events("notification_queue_calm"), "the dispatcher may be rung again")
            await w.commits(5)
            print(f"commits refused within a tick of the queue being full: {refused}")  # noqa: T201


async def fill_queue(url: str) -> None:
    """Notify until it is refused."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for number in range(1000):
            try:
                await connection.execute("SELECT pg_notify('filler', %s)", (f"{number}" + "x" * 7000,))
            except psycopg.errors.ProgramLimitExceeded:
                return
    raise AssertionError("the queue was never full")
