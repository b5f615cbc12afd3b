"""What an operator reads: the runbook's names, one JSON object a line, and never a payload."""

import io
import json
import logging
import sys

import psycopg
import pytest
from loguru import logger

from dispatcher.core import events
from dispatcher.telemetry import logs
from dispatcher.telemetry import throttle as repeats
from dispatcher.telemetry.loguru_setup import FromLibraries

SECRET = "ciphertext-of-the-payload"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore():
    yield
    logger.remove()
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, FromLibraries)]


@pytest.fixture
def out():
    return io.StringIO()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object(out):
    observe = logs.configure("INFO", "json", stream=out)
    observe(events.Started("host-1", enabled=True))
    [line] = lines(out)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "INFO",
        "event": "dispatcher_started",
        "message": "Started",
        "dispatcher": "host-1",
        "enabled": True,
    }


@pytest.mark.parametrize(
    ("event", "name", "level"),
    [
        (events.Ticked("error", 0.1, "SessionLost"), "dispatcher_tick_error", "ERROR"),
        (events.Buried([(3, "redis: ERR x"), (4, "redis: ERR x")]), "outbox_rows_buried_after_max_attempts", "ERROR"),
        (events.Started("a", False), "dispatcher_started", "INFO"),
        (events.SidecarUp("127.0.0.1", 8080), "sidecar_up", "INFO"),
        (events.Stopping("SIGTERM"), "dispatcher_stopping", "INFO"),
        (events.Stopped(2), "dispatcher_stopped", "INFO"),
        (events.Stopped(0, "a second signal"), "dispatcher_stopped", "WARNING"),
        (events.BreakerChanged("open", "OOM"), "breaker_opened", "WARNING"),
        (events.BreakerChanged("closed", None), "breaker_closed", "INFO"),
        (events.ListenerChanged(False, "gone"), "listener_down", "WARNING"),
        (events.ListenerChanged(True, None), "listener_up", "INFO"),
        (events.NotificationQueueChanged(True, 0.6), "notification_queue_filling", "WARNING"),
        (events.NotificationQueueChanged(False, 0.1), "notification_queue_calm", "INFO"),
        (events.DatabaseChanged(False, "gone"), "database_down", "ERROR"),
        (events.DatabaseChanged(True, None), "database_up", "INFO"),
        (events.TakenOver(3, "b"), "claims_taken_over", "WARNING"),
        (events.Reconciled(3, 1), "replies_reconciled", "INFO"),
        (events.Settled(1, 0, 0, 0, 0, lost=2), "claims_lost", "WARNING"),
        (events.Pruned(3, 0), "outbox_pruned", "INFO"),
        (events.PruneRefused("InsufficientPrivilege 42501"), "prune_refused", "WARNING"),
    ],
)
def test_names_and_levels(out, event, name, level):
    logs.configure("INFO", "json", stream=out)(event)
    [line] = lines(out)
    assert (line["event"], line["level"]) == (name, level)


def test_buried_rows_are_named_with_their_errors(out):
    logs.configure("INFO", "json", stream=out)(events.Buried([(3, "redis: B"), (4, "redis: A"), (5, "redis: A")]))
    [line] = lines(out)
    assert (line["rows"], line["ids"], line["errors"]) == (3, [3, 4, 5], ["redis: A", "redis: B"])


CHATTER: list[events.TelemetryEvent] = [
    events.Woke("notify"),
    events.Slept(True, 0.1),
    events.Claimed(3, False),
    events.Published(2, [0.1, 0.2], 0.01),
    events.Settled(2, 0, 0, 0, 0, 0),
    events.Sampled(0, 0.0, 0.0, 0, {}),
    events.Ticked("ok", 0.01),
]


def test_chatter_is_silent_at_info(out):
    observe = logs.configure("INFO", "json", stream=out)
    for event in CHATTER:
        observe(event)
    assert lines(out) == []


def test_chatter_is_there_at_debug_without_the_long_lists(out):
    observe = logs.configure("DEBUG", "json", stream=out)
    for event in CHATTER:
        observe(event)
    found = lines(out)
    assert [line["event"] for line in found] == ["woke", "slept", "claimed", "published", "settled", "sampled"]
    assert "ages_s" not in found[3]


def test_a_repeated_tick_error_is_counted_not_repeated(out):
    logs.configure("INFO", "json", stream=out)
    now = 100.0
    observe = logs.Logs(debug=False, clock=lambda: now)
    for _ in range(10):
        observe(events.Ticked("error", 0.1, "SessionLost"))
    observe(events.Ticked("error", 0.1, "another"))
    now += repeats.EVERY_S
    observe(events.Ticked("error", 0.1, "SessionLost"))
    now += repeats.EVERY_S
    observe(events.Ticked("error", 0.1, "SessionLost"))
    assert [(line["error"], line.get("suppressed")) for line in lines(out)] == [
        ("SessionLost", None),
        ("another", None),
        ("SessionLost", 9),
        ("SessionLost", None),
    ]


def test_errors_that_are_never_the_same_do_not_pile_up(out):
    logs.configure("INFO", "json", stream=out)
    observe = logs.Logs(debug=False, clock=lambda: 0.0)
    for number in range(1000):
        observe(events.Ticked("error", 0.1, f"error {number}"))
    assert len(observe._repeats) <= repeats.MAX_ERRORS


def test_pruning_makes_a_line_when_it_is_done_or_takes_long(out):
    logs.configure("INFO", "json", stream=out)
    now = 100.0
    observe = logs.Logs(debug=False, clock=lambda: now)
    observe(events.Pruned(0, 0))
    for _ in range(3):
        observe(events.Pruned(1000, 2, more=True))
    assert lines(out) == []
    observe(events.Pruned(0, 0))
    observe(events.Pruned(0, 0))
    observe(events.Pruned(1000, 0, more=True))
    now += logs.PRUNED_S
    observe(events.Pruned(1000, 0, more=True))
    assert [(line["event"], line["message_outbox"], line["message_dlq"]) for line in lines(out)] == [
        ("outbox_pruned", 3000, 6),
        ("outbox_pruned", 2000, 0),
    ]


def test_each_attempt_to_reconnect_does_not_make_a_line(out):
    observe = logs.configure("INFO", "json", stream=out)
    for reason in ("refused", "refused", "refused", "password"):
        observe(events.DatabaseChanged(False, reason))
    observe(events.DatabaseChanged(True, None))
    observe(events.DatabaseChanged(False, "password"))
    assert [(line["event"], line.get("reason")) for line in lines(out)] == [
        ("database_down", "refused"),
        ("database_down", "password"),
        ("database_up", None),
        ("database_down", "password"),
    ]


def test_the_level_is_kept(out):
    observe = logs.configure("ERROR", "json", stream=out)
    observe(events.Started("a", True))
    observe(events.DatabaseChanged(False, "refused"))
    assert [line["event"] for line in lines(out)] == ["database_down"]


def test_a_line_in_the_log_cannot_be_forged(out):
    logs.configure("INFO", "json", stream=out)(events.BreakerChanged("open", 'x"\n{"event": "forged"}'))
    assert [line["event"] for line in lines(out)] == ["breaker_opened"]


def test_text_is_one_readable_line(out):
    observe = logs.configure("INFO", "text", stream=out)
    observe(events.BreakerChanged("open", "redis: OOM {command} not allowed\nsecond line"))
    [line] = out.getvalue().splitlines()
    assert line.endswith('pauses reason="redis: OOM {command} not allowed\\nsecond line"')
    assert "WARNING breaker_opened: Redis takes no entries" in line


def test_without_a_format_a_terminal_gets_text_and_anything_else_json(out):
    terminal = Terminal()
    logs.configure(stream=terminal)(events.BreakerChanged("open", "OOM"))
    assert terminal.getvalue().startswith("\x1b[33m")
    logs.configure(stream=out)(events.Stopped(0))
    assert lines(out)[0]["event"] == "dispatcher_stopped"


def test_configuring_twice_writes_once(out):
    logs.configure("INFO", "json", stream=out)
    logs.configure("INFO", "json", stream=out)(events.Stopped(0))
    logging.getLogger("psycopg").warning("something")
    assert len(lines(out)) == 2


def test_standard_error_is_the_default(capsys):
    logs.configure("INFO", "json", stream=sys.stderr)(events.Stopped(0))
    assert "dispatcher_stopped" in capsys.readouterr().err


def test_libraries_are_heard_from_warning_on(out):
    logs.configure("DEBUG", "json", stream=out)
    library = logging.getLogger("aiohttp.server")
    library.info("quiet")
    library.warning("loud %s", "enough")
    [line] = lines(out)
    assert (line["event"], line["logger"], line["message"]) == ("library_log", "aiohttp.server", "loud enough")


def test_an_applications_own_handler_hears_what_was_said(out, caplog):
    logs.configure("DEBUG", "json", stream=out)
    root = logging.getLogger()
    root.handlers.sort(key=lambda handler: not isinstance(handler, FromLibraries))  # ours is asked first
    logging.getLogger("shop").warning("refused: %s", ValueError("closed"))
    assert "refused: closed" in caplog.text
    assert lines(out)[0]["message"] == "refused: ValueError"


def test_a_librarys_traceback_shows_neither_values_nor_text(out):
    logs.configure("DEBUG", "json", stream=out)
    payload = SECRET
    try:
        raise psycopg.errors.UniqueViolation(f"duplicate key\nDETAIL: {payload}")
    except psycopg.Error as error:
        logging.getLogger("aiohttp.server").exception("Error handling request")
        logging.getLogger("psycopg").warning("error ignored in %s: %s", "rollback", error)
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: %r", error)
    assert SECRET not in out.getvalue()
    assert [(line["message"], line.get("error")) for line in lines(out)] == [
        ("Error handling request", "UniqueViolation 23505"),
        ("error ignored in rollback: UniqueViolation 23505", None),
        ("Task exception was never retrieved", None),
    ]
