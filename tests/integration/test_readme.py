"""The commands and the code of README, tutorial and how-to guides, read out of them and run against real servers."""

import asyncio
import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.embedded import free_port
from tests.support.child import StartCli
from tests.support.consumers import publish
from tests.support.postgres import StartPostgres
from tests.support.readme import ROOT, blocks, code, page
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.runbook import commands
from tests.support.waiting import becomes, until

URLS = ("DATABASE_URL", "REDIS_URL")
ORDERS = "CREATE TABLE orders (id bigserial PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL)"


@asynccontextmanager
async def running(
    *command: str, env: Mapping[str, str], stdin: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with nothing of ours in its environment but `env`; killed at the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "REDIS"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**inherited, **env},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
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


async def run_python(program: str, **env: str) -> str:
    """Run a program that a page shows, with no warning allowed."""
    return await run(sys.executable, "-W", "error", "-c", program, env=env)


def running_python(program: str, **env: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """The same, for a program that goes on."""
    return running(sys.executable, "-W", "error", "-c", program, env=env)


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
PRODUCE, MIGRATE, SIDE_EFFECTS = page("how-to/produce.md"), page("how-to/migrate.md"), page("how-to/side-effects.md")
PRODUCERS = {
    "psycopg": code("psycopg", "python", PRODUCE),
    "psycopg on asyncio": code("psycopg on asyncio", "python", PRODUCE),
    "SQLAlchemy": code("SQLAlchemy", "python", PRODUCE),
    "SQLAlchemy with asyncpg": code("SQLAlchemy with asyncpg", "python", PRODUCE),
    "asyncpg alone": code("asyncpg alone", "python", PRODUCE),
    "Django": PROJECT + code("Django", "python", PRODUCE) + "\nplace_order('ada', 42)\n",
}
ONCE = page("how-to/once.md")
CONSUMERS = {
    "once": code("In a database", "python", ONCE),
    "dedup store": code("Without a database", "python", ONCE),
    "other languages": code("Other languages", "python", page("how-to/other-languages.md")),
}
PLAIN_CONSUMERS = {
    heading: code(heading, "python", page("how-to/consume.md")) for heading in ("On a thread", "On asyncio")
}


def test_readme_shows_what_the_guides_show() -> None:
    """So what runs them runs README's, too."""
    assert code("Add an event", "sql") == code("Plain SQL", "sql", PRODUCE)
    assert code("Add an event", "python") == PRODUCERS["psycopg"]
    assert code("Read events", "python") == CONSUMERS["once"]


@pytest.mark.parametrize("program", PRODUCERS.values(), ids=PRODUCERS)
async def test_a_producer_in_python(program: str, db: psycopg.AsyncConnection, database_url: str) -> None:
    await db.execute(ORDERS)

    await run_python(program, DATABASE_URL=database_url)

    [row] = await read_table(db)
    [order] = await (await db.execute("SELECT id::text, total::int FROM orders")).fetchall()
    assert (row["event_type"], row["aggregate_type"], row["status"]) == ("order.created", "order", "pending")
    assert (row["aggregate_id"], row["payload"]) == (order[0], {"total": order[1]})


async def test_a_producer_in_sql(
    cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    await db.execute(ORDERS)
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()

    await db.execute(code("Plain SQL", "sql", PRODUCE).encode())

    [entry] = await entries(redis, 1)
    assert (entry["event_type"], entry["aggregate_id"], entry["payload"]) == ("order.created", "1", '{"total": 42}')


async def test_an_event_in_order(db: psycopg.AsyncConnection, database_url: str) -> None:
    await run_python(code("Events of one aggregate in order", "python", PRODUCE), DATABASE_URL=database_url)
    [row] = await read_table(db)
    assert (row["aggregate_type"], row["aggregate_id"], row["payload"]) == ("conversation", "7", {"text": "hello"})


async def test_models_as_payload(db: psycopg.AsyncConnection, database_url: str) -> None:
    await run_python(code("Payloads", "python", PRODUCE), DATABASE_URL=database_url)
    cursor = await db.execute(
        "SELECT payload ->> 'total', payload -> 'customer' ? 'since' FROM messaging.message_outbox"
    )
    assert await cursor.fetchall() == [("42.50", True)]


async def test_many_events_at_once(db: psycopg.AsyncConnection, database_url: str) -> None:
    await run_python(code("Many events at once", "python", PRODUCE), DATABASE_URL=database_url)
    assert [row["aggregate_id"] for row in await read_table(db)] == [str(number) for number in range(500)]


async def test_an_event_that_is_delayed(db: psycopg.AsyncConnection, database_url: str) -> None:
    await run_python(code("Delay an event", "python", PRODUCE), DATABASE_URL=database_url)
    cursor = await db.execute("SELECT next_run_at - occurred_at > INTERVAL '1 second' FROM messaging.message_outbox")
    assert await cursor.fetchall() == [(True,)]


async def test_an_event_that_is_added_once(db: psycopg.AsyncConnection) -> None:
    for _ in range(2):
        await db.execute(code("Add an event once", "sql", PRODUCE).encode())
    cursor = await db.execute(code("Look at your events", "sql", PRODUCE).encode())
    assert [row[1:4] for row in await cursor.fetchall()] == [("order.created", "1", "pending")]


@pytest.mark.parametrize("program", CONSUMERS.values(), ids=CONSUMERS)
async def test_the_consumer_takes_over_what_was_abandoned_and_does_nothing_twice(
    program: str, cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
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

    async with running_python(program, REDIS_URL=redis_url, CONSUMER_DATABASE_URL=database_url) as process:
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


@pytest.mark.parametrize("program", PLAIN_CONSUMERS.values(), ids=PLAIN_CONSUMERS)
async def test_the_consumer_prints_events_and_ends_at_sigterm(
    program: str, cli: StartCli, db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str
) -> None:
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()
    async with running_python(program, REDIS_URL=redis_url) as process:
        assert process.stdout is not None
        await insert_events(db, 1)
        assert await _line(process.stdout) == "order.created a1 {'n': 1}\n"
        process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def test_a_function_for_each_event_type(redis: "Redis", redis_url: str) -> None:
    program = code("A function for each event type", "python", page("how-to/consume.md"))
    async with running_python(program, REDIS_URL=redis_url) as process:
        assert process.stdout is not None
        assert await _line(process.stdout) == "started\n"
        await publish(redis, "7", event_type="order.created")
        assert await _line(process.stdout) == "bill 7\n"
        await publish(redis, "7", event_type="invoice.sent")
        assert await _line(process.stdout) == "note invoice.sent\n"
        process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def test_old_events_are_forgotten(db: psycopg.AsyncConnection, database_url: str) -> None:
    await db.execute("CREATE TABLE handled_event (consumer text, event_id uuid, handled_at timestamptz)")
    for days in (40, 20):
        await db.execute(
            "INSERT INTO handled_event VALUES ('billing', gen_random_uuid(), now() - make_interval(days => %s))", [days]
        )
    await run_python(code("Forget old events", "python", ONCE), CONSUMER_DATABASE_URL=database_url)
    cursor = await db.execute("SELECT count(*) FROM handled_event")
    assert await cursor.fetchone() == (1,)


class Mailbox:
    """A server that speaks enough SMTP; refuses the first mail."""

    def __init__(self) -> None:
        self.refused = 0
        self.mails: asyncio.Queue[str] = asyncio.Queue()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        writer.write(b"220 here\r\n")
        with contextlib.suppress(ConnectionError):  # the consumer is killed at the end
            while line := await reader.readline():
                verb = line.split()[0].upper()
                if verb == b"DATA" and not self.refused:
                    self.refused += 1
                    writer.write(b"451 later\r\n")
                elif verb == b"DATA":
                    writer.write(b"354 go on\r\n")
                    self.mails.put_nowait((await reader.readuntil(b"\r\n.\r\n")).decode())
                    writer.write(b"250 taken\r\n")
                else:
                    writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
        writer.close()


async def test_a_mail_that_failed_is_sent_again(
    db: psycopg.AsyncConnection, database_url: str, redis: "Redis", redis_url: str, cli: StartCli
) -> None:
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()
    mailbox = Mailbox()
    async with await asyncio.start_server(mailbox.talk, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        environment = {"REDIS_URL": redis_url, "CONSUMER_DATABASE_URL": database_url}
        program = code("It may happen twice: do it, then remember", "python", SIDE_EFFECTS)
        async with running_python(program, SMTP_HOST="127.0.0.1", SMTP_PORT=port, **environment):
            await insert_events(db, 1)
            [entry] = await entries(redis, 1)
            async with asyncio.timeout(60):
                mail = await mailbox.mails.get()
    assert mailbox.refused == 1
    assert f"Message-ID: <{entry['event_id']}@" in mail


async def blocked_clients(redis: "Redis") -> int:
    return int((await redis.info("clients"))["blocked_clients"])  # Redis tells nobody when a client blocks


async def test_a_broadcast_gets_what_comes_from_now_on(redis: "Redis", redis_url: str) -> None:
    program = blocks("WebSockets and other broadcasts", "python", SIDE_EFFECTS)[0] + (
        "async def main():\n"
        "    browsers.add(queue := asyncio.Queue(maxsize=1))\n"
        "    asyncio.create_task(broadcast())\n"
        "    print(await queue.get(), flush=True)\n"
        "asyncio.run(main())\n"
    )
    await publish(redis, "7", payload="before")
    async with running_python(program, REDIS_URL=redis_url) as process:
        assert process.stdout is not None
        await until(functools.partial(blocked_clients, redis), "it waits for entries")
        await publish(redis, "7", payload="after")
        assert await _line(process.stdout) == "after\n"


async def test_a_broadcast_over_websockets(redis: "Redis", redis_url: str) -> None:
    broadcast, server = blocks("WebSockets and other broadcasts", "python", SIDE_EFFECTS)
    program = f"""{broadcast}
{server}
from fastapi.testclient import TestClient
with TestClient(app) as client, client.websocket_connect("/events") as socket:
    print("connected", flush=True)
    print(socket.receive_text(), flush=True)
"""
    await publish(redis, "6", payload="before")  # or the tail warns of a stream that is not there
    async with running_python(program, REDIS_URL=redis_url) as process:
        assert process.stdout is not None
        assert await _line(process.stdout) == "connected\n"
        await until(functools.partial(blocked_clients, redis), "it waits for entries")
        await publish(redis, "7", payload="came")
        assert await _line(process.stdout) == "came\n"


async def test_handlers(cli: StartCli, db: psycopg.AsyncConnection, database_url: str, tmp_path: Path) -> None:
    module = tmp_path / "shop"
    module.mkdir()
    (module / "handlers.py").write_text(code("Handle events in Python", "python", page("how-to/handlers.md")))
    [arguments] = [words for _, words in commands(code("Handle events in Python", "sh", page("how-to/handlers.md")))]
    relay = await cli(
        *arguments[1:],
        "--unrouted=dead",
        env={"DATABASE_URL": database_url, "DISPATCHER_ENABLED": "true", "PYTHONPATH": str(tmp_path)},
    )
    await relay.ready()
    await insert_events(db, 1, event_type="invoice.requested", payload='{"order": 7}')
    assert await relay.line("invoice for 7")
    await insert_events(db, 1, event_type="mail.requested", payload='{"to": "nobody"}')
    await relay.line("outbox_rows_buried_after_max_attempts")
    cursor = await db.execute("SELECT last_error FROM messaging.message_dlq")
    assert "no address" in str(await cursor.fetchone())


async def test_the_handler_that_waits_for_eight_is_not_buried_before(
    cli: StartCli, db: psycopg.AsyncConnection, database_url: str, tmp_path: Path
) -> None:
    """The time is the only thing that is changed: a tenth of a second before the shop opens, at each call."""
    text = code("Handle events in Python", "python", page("how-to/handlers.md"))
    early = text.replace("datetime.now(UTC)", "datetime(2026, 6, 1, 7, 59, 59, 900_000, tzinfo=UTC)")
    assert early != text
    (tmp_path / "early.py").write_text(early)
    ours = {"DATABASE_URL": database_url, "DISPATCHER_ENABLED": "true", "PYTHONPATH": str(tmp_path)}
    relay = await cli("run", "--handlers=early", "--unrouted=dead", "--max-attempts=2", "--log-level=DEBUG", env=ours)
    await insert_events(
        db, 1, event_type="mail.requested", payload='{"to": "a@b"}', occurred_at="2026-06-01 07:00:00+00"
    )

    async def waits() -> bool:
        [row] = await read_table(db)
        return (row["status"], row["attempts"], row["last_error"]) == ("retry", 0, "Wait: the shop is closed")

    for _ in range(5):
        before = (await read_table(db))[0]["next_run_at"]
        await until(waits, "it waits, and has cost no attempt")
        await until(functools.partial(_later, db, before), "it is called again")
    assert await statuses(db) in ({"retry": 1}, {"picked": 1})
    await relay.terminate()


async def _later(db: psycopg.AsyncConnection, than: object) -> bool:
    [row] = await read_table(db)
    return bool(row["next_run_at"] != than)


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
    [migrate] = blocks("Migrate the database", "sh", MIGRATE)
    roles, start = blocks("Roles", "sh", MIGRATE)
    address = f"localhost:{server.port}/app"

    programs = os.pathsep.join([str(Path(sys.executable).parent), str(server.bin("psql").parent), os.environ["PATH"]])
    psqlrc = tmp_path / "psqlrc"
    psqlrc.write_text("\\set ON_ERROR_STOP on\n")
    script = "set -e\n" + (migrate + roles).replace("localhost:5432/app", address)
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
    [line] = blocks("Redis", "", page("runbook/rights.md"))
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
    replay_sent = code("In SQL", "sql", page("runbook/replay.md"))
    replay_dead = code("Send again in SQL", "sql", page("runbook/dead-letters.md"))
    prune = code("From cron, in SQL", "sql", page("runbook/prune.md"))
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


async def test_the_tutorial(cli: StartCli, server_folder: Path, tmp_path: Path) -> None:
    """Each step in its order, with ports and folders of this test."""
    text = page("tutorial.md")
    for name, program in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(program)
    ports = ("--postgres-port", str(free_port()), "--redis-port", str(free_port()))
    servers = await cli("dev", "--data-dir", str(server_folder / "tutorial"), *ports)
    await servers.line("Ctrl-C stops both")
    urls = dict([(await servers.line(f"export {name}=")).removeprefix("export ").split("=", 1) for name in URLS])

    async def order(customer: str) -> None:
        await run(sys.executable, str(tmp_path / "order.py"), customer, env=urls)

    relay = await cli("run", env=urls | enabled(text, "3. Start a dispatcher"))
    await relay.ready()
    async with running(sys.executable, str(tmp_path / "show.py"), env=urls) as screen:
        assert screen.stdout is not None
        output = screen.stdout

        async def event() -> str:
            """The next event on the screen; between them the consumer says that Redis is away."""
            while (line := await _line(output)).startswith("Redis "):
                pass
            return line.rstrip()

        await order("ada")
        assert await event() == "order.created 1"
        with pytest.raises(AssertionError, match="no credit"):
            await order("mallory")

        async with running(sys.executable, str(tmp_path / "freeze.py"), env=urls, stdin=True) as freeze:
            assert freeze.stdout is not None
            assert freeze.stdin is not None
            assert (await freeze.stdout.read(5)).decode() == "Redis"
            for customer in ("grace", "alan"):
                await order(customer)
            await relay.line("breaker_opened")
            freeze.stdin.write(b"\n")
            await freeze.wait()
        assert [await event() for _ in range(2)] == ["order.created 3", "order.created 4"]

        relay.signal(signal.SIGKILL)
        await relay.wait()
        await order("barbara")
        relay = await cli("run", env=urls | enabled(text, "3. Start a dispatcher"))
        assert await event() == "order.created 5"

        await run(sys.executable, str(tmp_path / "picture.py"), env=urls)
        await relay.line("outbox_rows_buried_after_max_attempts")
        shown = await run(sys.executable, "-m", "dispatcher", "dlq", "list", env=urls)
        assert "picture.taken" in shown
        relay.signal(signal.SIGINT)
        assert await relay.wait() == 0
        relay = await cli("run", env=urls | enabled(text, "8. An event dies"))
        retry = [words for block in blocks("8. An event dies", "sh", text) for _, words in commands(block)][-1]
        await run(sys.executable, "-m", *retry, env=urls)
        assert await event() == "picture.taken 1"

        with psycopg.connect(urls["DATABASE_URL"], autocommit=True) as connection:  # README goes on with this table
            connection.execute(code("Add an event", "sql").encode())
        assert await event() == "order.created 6"
        screen.terminate()
        assert await screen.wait() == 0
        async with Redis.from_url(urls["REDIS_URL"]) as redis:
            assert await redis.xinfo_consumers("sanctum:messages", "screen") == []


def enabled(text: str, heading: str) -> dict[str, str]:
    """The variables with which the tutorial starts a dispatcher there."""
    starts = [env for block in blocks(heading, "sh", text) for env, words in commands(block) if words[-1] == "run"]
    [env] = starts
    return env
