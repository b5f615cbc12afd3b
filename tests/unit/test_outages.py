"""dispatcher.core.outages: errors that no test can make a server raise, by the shape in which drivers raise them."""

import errno
import socket
import sqlite3

import pytest

from dispatcher.core.outages import (
    NEEDS_A_PERSON,
    PASSING,
    WRONG_SERVER,
    is_outage,
    is_postgres_outage,
    is_redis_outage,
    is_wrong_server,
    needs_a_person,
    passes_by_itself,
    tells_nothing,
)

AWAY = (
    "08000", "08006", "08P01", "28000", "28P01", "53100", "53200",
    "53300", "25006", "3D000", "57P01", "57P03",
)  # fmt: skip
OWN = (
    "57014", "25P02", "25P03", "25P04", "40001", "40P01", "55P03",
    "55006", "23505", "22012", "42501", "42P01", "P0001", "XX000",
)  # fmt: skip


@pytest.mark.parametrize(
    "sqlstate",
    AWAY,
)
def test_the_server_or_the_connection(sqlstate: str) -> None:
    assert is_postgres_outage(sqlstate)


@pytest.mark.parametrize(
    "sqlstate",
    OWN,
)
def test_the_events_own(sqlstate: str) -> None:
    assert not is_postgres_outage(sqlstate)


def test_no_code_is_in_two_lists() -> None:
    assert not PASSING & NEEDS_A_PERSON
    assert WRONG_SERVER <= PASSING


@pytest.mark.parametrize(
    "reply",
    [
        "ERR max number of clients reached",
        "ERR upstream connect error or disconnect/reset before headers",
        "ERR Connection timed out",
        "LOADING Valkey is loading the dataset in memory",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "MOVED 3999 127.0.0.1:6381",
    ],
)
def test_what_passes(reply: str) -> None:
    assert passes_by_itself(reply)
    assert not needs_a_person(reply)
    assert is_redis_outage(reply)


def test_an_old_primary_keeps_its_connections_so_ours_is_closed() -> None:
    assert is_wrong_server(
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
    )
    assert is_wrong_server("ERR Error writing to a replica")
    assert not is_wrong_server("BUSY Redis is busy running a script.")


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (TimeoutError(), False),
        (FileNotFoundError(), False),
        (sqlite3.OperationalError("no such table: a"), False),
        (LookupError(), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_errors_of_the_system(error: BaseException, away: bool) -> None:
    assert is_outage(error) is away


def test_what_a_handler_makes_of_an_outage_is_its_own() -> None:
    error = LookupError()
    error.__cause__ = ConnectionRefusedError()
    assert not is_outage(error)


@pytest.mark.parametrize(
    ("reply", "nothing"),
    [
        ("NOPERM User app has no permissions to run the 'info' command", True),
        ("ERR handle request, command 'INFO' is not allowed", True),
        ("ERR invalid request", True),
        ("ERR handle response, i/o timeout", False),
        ("ERR no such key", False),
        ("LOADING Redis is loading the dataset in memory", False),
        ("NOAUTH Authentication required.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_who_tells_nothing_is_told_from_an_outage(reply: str, nothing: bool) -> None:
    assert tells_nothing(reply) is nothing
