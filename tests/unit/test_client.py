"""What dispatcher.client promises without a server: nothing heavy is imported, nothing private is shown."""

import json
import subprocess
import sys
from datetime import date, datetime
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest

from dispatcher.client import Event

HEAVY = {"aiohttp", "anyio", "click", "django", "loguru", "prometheus_client", "rich", "sqlalchemy"}
LIBRARIES = {"alembic", "asyncpg", "django", "msgspec", "opentelemetry", "psycopg", "pydantic", "redis", "sqlalchemy"}


def test_an_event_shows_no_payload() -> None:
    assert "secret" not in repr(Event(event_type="a", aggregate_id="b", payload="secret", headers={"secret": "x"}))


class Color(str, Enum):  # noqa: UP042 -- of which str() makes "Color.RED"
    RED = "red"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregate_id": None},
        {"aggregate_id": b"1"},
        {"aggregate_id": ("1",)},
        {"aggregate_id": True},
        {"aggregate_id": 1.0},
        {"event_type": None},
        {"event_type": b"a"},
        {"aggregate_type": None},
        {"event_id": None},
        {"message_id": 1},
        {"headers": "a"},
        {"headers": [("a", "b")]},
        {"next_run_at": "2025-06-01T12:00:00Z"},
        {"next_run_at": date(2025, 6, 1)},
    ],
    ids=repr,
)
def test_an_event_refuses_what_would_be_published_as_something_else(wrong: dict[str, Any]) -> None:
    fields = {"event_type": "a", "aggregate_id": "b", "payload": {}} | wrong
    with pytest.raises(TypeError, match=next(iter(wrong))) as refused:
        Event(**fields)
    if wrong == {"aggregate_id": None}:
        assert "session.flush()" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "written"),
    [("1", "1"), (1, "1"), (UUID(int=1), str(UUID(int=1))), (Color.RED, "red"), (Number.ONE, "1")],
)
def test_an_id_is_written_as_its_text(given: Any, written: str) -> None:
    assert Event(event_type="a", aggregate_id=given, payload=1).parameters()["aggregate_id"] == written


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("event_id", "secret"),
        ("message_id", "secret"),
        ("aggregate_id", "\ud800"),
        ("event_type", "\udfff"),
        ("event_type", ""),
        ("aggregate_type", "a\0"),
        ("aggregate_id", "a" * 1_000_000),
        ("next_run_at", datetime(2099, 1, 1)),
    ],
)
def test_what_no_server_would_take_is_refused_when_it_is_made(name: str, wrong: object) -> None:
    fields: dict[str, Any] = {"event_type": "a", "aggregate_id": "b", "payload": {}} | {name: wrong}
    with pytest.raises(ValueError, match=name) as refused:
        Event(**fields)
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_headers_are_what_a_consumer_reads() -> None:
    """Any JSON, as Received.headers and those of a handler's event are typed."""
    event = Event(event_type="a", aggregate_id="b", payload={}, headers={"a": 1, "b": ["c"]})
    assert json.loads(str(event.parameters()["headers"])) == {"a": 1, "b": ["c"]}


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    names = "dispatcher.client, dispatcher.client.inbox, dispatcher.client.consumer"
    program = f"import sys, {names}\nprint(sorted({HEAVY} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (shown.stdout, shown.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("module", "loads"),
    [
        ("dispatcher.client", set()),
        ("dispatcher.client.asyncpg", {"asyncpg"}),
        ("dispatcher.client.sqlalchemy", {"sqlalchemy"}),
        ("dispatcher.client.alembic", set()),
        ("dispatcher.client.django", {"django"}),
        ("dispatcher.client.inbox", {"psycopg"}),
        ("dispatcher.client.consumer", {"redis"}),
        ("dispatcher.client.dedup", {"redis"}),
        ("dispatcher.client.tail", {"redis"}),
        ("dispatcher.handlers", set()),
    ],
)
def test_a_module_loads_its_own_library_only(module: str, loads: set[str]) -> None:
    program = f"import sys, {module}\nprint(*sorted({LIBRARIES} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    of_redis = {"opentelemetry"} if "redis" in loads else set()  # redis-py loads that itself, where it is installed
    assert (set(shown.stdout.split()) - of_redis, shown.stderr) == (loads, "")
