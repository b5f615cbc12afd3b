"""A consumer takes one event, without a stream: the same routes, limits and store as in run()."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from dispatcher.client.consumer import AsyncConsumer, Consumer
from dispatcher.client.event import Event
from dispatcher.client.received import Received
from dispatcher.client.steps import CallApplication
from dispatcher.testing.published import event_of

RunOutcome = Literal["handled", "known", "ignored"]


def run_one(
    consumer: Consumer, event: Event | Received, handle: Callable[[Received], None] | None = None
) -> RunOutcome:
    """Give the consumer one event, as run(handle) would; nothing is read from Redis or acknowledged there.

    "known": its dedup store has the event, and nothing was called; "ignored": no function handles this type, and run()
    would acknowledge it. Raises what the function raises, Retry, Wait and Dead too.
    """
    consumer._routes.complete(handle)
    one = event if isinstance(event, Received) else received(event)
    if consumer._dedup is not None and consumer._handle(CallApplication("has", one)):
        return "known"
    consumer._handle(CallApplication("handle", one))
    if consumer._dedup is not None:
        consumer._handle(CallApplication("add", one))
    return "handled" if consumer._routes.find(one.event_type) else "ignored"


async def run_one_async(
    consumer: AsyncConsumer, event: Event | Received, handle: Callable[[Received], Awaitable[None]] | None = None
) -> RunOutcome:
    """The same for an AsyncConsumer; a timeout of the function's raises FunctionTooSlow."""
    consumer._routes.complete(handle)
    one = event if isinstance(event, Received) else received(event)
    if consumer._dedup is not None and await consumer._handle(CallApplication("has", one)):
        return "known"
    await consumer._handle(CallApplication("handle", one))
    if consumer._dedup is not None:
        await consumer._handle(CallApplication("add", one))
    return "handled" if consumer._routes.find(one.event_type) else "ignored"


def received(event: Event) -> Received:
    """An event as a consumer gets it, without a database between. Raises ValueError for what could not be added."""
    found = event.parameters()
    return event_of(
        event.event_id, event.message_id, str(found["event_type"]), str(found["aggregate_type"]),
        str(found["aggregate_id"]), str(found["payload"]), None if found["headers"] is None else str(found["headers"]),
        datetime.now(UTC),
    )  # fmt: skip
