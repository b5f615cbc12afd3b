"""A host name that cannot be one is an error like any other: no traceback at the start, no end of what runs."""

import socket

import pytest

from dispatcher.core.errors import Unreachable
from dispatcher.infra.event_loop import EventLoop
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget

NAMES = ["a..b", "x" * 70 + ".example"]


@pytest.mark.parametrize("name", NAMES)
async def test_it_is_said(name: str) -> None:
    with pytest.raises(Unreachable, match=r"cannot be resolved .*label (empty|too long)"):
        await connect(PostgresTarget(f"postgresql://u:pw@{name}/db", "test"), "test")
    target = RedisTarget.parse(f"redis://{name}:6379/0")
    redis = RedisConnection(target, name="n", streams=("s",), connect_timeout_s=30.0, on_lost=lambda why: None)
    with pytest.raises(Unreachable, match=r"label (empty|too long)"):
        await redis.connect()


@pytest.mark.parametrize("name", NAMES)
def test_our_loop_answers_as_for_a_name_that_nobody_knows(name: str) -> None:
    loop = EventLoop()
    try:
        with pytest.raises(socket.gaierror):
            loop.run_until_complete(loop.getaddrinfo(name, 80))
    finally:
        loop.close()
