"""The spans of the relay, and their export: for events whose producer's span was sampled (DISPATCH_OTEL).

The relay only puts a few values into a queue. A thread makes the spans, OpenTelemetry's own exports them; when nobody
takes them, or they come too fast, they are dropped.
"""

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

import anyio

from dispatcher.core.decide import Refused, Reply
from dispatcher.core.entry import EntryFormat, EntryFormats
from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Observer, SpansDropped
from dispatcher.core.install import how_to_install
from dispatcher.core.outages import redis_code
from dispatcher.core.row import Batch
from dispatcher.infra.traces import Message, Parent, context_of, name_of, note_error, parent_in

MOST_WAITING = 10_000  # spans that the thread has not made yet
FLUSH_S = 2.0  # what the export gets at a stop
INSTALL = how_to_install("otel")


class _Sent(NamedTuple):
    parent: Parent
    message: Message
    entry_id: str
    began_ns: int
    ended_ns: int
    error: str | None


class SendSpans:
    """A span `send` for each event that was published, or refused, and whose producer's span was sampled."""

    def __init__(self, entry: EntryFormat | EntryFormats, provider: Any, dropped: Callable[[int, str], None]) -> None:
        self._entry = entry
        self._provider = provider
        self._dropped = dropped
        self._ended = threading.Event()
        self._waiting: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        threading.Thread(target=self._make, name="traces", daemon=True).start()

    def __call__(self, batch: Batch, replies: Sequence[Reply]) -> None:
        """Note what Redis answered just now, in the order of the rows."""
        ended_ns = began_ns = 0
        too_many = 0
        for row, reply in zip(batch.rows, replies, strict=True):
            if row.headers is None or (parent := parent_in(row.headers)) is None:
                continue
            if not isinstance(reply, bytes | Refused):
                continue
            if not ended_ns:
                ended_ns = time.time_ns()
                began_ns = ended_ns - int((time.monotonic() - batch.claimed_at) * 1e9)
            if self._waiting.qsize() >= MOST_WAITING:
                too_many += 1
                continue
            entry = self._entry if isinstance(self._entry, EntryFormat) else self._entry.of(row)
            message = Message("redis", entry.stream, row.event_id, row.event_type)
            entry_id, error = (reply.decode(), None) if isinstance(reply, bytes) else ("", redis_code(reply.text))
            self._waiting.put(_Sent(parent, message, entry_id, began_ns, ended_ns, error))
        if too_many:
            self._dropped(too_many, "more spans than one thread can make")

    async def close(self, patience_s: float = FLUSH_S) -> None:
        """Make and export what waits, at most for so long."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._waiting.put(None)
            self._ended.wait(patience_s)
            self._provider.shutdown()
            _tell(loop, done.set)

        threading.Thread(target=flush, name="flush of traces", daemon=True).start()
        with anyio.move_on_after(patience_s):
            await done.wait()

    def _make(self) -> None:
        from opentelemetry import trace

        tracer = self._provider.get_tracer("outbox-dispatcher")
        while (sent := self._waiting.get()) is not None:
            attributes = sent.message.attributes("send")
            if sent.entry_id:
                attributes["outbox.entry_id"] = sent.entry_id
            span = tracer.start_span(
                name_of("send", sent.message),
                trace.set_span_in_context(trace.NonRecordingSpan(context_of(sent.parent))),
                trace.SpanKind.CLIENT,  # PRODUCER is the one whose context the message carries
                attributes,
                start_time=sent.began_ns,
            )
            if sent.error:
                note_error(span, sent.error)
            span.end(sent.ended_ns)
        self._ended.set()


def start(entry: EntryFormat | EntryFormats, observe: Observer) -> SendSpans:
    """Begin to make spans, and to export them as the OTEL_ variables say. Call it in the event loop.

    Raises Misconfigured when OpenTelemetry is not installed, or a variable of its cannot be.
    """
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise Misconfigured(f"DISPATCH_OTEL is true, and OpenTelemetry is not installed; run: {INSTALL}")
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What the exporters log may hold the URL with its password; that spans are dropped is an event of ours.
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    loop = asyncio.get_running_loop()  # observers are of its thread

    def dropped(spans: int, why: str) -> None:
        _tell(loop, lambda: observe(SpansDropped(spans, why)))

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        resource = Resource.create({} if named else {"service.name": "outbox-dispatcher"})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in exporters(os.environ):
            provider.add_span_processor(BatchSpanProcessor(_watched(_exporter(name), dropped)))
    except (ValueError, TypeError) as error:
        raise Misconfigured(
            f"DISPATCH_OTEL: OpenTelemetry refuses an OTEL_ variable ({type(error).__name__})"
        ) from None
    trace.set_tracer_provider(provider)  # for handlers
    return SendSpans(entry, provider, dropped)


def exporters(env: Mapping[str, str]) -> list[str]:
    """The names of the exporters that OTEL_TRACES_EXPORTER asks for, as packages register them."""
    protocol = (
        env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [name.strip() for name in (env.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


def _exporter(name: str) -> Any:
    found = list(metadata.entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise Misconfigured(
            f"DISPATCH_OTEL: there is no exporter {name!r} (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL); "
            f"install its package, or for otlp over HTTP: {INSTALL}"
        )
    return found[0].load()()


def _watched(exporter: Any, dropped: Callable[[int, str], None]) -> Any:
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Watched:
        """A SpanExporter. Whatever the other does, spans that it did not export are told, and nothing else happens."""

        def export(self, spans: Sequence[Any]) -> Any:
            try:
                result = exporter.export(spans)
            except Exception as error:
                dropped(len(spans), type(error).__name__)
                return SpanExportResult.FAILURE
            if result is not SpanExportResult.SUCCESS:
                dropped(len(spans), "the exporter could not send them")
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return bool(exporter.force_flush(timeout_millis))

    return Watched()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
        loop.call_soon_threadsafe(call)
