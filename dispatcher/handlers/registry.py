"""`@handler`: says in the code which function handles an event type."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from dispatcher.core.durations import no_timedelta
from dispatcher.handlers import outages as known

Handler = Callable[..., Any]
F = TypeVar("F", bound=Handler)

REGISTERED: dict[str, Handler] = {}  # of every module that was imported; this and the next two are written by handler()
OUTAGES: dict[str, known.Outages] = {}  # of those that were registered with some
LIMITS: "dict[str, Limits]" = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one handler has in place of DISPATCH_HANDLER_TIMEOUT_MS and DISPATCH_MAX_ATTEMPTS; None: those."""

    timeout_s: float | None = None
    attempts: int | None = None


NO_LIMITS = Limits()


def handler(
    *event_types: str, outages: known.Outages = (), timeout: timedelta | None = None, attempts: int | None = None
) -> Callable[[F], F]:
    """Handle these event types with the function below. Raises ValueError when one of them has a handler already.

    `outages`: what it raises when a server that it needs is away: exception classes, or a function that takes the
    exception; those of database drivers and sockets are known. The event then waits at no cost, and other events of its
    type with it, until one gets through.
    `timeout` and `attempts`: in place of DISPATCH_HANDLER_TIMEOUT_MS and DISPATCH_MAX_ATTEMPTS.
    """
    limits = _limits(timeout, attempts)
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
            LIMITS[event_type] = limits
        return function

    return register


def _limits(timeout: object, attempts: int | None) -> Limits:
    if not isinstance(timeout, timedelta | None):
        raise ValueError(no_timedelta("timeout", timeout))
    if timeout is not None and timeout <= timedelta(0):
        raise ValueError("timeout must be more than nothing")
    if attempts is not None and attempts < 1:
        raise ValueError("attempts must be 1 or more")
    return Limits(None if timeout is None else timeout.total_seconds(), attempts)


def described(function: Handler) -> str:
    """module.name of a handler, for messages."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"
