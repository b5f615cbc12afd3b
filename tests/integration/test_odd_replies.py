"""A server that answers in shapes of its own, as some that speak Redis's protocol do: it ends no dispatcher."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import psycopg
import pytest

from dispatcher.core.decide import Refused
from dispatcher.core.errors import Unreachable
from dispatcher.core.events import Sampled
from dispatcher.infra.redis.cluster import read_topology
from dispatcher.infra.redis.sentinel import named_primaries
from dispatcher.infra.redis.shapes import in_shape
from dispatcher.infra.redis.target import RedisTarget
from tests.support.rows import insert_events, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Value = int | bytes | None | list[Any]
NO_HELLO = b"-ERR unknown command 'HELLO'\r\n"
NO_ZERO = b"-ERR The ID specified in XADD must be greater than 0-0\r\n"


def reply(value: Value) -> bytes:
    """As RESP2 has it."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(reply, value))


class Server:
    """Takes entries; answers as `odd` says to the commands that it names."""

    def __init__(self) -> None:
        self.odd: dict[str, Value] = {}
        self.entries = 0

    def answer(self, words: list[bytes]) -> bytes:
        name, *rest = [word.decode() for word in words]
        asked = f"{name} {rest[0]}" if name == "XINFO" else name
        if asked in self.odd:
            return reply(self.odd[asked])
        match asked:
            case "HELLO":
                return NO_HELLO
            case "INFO":
                return reply(b"redis_version:7.2.0\r\nrun_id:a\r\nrole:master\r\nmaster_replid:b\r\n")
            case "XADD" if "0-0" in rest:
                return NO_ZERO
            case "XADD":
                self.entries += 1
                return reply(b"%d-%d" % (time.time() * 1000, self.entries))
            case "XLEN":
                return reply(self.entries)
            case "XINFO STREAM":
                return reply([b"length", self.entries, b"last-generated-id", b"%d-9" % (time.time() * 1000)])
            case "CLIENT":
                return reply(7)
            case _:
                return reply([])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(self.answer(words))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def odd_server() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield server, f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    listening.close()


@pytest.mark.parametrize(
    ("command", "odd"),
    [
        ("XINFO GROUPS", [1, None]),
        ("XINFO GROUPS", [[b"name", b"g", b"last-delivered-id", b"x", b"pending", b"0", b"consumers", 1]]),
        ("XINFO STREAM", [b"length", 1]),
        ("XINFO STREAM", [b"length", 1, b"last-generated-id", b"zz"]),
        ("INFO", 5),
        ("XLEN", [b"a"]),
        ("CLIENT", [[None]]),
    ],
)
async def test_a_reply_of_another_shape_ends_no_dispatcher(
    odd_server: tuple[Server, str],
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    command: str,
    odd: Value,
) -> None:
    """Where it was read: TypeError, KeyError, ValueError, which nobody expected there."""
    server, url = odd_server
    server.odd = {command: odd}
    async with dispatcher(redis_url=url, tick_ms=50) as running:
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        await running.tap.next(Sampled)
    assert server.entries == 20


@pytest.mark.parametrize(("kind", "command"), [("cluster", "CLUSTER"), ("sentinel", "SENTINEL")])
@pytest.mark.parametrize("odd", [[[1]], [[b"a", None]], 5, [None]], ids=str)
async def test_a_node_or_a_sentinel_that_answers_in_another_shape_is_passed_over(
    odd_server: tuple[Server, str], kind: str, command: str, odd: Value
) -> None:
    """A TypeError ended the process, for others are asked beside it."""
    server, url = odd_server
    server.odd = {command: odd, "HELLO": [b"server", b"redis", b"version", b"7.2.0", b"proto", 3]}
    address = url.removeprefix("redis://").removesuffix("/0")
    target = RedisTarget.parse(f"redis+{kind}://{address}{'/main' if kind == 'sentinel' else ''}")
    asked: Awaitable[Any]
    if target.cluster is not None:
        asked = read_topology(target.cluster, 5.0)
    else:
        assert target.sentinels is not None
        asked = named_primaries(target.sentinels, 5.0)
    with pytest.raises(Unreachable):
        await asked


ENTRY = [b"1-0", [b"event_id", b"a"]]
GROUP = [b"name", b"g", b"consumers", 1, b"pending", 0, b"last-delivered-id", b"1-0", b"lag", None]


@pytest.mark.parametrize(
    ("command", "right", "odd"),
    [
        (("XRANGE", "s"), [ENTRY], [None, 1, [ENTRY, 1], [[b"x", []]], [[b"1-0", None]], [[b"1-0", [b"event_id"]]]]),
        (("XINFO", "GROUPS", "s"), [GROUP], [5, [5], [GROUP[:-4]], [[b"name"]], [[1, 2]]]),
        (
            ("XINFO", "STREAM", "s"),
            [b"length", 0, b"last-generated-id", b"0-0"],
            [[], 1, [b"length"], [b"length", b"1"]],
        ),
        (("INFO",), b"", [None, 5, []]),
        (("XLEN", "s"), 0, [None, b"1", []]),
        (("PING",), 5, []),
    ],
)
def test_a_shape_that_a_command_never_gives_is_a_refusal(command: Any, right: Any, odd: list[Any]) -> None:
    assert in_shape([command], [right]) == [right]
    assert all(isinstance(in_shape([command], [each])[0], Refused) for each in odd)
