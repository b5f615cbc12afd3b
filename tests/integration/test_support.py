"""tests/support itself: a database a test, a proxy that misbehaves as told, a tap that hands out each event once."""

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import psycopg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from dispatcher.core.events import Claimed, Woke
from tests.support.proxy import HOST, Proxy, StartProxy
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.tap import Tap
from tests.support.waiting import caught_up


async def test_an_empty_database_has_no_schema(empty_database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url) as connection:
        cursor = await connection.execute("SELECT to_regnamespace('messaging')")
        assert await cursor.fetchone() == (None,)


async def test_rows(db: psycopg.AsyncConnection) -> None:
    assert await statuses(db) == {}
    ids = await insert_events(db, 3, event_type="a", headers='{"h": 1}')
    (dead,) = await insert_events(db, status="dead", payload='"%"')
    assert await statuses(db) == {"pending": 3, "dead": 1}
    table = await read_table(db)
    assert [row["id"] for row in table] == [*ids, dead]
    assert [row["aggregate_id"] for row in table] == ["a1", "a2", "a3", "a1"]
    assert (table[0]["headers"], table[2]["payload"], table[3]["payload"]) == ({"h": 1}, {"n": 3}, "%")
    assert await read_table(db, "message_dlq") == []


async def test_entries(redis: Redis) -> None:
    assert await read_stream(redis) == []
    first = await redis.xadd("sanctum:messages", {"event_id": "x"})
    assert await read_stream(redis) == [{"stream_id": first, "event_id": "x"}]


async def test_redis_is_empty_before_each_test(redis: Redis) -> None:
    assert await redis.dbsize() == 0


async def test_tap_hands_out_each_event_once(tap: Tap) -> None:
    tap(Woke("tick"))
    tap(Claimed(1, full=False))
    tap(Claimed(2, full=True))
    assert (await tap.next(Claimed, where=lambda event: event.full)).rows == 2
    assert (await tap.next(Claimed)).rows == 1
    with pytest.raises(AssertionError, match=r"no Claimed in 0 s; the latest events:\n  Woke\(cause='tick'\)"):
        await tap.next(Claimed, timeout=0)
    assert len(tap.all(Claimed)) == 2
    waiting = asyncio.ensure_future(tap.next(Woke, where=lambda event: event.cause == "notify"))
    await caught_up()
    tap(Woke("tick"))
    tap(Woke("notify"))
    assert await waiting == Woke("notify")
    tap.forget()
    with pytest.raises(AssertionError, match="no Woke"):
        await tap.next(Woke, timeout=0)


class Echo:
    """A server that sends back what it gets, and a client of it through a proxy."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.more = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                async with self.more:
                    self.got += data
                    self.more.notify_all()
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def has(self, data: bytes) -> None:
        async with asyncio.timeout(60), self.more:
            await self.more.wait_for(lambda: self.got.endswith(data))


async def test_proxy() -> None:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    await proxy.start()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", proxy.port)

    async with asyncio.timeout(60):
        reader, writer = await connect()
        writer.write(b"x" * 5_000_000)
        assert await reader.readexactly(5_000_000) == b"x" * 5_000_000

        proxy.stall()
        writer.write(b"held")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert not echo.got.endswith(b"held")
        await proxy.restore()
        assert await reader.readexactly(4) == b"held"

        proxy.drop_replies()
        writer.write(b"unanswered")
        await echo.has(b"unanswered")
        await proxy.restore()
        assert await reader.read() == b""  # a stream with a hole in it is cut
        writer.close()

        reader, writer = await connect()
        proxy.swallow("to_server")
        writer.write(b"never arrives")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert not echo.got.endswith(b"arrives")
        proxy.cut()
        assert await reader.read() == b""
        writer.close()
        await proxy.restore()

        reader, writer = await connect()
        writer.write(b"1")
        assert await reader.read(1) == b"1"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await connect()
        writer.write(b"2")
        assert await reader.read(1) == b"2"
        proxy.cut(reset=True)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        await proxy.restore()
        reader, writer = await connect()
        writer.write(b"3")
        assert await reader.read(1) == b"3"
        writer.close()
        assert await reader.read() == b""
    await proxy.stop()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("turns", range(8))
async def test_a_proxy_that_stops_leaves_no_connection(turns: int, redis_url: str) -> None:
    """Also one that its loop is accepting, or for which it is connecting to the server, as it stops."""
    loop, parts = asyncio.get_running_loop(), urlsplit(redis_url)
    assert parts.hostname is not None
    made = Proxy(parts.hostname, parts.port or 6379)
    await made.start()
    with socket.create_connection((HOST, made.port)) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        await made.stop()
        async with asyncio.timeout(50):
            with suppress(ConnectionResetError):
                assert await loop.sock_recv(client, 1) == b""
    assert (made.links, made.dials) == (set(), set())


async def test_proxy_before_real_servers(proxy: StartProxy, database_url: str, redis_url: str) -> None:
    through = await proxy(database_url)
    async with await psycopg.AsyncConnection.connect(through.via(database_url)) as connection:
        cursor = await connection.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)
        through.cut()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
    through = await proxy(redis_url)
    async with Redis.from_url(through.via(redis_url), retry=None) as client:
        assert await client.ping()
        through.refuse()
        through.cut()
        with pytest.raises(RedisConnectionError):
            await client.ping()
