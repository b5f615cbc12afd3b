"""Traces of OpenTelemetry: the context of a span in the headers of an event, and the span of its work.

The names are those of the semantic conventions for messaging. Nothing of OpenTelemetry is imported until the
application has imported it: before that no span can be current, and nobody would record one. Only a context that was
sampled gets spans. A span holds no payload, no other header, and no text of an exception.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

API = "opentelemetry.trace"
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)")
_IN_JSON = re.compile(r'"traceparent"\s*:\s*"([0-9a-f-]{55,200})"')
_STATE_IN_JSON = re.compile(r'"tracestate"\s*:\s*"([^"\\]{1,512})"')
_ODD = frozenset("13579bdf")  # the last digit of the flags of what was sampled
_SHARD = re.compile(r"(.*):\{(\d+)\}")
NO_SPAN = nullcontext()


@dataclass(frozen=True, slots=True)
class Parent:
    """The context of a span that was sampled."""

    trace_id: int
    span_id: int
    state: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """What a span says of an event. `destination`: the key of its stream, or the table."""

    system: str
    destination: str
    event_id: str
    event_type: str
    group: str = ""
    entry_id: str = ""  # "": it has none, or not yet

    def attributes(self, operation: str) -> dict[str, str]:
        """By the conventions."""
        found = _SHARD.fullmatch(self.destination)
        said = {
            "messaging.system": self.system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": found[1] if found else self.destination,
            "messaging.message.id": self.event_id,
            "outbox.event_type": self.event_type,
        }
        if found:
            said["messaging.destination.partition.id"] = found[2]
        if self.entry_id:
            said["outbox.entry_id"] = self.entry_id
        if self.group:
            said["messaging.consumer.group.name"] = self.group
        return said


def with_current_span(headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The headers, and `traceparent` and `tracestate` of the current span, if there is one and they have none."""
    api: Any = sys.modules.get(API)
    if api is None or (headers and "traceparent" in headers):
        return headers
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return headers
    carried = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        carried["tracestate"] = context.trace_state.to_header()
    return {**carried, **(headers or {})}


def parent_of(headers: Mapping[str, Any] | None) -> Parent | None:
    """The sampled context that an event carries."""
    if not headers or not isinstance(given := headers.get("traceparent"), str):
        return None
    state = headers.get("tracestate")
    return _parent(given, state if isinstance(state, str) else "")


def parent_in(text: str | None) -> Parent | None:
    """The same of headers that are JSON text, which is not parsed. Cheap where nothing was sampled."""
    if text is None or (at := text.find('"traceparent"')) < 0:
        return None
    value = text.find('"', at + 13)
    if text[value + 55 : value + 56] not in _ODD or (found := _IN_JSON.match(text, at)) is None:
        return None
    state = _STATE_IN_JSON.search(text)
    return _parent(found[1], state[1] if state else "")


def processing(
    parent: Parent, message: Message, *, no_error: type[Exception] | tuple[type[Exception], ...] = ()
) -> AbstractContextManager[object]:
    """A span `process` around the work on an event, which is the current one: a child of its producer's, with a link.

    `no_error`: exceptions that say that nothing went wrong.
    """
    if API not in sys.modules:
        return NO_SPAN
    return _processing(parent, message, no_error)


@contextmanager
def _processing(
    parent: Parent, message: Message, no_error: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    from opentelemetry import trace

    context = context_of(parent)
    with trace.get_tracer("outbox-dispatcher").start_as_current_span(
        name_of("process", message),
        trace.set_span_in_context(trace.NonRecordingSpan(context)),
        trace.SpanKind.CONSUMER,
        message.attributes("process"),
        [trace.Link(context)],
        record_exception=False,  # its text may quote the payload
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except BaseException as error:
            if not isinstance(error, no_error):
                note_error(span, type(error).__qualname__)
            raise


def name_of(operation: str, message: Message) -> str:
    """The name of a span: few in number, so without the shard."""
    found = _SHARD.fullmatch(message.destination)
    return f"{operation} {found[1] if found else message.destination}"


def context_of(parent: Parent) -> Any:
    """The same as OpenTelemetry has it."""
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([parent.state]) if parent.state else TraceState()
    return SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(TraceFlags.SAMPLED), state)


def note_error(span: Any, kind: str) -> None:
    """Say that it failed, and the class of the error."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _parent(text: str, state: str) -> Parent | None:
    found = _PARENT.match(text)
    if found is None or not int(found[3], 16) & 1:
        return None
    return Parent(int(found[1], 16), int(found[2], 16), state)
