"""The connection to Redis: one reply a command by index, nothing sent twice, nothing left behind that may still act."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from dispatcher.core.decide import NoReply, NotApplied, Refused
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from tests.support.addresses import NAME, lead_to_both, swallowing
from tests.support.rows import STREAM
from tests.support.waiting import becomes, until

MakeBroker = Callable[..., RedisConnection]


class Losses:
    """Hears when a broker's connection is lost."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._next = anyio.Event()

    def __call__(self, why: str) -> None:
        self.reasons.append(why)
        self._next.set()

    async def first(self) -> str:
        with anyio.fail_after(60):
            await self._next.wait()
        return self.reasons[0]


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture
async def make_broker(losses: Losses) -> AsyncIterator[MakeBroker]:
    made: list[RedisConnection] = []

    def make(url: str, *, name: str = "test", timeout_s: float = 30.0) -> RedisConnection:
        target = RedisTarget.parse(url)
        made.append(RedisConnection(target, name=name, streams=(STREAM,), connect_timeout_s=timeout_s, on_lost=losses))
        return made[-1]

    yield make
    for redis_connection in made:
        redis_connection.close()


def xadd(number: int, stream: str = STREAM) -> tuple[str, ...]:
    return ("XADD", stream, "*", "n", str(number))


async def ours(redis: "Redis", name: str = "dispatcher-test") -> list[int]:
    """The ids of the server's clients of that name."""
    clients: Any = await redis.client_list()
    return [int(client["id"]) for client in clients if client["name"] == name]


async def test_it_is_up_once_connected_and_known_by_its_name(make_broker, redis_url, redis, losses):
    redis_connection = make_broker(redis_url, name="ho st\n-1")
    assert not redis_connection.up
    await redis_connection.connect()
    assert redis_connection.up
    assert len(await ours(redis, "dispatcher-ho-st--1")) == 1
    redis_connection.close()
    redis_connection.close()
    assert not redis_connection.up
    assert losses.reasons == []  # we closed it ourselves


async def test_each_command_has_its_own_reply_in_its_place(make_broker, redis_url, redis):
    await redis.set("text", "x")
    redis_connection = make_broker(redis_url)
    await redis_connection.connect()
    replies = await redis_connection.send(
        [xadd(1), xadd(2, "text"), xadd(3), ("XADD", STREAM), ("GET", "none"), xadd(4)], 30.0
    )
    assert [type(reply) for reply in replies] == [bytes, Refused, bytes, Refused, type(None), bytes]
    assert replies[1].text.startswith("WRONGTYPE")
    entries: Any = await redis.xrange(STREAM)
    assert [(entry_id.encode(), fields["n"]) for entry_id, fields in entries] == [
        (replies[0], "1"),
        (replies[2], "3"),
        (replies[5], "4"),
    ]


async def test_bursts_sent_before_the_first_is_answered_are_answered_in_order(make_broker, redis_url, redis):
    redis_connection = make_broker(redis_url)
    await redis_connection.connect()
    bursts = [redis_connection.send([xadd(burst * 10 + n) for n in range(burst)], 30.0) for burst in range(20)]
    ids = [reply for burst in bursts for reply in await burst]
    assert [len(await burst) for burst in bursts] == list(range(20))
    entries: Any = await redis.xrange(STREAM)
    assert [entry_id.encode() for entry_id, _ in entries] == ids
    assert [int(fields["n"]) for _, fields in entries] == [burst * 10 + n for burst in range(20) for n in range(burst)]


async def test_nothing_is_sent_before_it_is_connected_or_after(make_broker, redis_url, redis):
    redis_connection = make_broker(redis_url)
    assert await redis_connection.send([xadd(1)] * 2, 30.0) == [NotApplied("redis is not connected")] * 2
    await redis_connection.connect()
    redis_connection.close()
    assert await redis_connection.send([xadd(1)], 30.0) == [NotApplied("redis is not connected")]
    assert await redis.xlen(STREAM) == 0


async def test_replies_that_do_not_come_in_time_are_lost_though_the_entries_are_there(
    make_broker, redis_url, redis, proxy, losses
):
    through = await proxy(redis_url)
    redis_connection = make_broker(through.via(redis_url))
    await redis_connection.connect()
    through.drop_replies()
    first, second = redis_connection.send([xadd(1), xadd(2)], 0.3), redis_connection.send([xadd(3)], 30.0)
    assert await first == [NoReply("no reply within 0.3 s")] * 2
    assert await second == [NoReply("no reply within 0.3 s")]  # its answer could only come after the first
    assert not redis_connection.up
    assert await losses.first() == "no reply within 0.3 s"
    await becomes(lambda: redis.xlen(STREAM), 3, "the number of entries")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_loses_what_was_not_answered_and_keeps_what_was(make_broker, redis_url, proxy, losses, reset):
    through = await proxy(redis_url)
    redis_connection = make_broker(through.via(redis_url))
    await redis_connection.connect()
    answered = redis_connection.send([xadd(1)], 30.0)
    await answered
    through.stall()
    waiting = redis_connection.send([xadd(2), xadd(3)], 30.0)
    through.cut(reset=reset)
    assert [type(reply) for reply in await waiting] == [NoReply, NoReply]
    assert [type(reply) for reply in await answered] == [bytes]
    await losses.first()
    assert len(losses.reasons) == 1
    assert await redis_connection.send([xadd(4)], 30.0) == [NotApplied("redis is not connected")]


async def test_a_reply_that_nobody_asked_for_ends_the_connection(make_broker, redis_url, redis, losses):
    """Kept, it would be taken for the answer of the next command, and every row would be settled as its neighbour."""
    redis_connection = make_broker(redis_url)
    await redis_connection.connect()
    await redis_connection.send([("SUBSCRIBE", "channel")], 30.0)
    await redis.publish("channel", "hello")
    assert "something we did not ask for" in await losses.first()
    assert not redis_connection.up


async def test_what_the_last_connection_left_behind_is_never_applied(make_broker, redis_url, redis, proxy):
    """Held by the network, 100 entries reach the server after we reconnected: their connection is dead by then."""
    through = await proxy(redis_url)
    redis_connection = make_broker(through.via(redis_url))
    await redis_connection.connect()
    through.stall()
    lost = redis_connection.send([xadd(n) for n in range(100)], 0.1)
    assert set(await lost) == {NoReply("no reply within 0.1 s")}
    [before] = await ours(redis)  # the server has not noticed
    redis_connection._target = RedisTarget.parse(redis_url)  # the network is whole again, on another way
    await redis_connection.connect()
    [after] = await ours(redis)
    assert after != before
    await through.restore()  # and now delivers
    await until(lambda: not through.links, "the old connection is closed")
    assert await redis.xlen(STREAM) == 0


async def test_after_a_restart_no_strangers_connection_is_killed(make_broker, own_valkey):
    """A server that was started again gives the numbers of its clients anew."""
    server = own_valkey()
    redis_connection = make_broker(server.url)
    await redis_connection.connect()
    server.crash()
    server.start()
    async with AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(Redis.from_url(server.url)) for _ in range(20)]
        numbers = [await each.client_id() for each in strangers]
        await redis_connection.connect()
        assert [await each.client_id() for each in strangers] == numbers
    assert redis_connection.up


async def test_it_learns_where_the_stream_ends(make_broker, redis_url, redis):
    redis_connection = make_broker(redis_url)
    await redis_connection.connect()
    assert redis_connection.floor == "0-0"
    await redis.xadd(STREAM, {"a": "b"}, id="77-3")
    await redis.xdel(STREAM, "77-3")
    await redis_connection.connect()
    assert redis_connection.floor == "77-3"
    redis_connection.known_entries.note(["78-0"])
    assert redis_connection.floor == "78-0"
    await redis.flushall()
    await redis_connection.connect()
    assert redis_connection.floor == "0-0"  # the new stream's ids may be lower than the old one's


async def test_another_database_of_the_server(make_broker, redis_url, redis):
    redis_connection = make_broker(redis_url.rsplit("/", 1)[0] + "/3")
    await redis_connection.connect()
    await redis_connection.send([xadd(1)], 30.0)
    assert await redis.xlen(STREAM) == 0
    async with Redis.from_url(redis_url.rsplit("/", 1)[0] + "/3") as other:
        assert await other.xlen(STREAM) == 1


async def test_a_unix_socket(make_broker, own_valkey, server_folder):
    path = server_folder / "valkey.sock"
    server = own_valkey(options={"unixsocket": str(path)})
    redis_connection = make_broker(f"unix://{path}?db=2")
    await redis_connection.connect()
    await redis_connection.send([xadd(1)], 30.0)
    async with Redis.from_url(server.url.rsplit("/", 1)[0] + "/2") as other:
        assert await other.xlen(STREAM) == 1


async def test_a_name_of_which_the_first_address_swallows_everything(redis_url, monkeypatch):
    """For the connection that publishes, and for the client that looks up figures."""
    lead_to_both(monkeypatch)
    url = redis_url.replace("127.0.0.1", NAME)
    with swallowing(RedisTarget.parse(url).port), anyio.fail_after(50):  # not the whole of the first's
        connection = RedisConnection(
            RedisTarget.parse(url), name="test", streams=(STREAM,), connect_timeout_s=100.0, on_lost=lambda why: None
        )
        await connection.connect()
        assert connection.up
        connection.close()
        client = open_client(url, 100.0)
        assert await client.ping()
        await client.aclose()
