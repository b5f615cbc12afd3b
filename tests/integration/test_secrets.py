"""Canaries in payloads, headers, passwords and the token: after a run with faults none of them is written anywhere."""

import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest
from redis.asyncio import Redis

from tests.support.child import Child, StartCli
from tests.support.command import RunCommand
from tests.support.proxy import Proxy, StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import insert_events, read_stream, statuses
from tests.support.waiting import until

PAYLOAD, HEADERS = "canary-of-a-payload", "canary-of-a-header"
PG_PASSWORD, REDIS_PASSWORD, TOKEN = "canary-for-postgres", "canary-for-redis", "canary-of-the-token"
CANARY = "canary-"
# A handler whose error repeats what it was given.
HANDLERS = """
def fail(payload):
    raise RuntimeError("cannot do " + payload["secret"])

HANDLERS = {"failing": fail}
"""
LARGE = json.dumps({"secret": PAYLOAD, "x": "y" * 3000})


class Place:
    """The servers, the dispatcher between them, and all that was said."""

    def __init__(self, child: Child, database_url: str, redis_url: str, postgres: Proxy, redis: Proxy) -> None:
        self.child = child
        self.env = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DISPATCH_API_TOKEN": TOKEN}
        self.postgres = postgres
        self.redis = redis
        self.said: list[tuple[str, str]] = []  # where, and what

    def hear(self, where: str, text: str) -> None:
        self.said.append((where, text))

    def leaks(self) -> list[str]:
        """Every place that holds a canary, and what is around it."""
        found = [*self.said, *(("the log", line) for line in self.child.lines)]
        return [f"{where}: {text[:2000]}" for where, text in found if CANARY in text]


def with_password(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
async def place(
    cli: StartCli,
    db: psycopg.AsyncConnection,
    database_url: str,
    own_valkey: StartValkey,
    proxy: StartProxy,
    tmp_path: Path,
) -> Place:
    valkey = own_valkey()
    async with Redis.from_url(valkey.url) as redis:
        await redis.acl_setuser(
            "relay", enabled=True, passwords=[f"+{REDIS_PASSWORD}"], keys=["*"], categories=["+@all"]
        )
    postgres_proxy, redis_proxy = await proxy(database_url), await proxy(valkey.url)
    redis_url = with_password(redis_proxy.via(valkey.url), "relay", REDIS_PASSWORD)
    url = with_password(postgres_proxy.via(database_url), "postgres", PG_PASSWORD)
    env = {
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
        "DISPATCH_API_TOKEN": TOKEN,
        "DISPATCH_LOG_LEVEL": "TRACE",
        "DISPATCH_TICK_MS": "50",
        "DISPATCH_MAX_ATTEMPTS": "2",
        "DISPATCH_BACKOFF_BASE_MS": "1",
        "DISPATCH_MAX_PAYLOAD_BYTES": "2000",
        "DISPATCH_PUBLISH_TIMEOUT_MS": "1000",
        "DISPATCH_HANDLERS": "canary_handlers",
    }
    (tmp_path / "canary_handlers.py").write_text(HANDLERS)
    child = await cli("run", "--enabled", env=env, cwd=tmp_path)
    await child.ready()
    return Place(child, url, redis_url, postgres_proxy, redis_proxy)


async def plant(db: psycopg.AsyncConnection, rows: int, **columns: object) -> list[int]:
    secret = {"payload": json.dumps({"secret": PAYLOAD}), "headers": json.dumps({"traceparent": HEADERS})}
    return await insert_events(db, rows, **secret | columns)


async def sent(db: psycopg.AsyncConnection, rows: int) -> None:
    async def done() -> bool:
        return (await statuses(db)).get("sent", 0) == rows

    await until(done, f"{rows} are sent")


async def break_everything(place: Place, db: psycopg.AsyncConnection) -> None:
    """Rows that cannot be sent, a statement that fails and quotes its row, both servers cut off, both away."""
    await plant(db, 3)
    await sent(db, 3)
    await plant(db, 1, payload=LARGE)
    await plant(db, 1, event_type="failing")

    async def both_dead() -> bool:
        return (await statuses(db)).get("dead", 0) == 2

    await until(both_dead, "what is too large and what its handler refuses are dead")
    # A settle that fails: Postgres's DETAIL holds the whole row.
    await db.execute("ALTER TABLE messaging.message_outbox ADD CONSTRAINT refused CHECK (status <> 'sent') NOT VALID")
    await plant(db, 1)
    await place.child.line("CheckViolation")
    await db.execute("ALTER TABLE messaging.message_outbox DROP CONSTRAINT refused")
    await sent(db, 4)
    # Replies that are lost, then nothing to connect to.
    place.redis.swallow("to_client")
    await plant(db, 1)
    await place.child.line("breaker_opened")
    place.redis.refuse()
    place.redis.cut()
    await place.redis.restore()
    await place.child.line("breaker_closed")
    await sent(db, 5)
    place.postgres.refuse()
    place.postgres.cut(reset=True)
    await place.child.line("listener_down")
    await place.child.line("database_down")
    await place.postgres.restore()
    await plant(db, 1)
    await sent(db, 6)


async def ask_over_http(place: Place) -> None:
    """Every path, as it should be asked and as it should not."""
    url, right = place.child.http_url, {"Authorization": f"Bearer {TOKEN}"}
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    paths = ["/health", "/ready", "/metrics", "/", "/nothing", "/api/overview", "/api/history", "/api/openapi.json"]
    paths += ["/api/dead-events", "/api/dead-events/stats", "/api/dead-events/1", "/api/dead-events?limit=x"]
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, headers: dict[str, str], **body: Any) -> None:
            async with session.request(method, url + path, headers=headers, **body) as answer:
                place.hear(f"{method} {path}", f"{answer.headers} {await answer.text()}")

        for headers in (right, wrong, {}):
            for path in paths:
                await ask("GET", path, headers)
            await ask("POST", "/api/dead-events/retry-batch", headers, data=b'{"event_ids": [1')
            await ask("POST", "/api/dead-events/999/retry", headers)


async def ask_by_commands(place: Place, command: RunCommand) -> None:
    """Every command, with the right settings and with wrong ones."""
    wrong_database = place.env["DATABASE_URL"].rsplit("/", 1)[0] + "/nowhere"
    wrong_password = place.env["REDIS_URL"].replace(REDIS_PASSWORD, f"{REDIS_PASSWORD}-wrong")
    runs: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("status",), {}),
        (("status", "--json"), {}),
        (("doctor",), {}),
        (("doctor", "--json"), {}),
        (("dlq", "list"), {}),
        (("dlq", "list", "--json"), {}),
        (("dlq", "stats"), {}),
        (("pause", "--timeout", "5"), {}),
        (("resume", "--timeout", "5"), {}),
        (("replay", "--all", "--dry-run"), {}),
        (("prune", "--dry-run"), {}),
        (("migrate",), {}),
        (("status",), {"DATABASE_URL": wrong_database}),
        (("doctor",), {"DATABASE_URL": wrong_database, "REDIS_URL": wrong_password}),
        (("run",), {"REDIS_URL": f"http://u:{REDIS_PASSWORD}@h", "DATABASE_URL": f"mysql://u:{PG_PASSWORD}@h"}),
        (("run",), {"DISPATCH_TICK_MS": "x", "DISPATCH_API_TOKEN": f"{TOKEN} ü"}),
        (("migrate",), {"DATABASE_URL": f"postgresql://u:{PG_PASSWORD}@127.0.0.1:1/app"}),
    ]
    for arguments, env in runs:
        _, output = await command(*arguments, **place.env | env)
        assert output
        place.hear(f"dispatcher {' '.join(arguments)}", output)


async def look_into_the_servers(place: Place, db: psycopg.AsyncConnection) -> None:
    for table in ("message_outbox", "message_dlq"):
        rows = await db.execute(f"SELECT last_error FROM messaging.{table} WHERE last_error IS NOT NULL".encode())
        errors = await rows.fetchall()
        assert errors
        place.hear(f"last_error in {table}", repr(errors))
    for what in ("pg_stat_activity", "messaging.dispatcher", "messaging.pause_acknowledgement", "messaging.pause"):
        rows = await db.execute(f"SELECT * FROM {what}".encode())
        place.hear(what, repr(await rows.fetchall()))
    async with Redis.from_url(place.env["REDIS_URL"]) as redis:
        place.hear("CLIENT LIST", repr(await redis.client_list()))


@pytest.mark.promise("secrets")
async def test_no_canary_is_written_anywhere(place: Place, db: psycopg.AsyncConnection, command: RunCommand) -> None:
    await break_everything(place, db)
    await ask_over_http(place)
    await ask_by_commands(place, command)
    await look_into_the_servers(place, db)
    place.child.signal(signal.SIGTERM)
    assert await place.child.wait() == 0
    assert place.leaks() == []

    # They were there to be found.
    async with Redis.from_url(place.env["REDIS_URL"], decode_responses=True) as redis:
        assert PAYLOAD in repr(await read_stream(redis))
        assert HEADERS in repr(await read_stream(redis))
    number = await (await db.execute("SELECT id FROM messaging.message_outbox WHERE status = 'dead'")).fetchone()
    assert number is not None
    _, output = await command("dlq", "show", str(number[0]), "--payload", **place.env)
    place.hear("dlq show --payload", output)
    assert len(place.leaks()) == 1
    assert all(each in repr(place.env) for each in (PG_PASSWORD, REDIS_PASSWORD, TOKEN))
