"""Which function of an application handles which event types, and for how long and how often it may try."""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from dispatcher.client.arguments import require_handler
from dispatcher.core.durations import no_timedelta

REMEMBERED = 1_000  # at most so many event types; then all are looked up again
MOST_SAID = 100  # event types without a function are logged: a producer may have no end of them
MOST_NAMED = 20  # patterns in one line

log = logging.getLogger("dispatcher.client")


@dataclass(frozen=True, slots=True)
class FunctionRoute:
    """One function. `timeout_s`: None: it takes as long as it takes. `attempts`: None: as the group has it."""

    function: Callable[..., Any]
    timeout_s: float | None = None
    attempts: int | None = None


class FunctionRoutes:
    """The functions of one consumer, by patterns of event types; the first that fits handles an event."""

    def __init__(self, group: str, *, asynchronous: bool) -> None:
        self._group = group
        self._asynchronous = asynchronous
        self._by_pattern: list[tuple[str, FunctionRoute]] = []
        self._rest: FunctionRoute | None = None  # for what no pattern fits
        self._found: dict[str, FunctionRoute | None] = {}
        self._said: set[str] = set()  # types that no function handles

    def add(self, patterns: tuple[str, ...], route: FunctionRoute) -> None:
        """Raises TypeError for what is no event type, or a function of the wrong kind; ValueError for a limit."""
        if not patterns or "" in patterns or callable(patterns[0]):
            raise TypeError('on() needs the event types to handle: @consumer.on("order.created", "invoice.*")')
        require_handler(route.function, asynchronous=self._asynchronous)
        if route.attempts is not None and route.attempts < 1:
            raise ValueError("attempts must be 1 or more")
        if route.timeout_s is not None and route.timeout_s <= 0:
            raise ValueError("timeout must be more than nothing")
        self._by_pattern += [(pattern, route) for pattern in patterns]
        self._found.clear()

    def complete(self, handle: Callable[..., Any] | None) -> None:
        """What run() was given handles the rest. Raises TypeError when there is nothing that handles anything."""
        if handle is None and not self._by_pattern:
            raise TypeError('the function is missing: give one to run(), or write @consumer.on("order.*") above one')
        if handle is not None:
            require_handler(handle, asynchronous=self._asynchronous)
        self._rest = None if handle is None else FunctionRoute(handle)
        self._found.clear()

    def find(self, event_type: str) -> FunctionRoute | None:
        """What handles this type; None: nothing, and its events are acknowledged, which the log says once."""
        if event_type not in self._found:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            fits = (route for pattern, route in self._by_pattern if fnmatchcase(event_type, pattern))
            found = next(fits, self._rest)
            if found is None:
                self._say_unhandled(event_type)
            self._found[event_type] = found
        return self._found.get(event_type, self._rest)

    def _say_unhandled(self, event_type: str) -> None:
        """A misspelt name under on() would acknowledge every event of its type, and nobody would know."""
        if event_type in self._said or len(self._said) >= MOST_SAID:
            return
        self._said.add(event_type)
        patterns = [pattern for pattern, _ in self._by_pattern]
        close = difflib.get_close_matches(event_type, patterns, n=1, cutoff=0.8)
        log.warning(
            "events of the type %s are acknowledged and not handled: on() of the group %s names %s%s",
            event_type,
            self._group,
            ", ".join(patterns[:MOST_NAMED]) + (" ..." if len(patterns) > MOST_NAMED else ""),
            f"; is {close[0]} misspelt?" if close else "",
        )

    def max_deliveries(self, event_type: str) -> int | None:
        """How many deliveries its function has; None: as many as the group says."""
        route = self.find(event_type)
        return None if route is None else route.attempts


def seconds_of(timeout: object) -> float | None:
    """A limit in seconds. Raises TypeError for a number, of which nobody knows the unit."""
    if not isinstance(timeout, timedelta | None):
        raise TypeError(no_timedelta("timeout", timeout))
    return timeout.total_seconds() if isinstance(timeout, timedelta) else None
