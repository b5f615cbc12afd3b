"""Traces with the real OpenTelemetry: from a producer's span through the dispatcher to consumers and handlers."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from redis import asyncio as aio

from dispatcher.client import Event, add_event_async, add_events_async
from dispatcher.core.parse import parse
from dispatcher.infra.traces import parent_in, parent_of
from tests.support.child import OURS, Child, StartCli
from tests.support.otlp import Collector
from tests.support.readme import blocks, code, page
from tests.support.rows import STREAM, read_stream, read_table
from tests.support.waiting import until

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
SAMPLED = f"00-{TRACE:032x}-{SPAN:016x}-01"
PATIENCE_S = 60


@contextmanager
def span(*, sampled: bool = True, state: str = "") -> Iterator[None]:
    """A current span, such as the application's framework makes."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    found = SpanContext(TRACE, SPAN, False, flags, TraceState.from_header([state]) if state else None)
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(found)))
    try:
        yield
    finally:
        context.detach(token)


def event(aggregate_id: int = 1, *, event_type: str = "order.created", **fields: Any) -> Event:
    return Event(event_type=event_type, aggregate_id=aggregate_id, payload={"card": "4111-1111-1111-1111"}, **fields)


async def headers_of(db: psycopg.AsyncConnection[Any]) -> list[Any]:
    return [row["headers"] for row in await read_table(db)]


async def test_the_current_span_goes_along(db: psycopg.AsyncConnection[Any]) -> None:
    async with db.transaction():
        await add_event_async(db, event())
        with span(state="vendor=1"):
            await add_event_async(db, event())
            await add_events_async(db, [event(headers={"tenant": "a"}), event(headers={"traceparent": "mine"})])
        with span(sampled=False):
            await add_event_async(db, event())
    carried = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
    assert await headers_of(db) == [
        None,
        carried,
        carried | {"tenant": "a"},
        {"traceparent": "mine"},
        {"traceparent": SAMPLED[:-1] + "0"},
    ]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00-1-2-01",
        SAMPLED[:-1] + "0",
        SAMPLED.replace(f"{TRACE:032x}", "0" * 32),
        SAMPLED.replace(f"{SPAN:016x}", "0" * 16),
        "ff" + SAMPLED[2:],
        SAMPLED.upper(),
        SAMPLED + "x",
        7,
    ],
)
def test_what_is_no_sampled_parent(given: object) -> None:
    headers = {"traceparent": given}
    assert parent_of(headers) is None
    assert parent_in(json.dumps(headers)) is None


def test_a_sampled_parent_is_found_in_text_and_in_a_mapping() -> None:
    for more in ({}, {"tracestate": "a=1,b=2"}, {"x": 'traceparent": "00-'}):
        headers = {**more, "traceparent": SAMPLED}
        found = parent_of(headers)
        assert found == parent_in(json.dumps(headers)) == parent_in(json.dumps(headers, separators=(",", ":")))
        assert found is not None
        assert (found.trace_id, found.span_id, found.state) == (TRACE, SPAN, more.get("tracestate", ""))
    assert parent_of(None) is parent_in(None) is parent_in("{}") is None


async def started(cli: StartCli, database_url: str, redis_url: str, url: str, *flags: str, **more: Any) -> Child:
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DISPATCHER_ENABLED": "true",
        "DISPATCH_OTEL": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    cwd = more.pop("cwd", None)
    child = await cli("run", *flags, env=env | more, cwd=cwd)
    await child.ready()
    return child


async def test_a_span_for_each_event_that_was_sent_and_sampled(
    cli: StartCli, db: psycopg.AsyncConnection[Any], redis: "aio.Redis", database_url: str, redis_url: str,
    collector: Collector,
) -> None:  # fmt: skip
    child = await started(cli, database_url, redis_url, collector.url)
    async with db.transaction():
        with span(sampled=False):
            await add_event_async(db, event())
        await add_event_async(db, event())
        with span():
            ids = await add_events_async(db, [event(number, headers={"secret": "token"}) for number in range(3)])
    sent = await collector.named(f"send {STREAM}", 3)
    assert await child.terminate() == 0
    assert len(collector.spans) == 3
    assert {(each.kind, each.trace_id, each.parent_id, each.service) for each in sent} == {
        (3, f"{TRACE:032x}", f"{SPAN:016x}", "outbox-dispatcher")
    }
    entries = {entry["event_id"]: entry for entry in await read_stream(redis, STREAM)}
    assert len(entries) == 5
    for each, event_id in zip(sorted(sent, key=lambda one: ids.index(_uuid(one))), ids, strict=True):
        entry_id = each.attributes.pop("outbox.entry_id")
        assert "-" in entry_id
        assert each.attributes == {
            "messaging.system": "redis",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": STREAM,
            "messaging.message.id": str(event_id),
            "outbox.event_type": "order.created",
        }
        assert 0 <= each.seconds < PATIENCE_S
    assert b"4111-1111-1111-1111" not in collector.raw
    assert b"token" not in collector.raw


def _uuid(one: Any) -> Any:
    import uuid

    return uuid.UUID(one.attributes["messaging.message.id"])


@pytest.mark.parametrize("answers", [503, 400, None])
async def test_a_collector_that_is_away_harms_nothing(
    cli: StartCli, db: psycopg.AsyncConnection[Any], redis: "aio.Redis", database_url: str, redis_url: str,
    collector: Collector, answers: int | None,
) -> None:  # fmt: skip
    """Also at the stop, which waits for it no longer than it says."""
    collector.answers = answers
    child = await started(cli, database_url, redis_url, collector.url.replace("//", "//user:hunter2@"))
    async with db.transaction():
        with span():
            await add_events_async(db, [event(number) for number in range(20)])
    await until(lambda: _all_sent(redis, 20), "all are sent", PATIENCE_S)
    if answers is not None:
        await child.line("spans_dropped")
    else:
        await until(lambda: collector.asked > 0, "the collector is asked", PATIENCE_S)
    assert await child.terminate() == 0
    assert "hunter2" not in child.output
    assert "Traceback" not in child.output


async def _all_sent(redis: "aio.Redis", count: int) -> bool:
    return int(await redis.xlen(STREAM)) == count


HANDLERS = """
import asyncio
from opentelemetry import trace
from dispatcher.handlers import handler

@handler("in a thread")
def in_a_thread(payload):
    with trace.get_tracer("shop").start_as_current_span("inner"):
        pass

@handler("on the loop")
async def on_the_loop(payload):
    await asyncio.to_thread(int)
    with trace.get_tracer("shop").start_as_current_span("inner"):
        pass

@handler("fails", attempts=1)
def fails(payload):
    raise LookupError("4111-1111-1111-1111")
"""


async def test_handlers_run_in_a_span(
    cli: StartCli, db: psycopg.AsyncConnection[Any], database_url: str, redis_url: str, collector: Collector,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "shop.py").write_text(HANDLERS)
    child = await started(cli, database_url, redis_url, collector.url, "--handlers=shop", cwd=tmp_path)
    async with db.transaction():
        await add_event_async(db, event(event_type="in a thread"))  # not sampled
        with span():
            for kind in ("in a thread", "on the loop", "fails"):
                await add_event_async(db, event(event_type=kind))
    process = await collector.named("process messaging.message_outbox", 3)
    inner = await collector.named("inner", 3)
    assert await child.terminate() == 0
    by_type = {each.attributes["outbox.event_type"]: each for each in process}
    assert len(by_type) == len(process) == 3
    for each in process:
        assert (each.kind, each.trace_id, each.parent_id) == (5, f"{TRACE:032x}", f"{SPAN:016x}")
        assert each.links == [f"{SPAN:016x}"]
        assert each.failed == (each.attributes["outbox.event_type"] == "fails")
    assert by_type["fails"].attributes["error.type"] == "LookupError"
    children = {each.parent_id for each in inner}
    assert {by_type["in a thread"].span_id, by_type["on the loop"].span_id} <= children
    assert b"4111-1111-1111-1111" not in collector.raw


CONSUMER = """
import asyncio, os, sys, redis, redis.asyncio
from datetime import timedelta
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from dispatcher.client.consumer import AsyncConsumer, Consumer, Group
from dispatcher.handlers import Wait
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
seen = set()
def once(event):
    if event.event_type == "fails" and event.deliveries == 1:
        raise LookupError("4111-1111-1111-1111")
    if event.event_type == "waits" and event.event_id not in seen:
        seen.add(event.event_id)
        raise Wait(timedelta(milliseconds=10), "4111-1111-1111-1111")
    with trace.get_tracer("billing").start_as_current_span("inner"):
        pass
group = Group(stream="%s", group="billing", block_ms=100, retry_ms=10)
if sys.argv[1] == "blocking":
    Consumer(redis.Redis.from_url(os.environ["REDIS_URL"]), group).run(once)
async def handle(event):
    await asyncio.to_thread(int)
    once(event)
async def main():
    await AsyncConsumer(redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]), group).run(handle)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_consumers_handle_in_a_span(
    kind: str, cli: StartCli, db: psycopg.AsyncConnection[Any], redis: "aio.Redis", database_url: str, redis_url: str,
    collector: Collector,
) -> None:  # fmt: skip
    await started(cli, database_url, redis_url, collector.url)
    async with db.transaction():
        await add_event_async(db, event(event_type="plain"))  # not sampled
        with span():
            for name in ("plain", "fails", "waits"):
                await add_event_async(db, event(event_type=name))
    env = {**os.environ, "REDIS_URL": redis_url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    command = [sys.executable, "-c", CONSUMER % STREAM, kind]
    process = await asyncio.create_subprocess_exec(*command, env=env | {"OTEL_SERVICE_NAME": "billing"})
    try:
        found = await collector.named(f"process {STREAM}", 5)
        inner = await collector.named("inner", 4)
    finally:
        process.kill()
        await process.wait()
    assert sorted((each.attributes["outbox.event_type"], each.failed) for each in found) == [
        ("fails", False),
        ("fails", True),
        ("plain", False),
        ("waits", False),
        ("waits", False),
    ]
    entries = {entry["stream_id"]: entry["event_id"] for entry in await read_stream(redis, STREAM)}
    for each in found:
        assert (each.kind, each.trace_id, each.parent_id) == (5, f"{TRACE:032x}", f"{SPAN:016x}")
        assert (each.links, each.service) == ([f"{SPAN:016x}"], "billing")
        assert each.attributes["messaging.consumer.group.name"] == "billing"
        assert entries[each.attributes["outbox.entry_id"]] == each.attributes["messaging.message.id"]
    assert len({each.parent_id for each in inner if each.trace_id == f"{TRACE:032x}"}) == 3
    assert b"4111-1111-1111-1111" not in collector.raw


async def test_what_the_page_shows(
    cli: StartCli, db: psycopg.AsyncConnection[Any], redis: "aio.Redis", database_url: str, redis_url: str,
    collector: Collector,
) -> None:  # fmt: skip
    text = page("how-to/traces.md")
    await started(cli, database_url, redis_url, collector.url)
    env = {**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url}
    adds = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code("In the application", "python", text), env=env
    )
    assert await adds.wait() == 0
    [sent] = await collector.named(f"send {STREAM}")
    [headers] = await headers_of(db)
    assert sent.trace_id == parse(json.dumps(headers), "headers")["traceparent"].split("-")[1]
    reads = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code("A consumer", "python", text), env=env, stdout=asyncio.subprocess.PIPE
    )
    assert reads.stdout is not None
    line = (await reads.stdout.readline()).decode().split()
    reads.kill()
    await reads.wait()
    assert line == ["1", sent.trace_id]
    printed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code("See it without a collector", "python", text)),
        env=env,
        stdout=asyncio.subprocess.PIPE,
    )
    shown = json.loads((await printed.communicate())[0])
    assert (printed.returncode, shown["name"]) == (0, "POST /orders")
    assert shown["context"]["trace_id"].removeprefix("0x") in json.dumps((await headers_of(db))[-1])
    [shell] = blocks("The dispatcher", "sh", text)
    assert "DISPATCH_OTEL=true" in shell


async def test_spans_on_the_console_go_to_standard_output_and_the_log_to_the_other(
    db: psycopg.AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DISPATCH_OTEL": "true",
        "DISPATCH_HTTP_HOST": "127.0.0.1",
        "DISPATCH_HTTP_PORT": "0",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    async with db.transaction():
        with span():
            await add_event_async(db, event())
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dispatcher", "run", "--enabled"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    first = await asyncio.wait_for(child.stdout.readline(), PATIENCE_S)
    child.terminate()
    out, err = await child.communicate()
    assert json.loads(first + out)["name"] == f"send {STREAM}"
    assert {"dispatcher_started", "dispatcher_stopped"} <= {json.loads(line)["event"] for line in err.splitlines()}


async def test_what_cannot_be_is_named(cli: StartCli, database_url: str, redis_url: str) -> None:
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DISPATCHER_ENABLED": "true",
        "DISPATCH_OTEL": "true",
        "OTEL_TRACES_EXPORTER": "jaegr",
    }
    child = await cli("run", env=env)
    await child.line("there is no exporter 'jaegr'")
    assert await child.wait() == 2
