"""Events are frozen values, the log has a line for each, and observers hear each of them in order."""

import dataclasses
from typing import Any

import pytest

from dispatcher.core import events
from dispatcher.core.events import Observer, TelemetryEvent, Woke, fan_out

KINDS: list[Any] = [
    kind for kind in vars(events).values() if isinstance(kind, type) and TelemetryEvent in kind.__mro__[1:]
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_says_its_line_of_the_log_or_is_logged_with_its_details(kind: Any) -> None:
    assert "line" in vars(kind) or kind.detailed


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_frozen_and_says_what_it_means(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


def test_no_event_carries_a_payload() -> None:
    names = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    assert not names & {"payload", "headers", "aggregate_id", "password"}


def test_each_observer_hears_each_event_in_order() -> None:
    heard: list[tuple[str, TelemetryEvent]] = []

    def listener(name: str) -> Observer:
        return lambda event: heard.append((name, event))

    observe = fan_out(listener("first"), listener("second"))
    observe(Woke("tick"))
    observe(Woke("notify"))
    assert heard == [
        ("first", Woke("tick")),
        ("second", Woke("tick")),
        ("first", Woke("notify")),
        ("second", Woke("notify")),
    ]


def test_nobody_may_be_listening() -> None:
    fan_out()(Woke("tick"))
