"""What a consumer or a Tail says of a stream that is not there, and of a Redis that does not answer."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis as sync
from redis import asyncio as aio

from dispatcher.embedded.ports import free_port
from tests.integration.test_client_tail import watching
from tests.support.consumers import GROUP, consuming, group, logged, publish
from tests.support.rows import STREAM

both_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio"])
reads = pytest.mark.parametrize("tail", [False, True], ids=["consumer", "tail"])
MISSPELT = "right before the first event; else compare it with the dispatchers' DISPATCH_STREAM_NAME"


@contextlib.asynccontextmanager
async def reading(kind: str, url: str, caplog: pytest.LogCaptureFixture, *, tail: bool) -> AsyncIterator[Any]:
    caplog.set_level(logging.INFO, "dispatcher.client")
    async with watching(kind, url, after="0") if tail else consuming(kind, url, group()) as running:
        yield running


@both_kinds
@reads
async def test_a_stream_that_is_not_there_may_be_misspelt(
    kind: str, tail: bool, redis: "aio.Redis", redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Group(stream="sanctum:message") made a stream of that name, and waited for ever without a word."""
    said = f"{STREAM} has no entry: {MISSPELT}" if tail else f"{STREAM} was not in Redis, and is made: {MISSPELT}"
    async with reading(kind, redis_url, caplog, tail=tail) as running:
        await logged(caplog, said)
        await publish(redis, "first")
        await running.next()
    await redis.xgroup_destroy(STREAM, GROUP)
    caplog.clear()
    async with reading(kind, redis_url, caplog, tail=tail) as running:  # it is there now
        await publish(redis, "second")
        await running.next()
    assert MISSPELT not in caplog.text


@both_kinds
@reads
async def test_a_redis_that_is_not_there_is_named_with_the_reason_and_without_the_password(
    kind: str, tail: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """`Redis: ConnectionError` named neither the port that was wrong nor what was wrong with it."""
    port = free_port()
    async with reading(kind, f"redis://me:secret@127.0.0.1:{port}/3", caplog, tail=tail) as running:
        await logged(caplog, f"Redis at 127.0.0.1:{port}/3: ConnectionError (Connection refused); trying again in")
        (running.tail if tail else running.consumer).stop()
    assert "secret" not in caplog.text


@both_kinds
async def test_the_address_of_a_client_has_no_password(kind: str) -> None:
    from dispatcher.client.commands import address_of

    module: Any = sync if kind == "blocking" else aio
    assert address_of(module.Redis.from_url("unix://me:secret@/tmp/none.sock?db=2")) == "/tmp/none.sock/2"  # noqa: S108
    assert address_of(module.Redis()) == "localhost:6379/0"
    sentinel = module.sentinel.Sentinel([("127.0.0.1", 1)], password="secret")
    assert address_of(sentinel.master_for("main", db=1)) == "service 'main' of the sentinels, database 1"
