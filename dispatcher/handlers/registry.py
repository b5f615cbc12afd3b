"""`@handler`: says in the code which function handles an event type."""

from collections.abc import Callable
from typing import Any, TypeVar

from dispatcher.handlers import outages as known

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

REGISTERED: dict[str, Handler] = {}  # of every module that was imported; this and the next are written by handler()
OUTAGES: dict[str, known.Outages] = {}  # of those that were registered with some


def handler(*event_types: str, outages: known.Outages = ()) -> Callable[[F], F]:
    """Handle these event types with the function below. Raises ValueError when one of them has a handler already.

    `outages`: what it raises when a server that it needs is away: exception classes, or a function that takes the
    exception; those of database drivers and sockets are known. The event then waits at no cost, and other events of its
    type with it, until one gets through.
    """
    if wrong := known.check(outages):
        raise ValueError(wrong)
    if not event_types or callable(event_types[0]) or not all(event_types):
        raise ValueError('@handler needs the event types it handles: @handler("order.created")')

    def register(function: F) -> F:
        for event_type in event_types:
            other = REGISTERED.setdefault(event_type, function)
            if other is not function:
                raise ValueError(f"two handlers for {event_type!r}: {described(other)} and {described(function)}")
            OUTAGES[event_type] = outages
        return function

    return register


def described(function: Handler) -> str:
    """module.name of a handler, for messages."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"
