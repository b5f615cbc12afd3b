"""What Redis forbids, or an old one does not tell, is said and lived with: nothing is believed that was not seen."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import AuditChanged, BackpressureBlind, BackpressureChanged, BreakerChanged, Sampled
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget, client_name
from dispatcher.upkeep.backpressure import Backpressure
from dispatcher.upkeep.fence import end_connections
from tests.support.command import RunCommand
from tests.support.proxy import Direction, StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, statuses
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import PATIENCE_S, becomes

AsUser = Callable[..., Any]


@pytest.fixture
async def as_user(own_valkey: StartValkey) -> AsyncIterator[AsUser]:
    """Makes a user without some rights: its URL, and a connected broker of its."""
    server = own_valkey()
    brokers: list[RedisConnection] = []

    async def make(*forbidden: str, allowed: Sequence[str] = ()) -> tuple[str, RedisConnection]:
        async with Redis.from_url(server.url) as admin:
            rights = ["+@all", *(f"-{command}" for command in forbidden), *(f"+{command}" for command in allowed)]
            await admin.acl_setuser("app", enabled=True, passwords="+right", keys="*", commands=rights)
        url = server.url.replace("redis://", "redis://app:right@")
        redis_connection = RedisConnection(
            RedisTarget.parse(url), name="us", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda why: None
        )
        brokers.append(redis_connection)
        await redis_connection.connect()
        return server.url, redis_connection

    yield make
    for redis_connection in brokers:
        redis_connection.close()


async def test_who_may_have_no_name_cannot_be_fenced_by_it(as_user: AsUser) -> None:
    """CLIENT LIST would show nobody of that name, and the fence would believe that nobody is there."""
    _, redis_connection = await as_user("client", allowed=["client|id", "client|list", "client|kill"])
    assert not await end_connections(redis_connection, ["another"], 5.0, unfenced_wait_s=0.0)
    _, redis_connection = await as_user()
    assert await end_connections(redis_connection, ["another"], 5.0)


async def test_without_info_no_strangers_connection_is_ended(as_user: AsUser) -> None:
    """After a restart, of which only INFO would tell, another client has the number of our old connection."""
    url, redis_connection = await as_user("info")
    async with Redis.from_url(url, client_name="stranger") as stranger, Redis.from_url(url) as admin:
        redis_connection._client_id = await stranger.client_id()
        await redis_connection.connect()
        assert "stranger" in {client["name"] for client in await admin.client_list()}
        ours = redis_connection._client_id
        redis_connection._pipe = None  # it lives on, as after a cut that the server did not see
        await redis_connection.connect()
        names = [client["id"] for client in await admin.client_list() if client["name"] == client_name("us")]
        assert names == [str(redis_connection._client_id)] != [str(ours)]


async def test_backpressure_that_may_not_look_says_so(as_user: AsUser, tap: Tap) -> None:
    _, redis_connection = await as_user("xinfo")
    pressure = Backpressure(redis_connection, streams=(STREAM,), maxlen=100, deadline_s=30.0, observe=tap)
    assert await pressure.allowance() > 0
    assert tap.all(BackpressureBlind) == [BackpressureBlind("Redis refused: NOPERM; allow this user +xinfo")]
    _, redis_connection = await as_user()
    pressure._connection, pressure._left = redis_connection, 0
    await redis_connection.send([("XGROUP", "CREATE", STREAM, "g", "0", "MKSTREAM")], 5.0)
    await pressure.allowance()
    assert tap.all(BackpressureBlind)[1:] == [BackpressureBlind(None)]


async def test_backpressure_on_a_redis_before_7_counts(
    as_user: AsUser, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its XINFO has neither a group's lag nor how many entries were ever added. `make matrix` has a real one."""
    _, connection = await as_user()
    commands = [("XGROUP", "CREATE", STREAM, group, "0", "MKSTREAM") for group in ("quick", "slow")]
    await connection.send([*commands, *[("XADD", STREAM, "*", "a", "b")] * 95], 5.0)
    await connection.send([("XREADGROUP", "GROUP", "quick", "me", "COUNT", "90", "STREAMS", STREAM, ">")], 5.0)
    real = RedisConnection.send

    async def older(self: RedisConnection, commands: list[tuple[str, ...]], deadline_s: float) -> list[Any]:
        def cut(reply: Any) -> Any:
            if isinstance(reply, list) and reply and isinstance(reply[0], list):
                return [cut(each) for each in reply]
            pairs = zip(reply[::2], reply[1::2], strict=True)
            return [
                each for pair in pairs if pair[0] not in (b"lag", b"entries-read", b"entries-added") for each in pair
            ]

        replies = await real(self, commands, deadline_s)
        return [
            cut(reply) if command[0] == "XINFO" else reply for command, reply in zip(commands, replies, strict=True)
        ]

    monkeypatch.setattr(RedisConnection, "send", older)
    pressure = Backpressure(connection, streams=(STREAM,), maxlen=100, deadline_s=30.0, observe=tap)
    assert await pressure.allowance() == 0
    assert tap.seen == [BackpressureChanged(True, "slow", 95)]
    await connection.send([("XGROUP", "SETID", STREAM, "slow", "$")], 5.0)
    assert await pressure.allowance() > 0
    assert tap.seen[1:] == [BackpressureChanged(False, "quick", 5)]
    _, denied = await as_user("xrange")
    pressure = Backpressure(denied, streams=(STREAM,), maxlen=100, deadline_s=30.0, observe=tap)
    assert await pressure.allowance() > 0, "or nothing would go out for ever"
    assert tap.seen[2:] == [BackpressureBlind("Redis refused: NOPERM; allow this user +xrange")]


@pytest.mark.parametrize("unknown", ["INFO", "CLIENT", "XINFO", "INFO CLIENT XINFO XRANGE"])
async def test_a_proxy_that_does_not_know_a_command(
    own_valkey: StartValkey,
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    command: RunCommand,
    tmp_path: Path,
    unknown: str,
) -> None:
    """Envoy knows no INFO; some managed servers have no CLIENT. Events go out, and it is said what is missing."""
    renamed = tmp_path / "renamed.conf"
    renamed.write_text("".join(f'rename-command {name} ""\n' for name in unknown.split()))
    server = own_valkey(options={"include": str(renamed)})
    async with dispatcher(redis_url=server.url) as running:
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        audits = [(audit.on, "unknown command" in (audit.reason or "")) for audit in running.tap.all(AuditChanged)]
        assert audits == ([(False, True)] if "INFO" in unknown else [(True, False)])
    code, said = await command("doctor", REDIS_URL=server.url)
    assert code == 1
    for name in unknown.split():
        assert f"{'CLIENT KILL' if name == 'CLIENT' else name} is unknown" in said
    assert "not at a proxy" in said


@pytest.mark.parametrize(
    "words",
    [
        "ERR handle request, command 'INFO' is not allowed",  # Codis
        "ERR invalid request",  # Envoy, the older
        "ERR command not support for normal user",
        "FORBIDDEN",
    ],
)
async def test_a_proxy_that_refuses_to_tell_in_words_of_its_own(
    redis_url: str,
    proxy: StartProxy,
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    command: RunCommand,
    words: str,
) -> None:
    """It was taken for an outage that passes: nothing was ever published, or all that is looked up said so."""
    through = await proxy(redis_url)

    def filtered(direction: Direction, data: bytes) -> bytes:
        if direction == "to_server":
            return re.sub(rb"\r\n(X?)INFO\r\n", rb"\r\n\1INFX\r\n", data)
        return re.sub(rb"-ERR unknown command 'X?INFX'[^\r]*", f"-{words}".encode(), data)

    through.make_filter = lambda: filtered
    async with dispatcher(redis_url=through.via(redis_url)) as running:
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        said = words.removeprefix("ERR").strip()
        assert [(audit.on, said in (audit.reason or "")) for audit in running.tap.all(AuditChanged)] == [(False, True)]
        await running.tap.next(BackpressureBlind, where=lambda event: said in (event.reason or ""))
        assert (await running.tap.next(Sampled)).redis_error is None
    code, said = await command("doctor", REDIS_URL=through.via(redis_url))
    assert code == 1
    assert "INFO is unknown" in said
    assert "XINFO is unknown" in said
    assert "not at a proxy" in said


async def test_a_server_that_does_not_know_hello(
    own_valkey: StartValkey,
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    command: RunCommand,
    tmp_path: Path,
) -> None:
    """As Redis 5. redis-py 8 begins with it: all went out, and everything that is looked up said that Redis is away."""
    renamed = tmp_path / "renamed.conf"
    renamed.write_text('rename-command HELLO ""\n')
    server = own_valkey(options={"include": str(renamed)})
    async with Redis.from_url(server.url, protocol=2) as redis, dispatcher(redis_url=server.url) as running:
        await redis.xgroup_create(STREAM, "billing", mkstream=True)
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        sampled = await running.tap.next(Sampled, where=lambda event: event.stream_length == 20)
        assert (sampled.redis_error, sampled.group_lag) == (None, {"billing": 20})
        code, said = await command("status", REDIS_URL=server.url)
        assert (code, "20 to read" in said) == (0, True)
        code, said = await command("groups", REDIS_URL=server.url)
        assert (code, "billing" in said) == (0, True)


ENOUGH = f"~{STREAM} +xadd +xrange +xlen +xinfo +info +select +client"


@pytest.mark.parametrize("missing", ["multi", "exec", "multi exec"])
async def test_an_order_needs_a_transaction_of_redis(
    own_valkey: StartValkey,
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    command: RunCommand,
    missing: str,
) -> None:
    """With the rights for no order, MULTI was refused and its entries were taken: they were published without end."""
    server = own_valkey()
    url = server.url.replace("redis://", "redis://app:right@")
    taken = " ".join(f"-{each}" for each in missing.split())
    order = {"redis_url": url, "order": "aggregate", "tick_ms": 100}
    async with Redis.from_url(server.url, decode_responses=True) as admin:

        async def user(rights: str) -> None:
            await admin.execute_command(*f"ACL SETUSER app {rights}".split())  # type: ignore[no-untyped-call]

        await user(f"on >right {ENOUGH} +multi +exec {taken}")
        await insert_events(db, 20, aggregate_id="a")
        with pytest.raises(ExceptionGroup) as raised, anyio.fail_after(PATIENCE_S):
            async with dispatcher(**order, wait=False):
                await anyio.sleep_forever()  # until the dispatcher ends
        assert raised.group_contains(Misconfigured, match=r"\+multi \+exec")
        assert await read_stream(admin) == []
        code, said = await command("doctor", REDIS_URL=url, DISPATCH_ORDER="aggregate")
        assert code == 1
        for each in missing.split():
            assert f"{each.upper()} is forbidden: with an order nothing is published" in said
        assert "+client +multi +exec" in said
        await user("+multi +exec")
        async with dispatcher(**order) as running:
            await becomes(lambda: statuses(db), {"sent": 20})
            await user(taken)
            await insert_events(db, 20, aggregate_id="a")
            shut = await running.tap.next(BreakerChanged)
            assert shut.state == "open"
            assert "NOPERM" in (shut.reason or "")
            await user("+multi +exec")
            await becomes(lambda: statuses(db), {"sent": 40})
        events = [entry["event_id"] for entry in await read_stream(admin)]
        assert len(events) == len(set(events)) == 40
