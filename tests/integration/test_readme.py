"""README's commands and code, read out of it and run against real servers."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from redis.asyncio import Redis

from tests.support.child import StartCli
from tests.support.postgres import StartPostgres
from tests.support.readme import OPERATIONS, ROOT, blocks, code
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, statuses
from tests.support.waiting import becomes, until

ORDERS = "CREATE TABLE orders (id bigserial PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL)"


@asynccontextmanager
async def running(*command: str, env: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with nothing of ours in its environment but `env`; killed at the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "REDIS"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**inherited, **env},
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(*command: str, env: Mapping[str, str]) -> str:
    """Run to the end; the output. Fails when the exit code is not 0."""
    async with running(*command, env=env) as process:
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
    return output.decode()


async def entries(redis: "Redis", count: int) -> list[dict[str, str]]:
    """The stream's entries once there are so many."""
    last, found = "0", 0
    async with asyncio.timeout(60):
        while found < count:
            answer: Any = await redis.xread({STREAM: last}, block=2_000)
            for _, page in answer:
                last, found = page[-1][0], found + len(page)
    return await read_stream(redis)


# What the example for Django takes for granted: a project with a model, and somebody who calls the function.
PROJECT = """
import os, sys, types, urllib.parse
import django
from django.conf import settings
place = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": place.path[1:], "USER": place.username or "",
    "PASSWORD": place.password or "", "HOST": place.hostname, "PORT": place.port}})
django.setup()
from django.db import models
class Order(models.Model):
    customer, total = models.TextField(), models.DecimalField(max_digits=9, decimal_places=2)
    class Meta:
        app_label, db_table = "shop", "orders"
sys.modules["shop"], sys.modules["shop.models"] = types.ModuleType("shop"), types.ModuleType("shop.models")
sys.modules["shop.models"].Order = Order
"""
AROUND = {"Django": (PROJECT, "\nplace_order('ada', 42)\n")}


@pytest.mark.parametrize("heading", ["psycopg", "SQLAlchemy", "Django"])
async def test_a_producer_in_python(
    heading: str, cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    await db.execute(ORDERS)
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()

    before, after = AROUND.get(heading, ("", ""))
    program = before + code(heading, "python") + after
    await run(sys.executable, "-W", "error", "-c", program, env={"DATABASE_URL": database_url})

    [entry] = await entries(redis, 1)
    [order] = await (await db.execute("SELECT id::text, total::int FROM orders")).fetchall()
    assert (entry["event_type"], entry["aggregate_type"]) == ("order.created", "order")
    assert (entry["aggregate_id"], entry["payload"]) == (order[0], f'{{"total": {order[1]}}}')


async def test_a_producer_in_sql(
    cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    await db.execute(ORDERS)
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()

    await db.execute(code("Plain SQL", "sql").encode())

    [entry] = await entries(redis, 1)
    assert (entry["event_type"], entry["aggregate_id"], entry["payload"]) == ("order.created", "1", '{"total": 42}')


@pytest.mark.parametrize("heading", ["With dispatcher.client", "Without it"])
async def test_the_consumer_takes_over_what_was_abandoned_and_does_nothing_twice(
    heading: str, cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()
    await insert_events(db, 2)
    first, second = await entries(redis, 2)
    # The first event comes twice; the second was read by a consumer that crashed two minutes ago.
    await redis.xgroup_create(STREAM, "billing", id=first["stream_id"])
    await redis.xreadgroup("billing", "crashed", {STREAM: ">"}, count=1)
    await redis.xclaim(STREAM, "billing", "crashed", 0, [second["stream_id"]], idle=120_000, justid=True)
    for _ in range(2):
        await redis.xadd(STREAM, {name: value for name, value in first.items() if name != "stream_id"})

    environment = {"REDIS_URL": redis_url, "CONSUMER_DATABASE_URL": database_url}
    consumer = code(heading, "python")
    async with running(sys.executable, "-W", "error", "-c", consumer, env=environment) as process:
        assert process.stdout is not None
        lines = [await _line(process.stdout) for _ in range(2)]
        await insert_events(db, 1, aggregate_id="last")
        lines.append(await _line(process.stdout))  # so all before it were handled and acknowledged

    assert [line.split()[:2] for line in lines] == [
        ["order.created", second["aggregate_id"]],
        ["order.created", first["aggregate_id"]],
        ["order.created", "last"],
    ]
    unacknowledged = await redis.xpending_range(STREAM, "billing", "-", "+", 10)
    last = (await read_stream(redis))[-1]["stream_id"]
    assert {entry["message_id"] for entry in unacknowledged} <= {last}


async def _line(stream: asyncio.StreamReader) -> str:
    async with asyncio.timeout(60):
        return (await stream.readline()).decode()


@pytest.mark.promise("roles")
async def test_setting_up_your_own_servers(
    own_postgres: StartPostgres, cli: StartCli, redis: "Redis", redis_url: str, tmp_path: Path
) -> None:
    server = own_postgres()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE owner LOGIN CREATEROLE")
        admin.execute("CREATE DATABASE app OWNER owner")
        admin.execute("CREATE ROLE my_application LOGIN")
    _, migrate, start = blocks("Use your own Postgres and Redis", "sh")
    address = f"localhost:{server.port}/app"

    programs = os.pathsep.join([str(Path(sys.executable).parent), str(server.bin("psql").parent), os.environ["PATH"]])
    psqlrc = tmp_path / "psqlrc"
    psqlrc.write_text("\\set ON_ERROR_STOP on\n")
    script = "set -e\n" + migrate.replace("localhost:5432/app", address)
    assert address in script
    await run("bash", "-c", script, env={"PATH": programs, "PSQLRC": str(psqlrc)})

    settings = dict(line.removeprefix("export ").split("=", 1) for line in start.splitlines() if "export" in line)
    relay_url = settings["DATABASE_URL"].replace("localhost:5432/app", address)
    assert urlsplit(relay_url).username == "relay"
    relay = await cli("run", env={"DATABASE_URL": relay_url, "REDIS_URL": redis_url, "DISPATCHER_ENABLED": "true"})
    await relay.ready()
    with psycopg.connect(f"postgresql://my_application@{address}", autocommit=True) as application:
        application.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('a', 'b', '{}')"
        )
    assert len(await entries(redis, 1)) == 1


async def test_the_acl_for_redis_is_enough(
    own_valkey: StartValkey, cli: StartCli, db: psycopg.AsyncConnection, database_url: str
) -> None:
    server = own_valkey()
    [line] = blocks("Rights in Redis", "", OPERATIONS)
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        await redis.execute_command(*line.split())  # type: ignore[no-untyped-call]
        url = server.url.replace("redis://", "redis://relay:secret@")
        relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": url})
        await relay.ready()
        await insert_events(db, 1)
        await entries(redis, 1)
        await redis.client_pause(60_000, all=False)
        await insert_events(db, 1)  # its XADD waits in the server
        await redis.client_kill_filter(_id=await _blocked_connection(redis))
        await relay.line("replies_reconciled")
        await redis.client_unpause()
        await entries(redis, 2)
        denied = [entry for entry in await redis.acl_log() if entry["username"] == "relay"]
    assert not denied


async def _blocked_connection(redis: "Redis") -> str:
    async def look() -> str | None:
        for client in await redis.client_list():
            if client["user"] == "relay" and "b" in client["flags"]:
                return str(client["id"])
        return None

    return str(await until(look, "a connection of the role relay is blocked"))


@pytest.mark.promise("replay")
async def test_replaying_and_pruning(
    cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()
    await insert_events(db, 2)
    await entries(redis, 2)
    headings = ("Replay", "Dead letters", "Pruning")
    replay_sent, replay_dead, prune = (block for name in headings for block in blocks(name, "sql", OPERATIONS))
    await becomes(lambda: statuses(db), {"sent": 2})

    await db.execute(replay_sent.encode())
    await entries(redis, 4)
    await becomes(lambda: statuses(db), {"sent": 2})
    await insert_events(db, 1, status="dead", attempts=10, last_error="mended")
    await db.execute(replay_dead.encode())
    await entries(redis, 5)
    await becomes(lambda: statuses(db), {"sent": 3})

    await db.execute("UPDATE messaging.message_outbox SET sent_at = now() - INTERVAL '8 days'")
    await db.execute(prune.encode())
    await becomes(lambda: statuses(db), {})
