"""Handlers: what they get, what becomes of their rows, and that none of them holds up anything else."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import (
    Claimed,
    Handled,
    InHand,
    LayoutChanged,
    PauseChanged,
    Settled,
    Started,
    Stopped,
    StuckHandlers,
    TakenOver,
    Ticked,
)
from dispatcher.handlers import Dead, Event, Retry
from dispatcher.handlers import handler as register
from dispatcher.relay.handlers.pool import TOO_LATE_S
from dispatcher.relay.handlers.relay import HandlerRelay
from tests.support.command import RunCommand
from tests.support.handlers import MakeModule
from tests.support.proxy import StartProxy
from tests.support.rows import insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
NOWHERE = "redis://127.0.0.1:1/0"


class Gate:
    """Handlers wait here, in threads, until it is opened. Counts who is inside."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.entered: list[Any] = []
        self.inside = self.most = 0

    def __call__(self, payload: Any) -> None:
        with self._lock:
            self.entered.append(payload)
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._open.wait(300)
        with self._lock:
            self.inside -= 1

    def open(self) -> None:
        self._open.set()

    async def holds(self, count: int) -> None:
        """Wait until so many are inside."""
        await becomes(lambda: self.inside, count, "the number of handlers inside")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end, so that no thread outlives the test."""
    gate = Gate()
    yield gate
    gate.open()


async def row_of(db: Db, event_type: str) -> dict[str, Any]:
    [row] = [row for row in await read_table(db) if row["event_type"] == event_type]
    return row


@pytest.mark.promise("handlers")
async def test_handled_events_are_sent_and_not_in_the_stream(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, redis: Redis
) -> None:
    got: list[Any] = []

    async def on_the_loop(payload: Any, event: Event) -> None:
        got.append((payload, event, threading.current_thread() is threading.main_thread()))

    def in_a_thread(payload: Any, retries: int = 3) -> None:
        got.append((payload, retries, threading.current_thread() is threading.main_thread()))

    name = handlers_module({"mail": on_the_loop, "invoice": in_a_thread})
    async with dispatcher(handlers=name) as running:
        await insert_events(db, event_type="mail", payload='{"to": "é"}', headers='{"traceparent": "00-1"}')
        await running.tap.add_up(Settled, sent=1)
        await insert_events(db, event_type="invoice", payload="[1, 2]")
        await insert_events(db, event_type="order.created")
        await running.tap.add_up(Settled, sent=2)
    [(payload, event, in_main), second] = got
    mail = await row_of(db, "mail")
    assert (payload, in_main) == ({"to": "é"}, True)
    assert (event.id, event.event_id, event.aggregate_id) == (mail["id"], mail["event_id"], "a1")
    assert (event.occurred_at, event.attempts, event.headers) == (mail["occurred_at"], 0, {"traceparent": "00-1"})
    assert "traceparent" not in repr(event)
    assert second == ([1, 2], 3, False)
    assert [entry["event_type"] for entry in await read_stream(redis)] == ["order.created"]
    assert await statuses(db) == {"sent": 3}
    assert [mail["stream_id"], (await row_of(db, "invoice"))["stream_id"]] == [None, None]
    metric = running.service._metrics.registry.get_sample_value
    assert metric("messaging_outbox_sent_total") == metric("messaging_outbox_picked_total") == 3
    assert metric("messaging_dispatch_published_total") == 1
    assert metric("messaging_dispatch_handled_total", {"result": "done"}) == 2
    assert metric("messaging_dispatch_latency_seconds_count") == 3


@pytest.mark.promise("handlers")
async def test_a_slow_handler_holds_up_nobody(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    name = handlers_module({"slow": gate, "fast": lambda payload: None})
    async with dispatcher(handlers=name, max_parallel=2) as running:
        await insert_events(db, event_type="slow")
        await insert_events(db, 40, event_type="fast")
        await insert_events(db, 40)
        await running.tap.add_up(Settled, sent=80)
        assert (await row_of(db, "slow"))["status"] == "picked"
        gate.open()
        await running.tap.add_up(Settled, sent=1)
    assert await statuses(db) == {"sent": 81}


@pytest.mark.promise("handlers")
async def test_no_more_at_once_than_max_parallel_and_no_more_claimed(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    await insert_events(db, 20, event_type="slow")
    name = handlers_module({"slow": gate})
    options = {"handlers": name, "max_parallel": 3, "tick_ms": 20}
    async with dispatcher(**options) as one, dispatcher(**options) as two:
        await gate.holds(6)
        assert {len(running.tap.all(Claimed)) > 0 for running in (one, two)} == {True}
        assert await statuses(db) == {"picked": 6, "pending": 14}
        assert gate.most == 6
        gate.open()
        await becomes(lambda: statuses(db), {"sent": 20})
    assert len(gate.entered) == 20


@pytest.mark.promise("handler-failure")
async def test_what_a_handler_raises(dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db) -> None:
    def fails(payload: dict[str, Any]) -> None:
        raise ValueError(f"no such customer: {payload}\x00\ud800")

    async def later(payload: Any) -> None:
        raise Retry("the shop is closed", after=3600)

    def never(payload: Any) -> None:
        raise Dead("unknown currency")

    def leaves(payload: Any) -> None:
        raise SystemExit(3)

    async def cancels(payload: Any) -> None:
        raise asyncio.CancelledError

    def promises(payload: Any) -> Any:
        async def fail() -> None:
            raise KeyError("field")

        return fail()

    def yields(payload: Any) -> Any:
        return (each for each in payload)

    def submits(payload: Any) -> Any:
        return concurrent.futures.Future()

    async def returns(payload: Any) -> Any:
        return Dead("returned, not raised")

    async def forgets_await(payload: Any) -> Any:
        async def inner() -> Any:
            return promises(payload)

        return inner()

    handlers: dict[str, Any] = {"fails": fails, "later": later, "never": never, "leaves": leaves}
    handlers |= {"yields": yields, "submits": submits, "returns": returns, "forgets": forgets_await}
    handlers |= {"cancels": cancels, "promises": promises}
    name = handlers_module(handlers)
    options: dict[str, Any] = {"backoff_base_ms": 600_000, "backoff_max_ms": 600_000}
    async with dispatcher(handlers=name, **options) as running:
        for event_type in handlers:
            await insert_events(db, event_type=event_type, payload='{"name": "Jane Roe", "card": 4111222233334444}')
        await running.tap.add_up(Settled, retried=8, dead=2)
        failed = await running.tap.next(Handled, where=lambda event: event.event_type == "fails")
        assert failed.where is not None
        assert "test_handlers.py" in failed.where
    found = {row["event_type"]: (row["status"], row["attempts"], row["last_error"]) for row in await read_table(db)}
    assert found == {
        "fails": ("retry", 1, "ValueError: no such customer: {'card': ***, 'name': '***'}?"),
        "later": ("retry", 1, "Retry: the shop is closed"),
        "never": ("dead", 1, "Dead: unknown currency"),
        "leaves": ("retry", 1, "SystemExit: 3"),
        "cancels": ("retry", 1, "CancelledError"),
        "promises": ("retry", 1, "KeyError: 'field'"),
        "yields": (
            "retry",
            1,
            "TypeError: the handler returned a generator, of which nothing has run: it must not yield",
        ),
        "submits": ("retry", 1, "TypeError: the handler returned a future of work that may go on: return its result()"),
        "returns": ("dead", 1, "Dead: returned, not raised"),
        "forgets": ("retry", 1, "KeyError: 'field'"),
    }
    cursor = await db.execute("SELECT next_run_at - now() > interval '50 min' FROM messaging.message_outbox "
                              "WHERE event_type = 'later'")  # fmt: skip
    assert await cursor.fetchone() == (True,)
    dead = {row["last_error"] for row in await read_table(db, "message_dlq")}
    assert dead == {"Dead: unknown currency", "Dead: returned, not raised"}


@pytest.mark.promise("handler-failure")
async def test_a_handler_has_limits_of_its_own(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    async def slow(payload: Any) -> None:
        await asyncio.Event().wait()

    register("slow", timeout=timedelta(milliseconds=50), attempts=1)(slow)
    async with dispatcher(handlers=handlers_module({}), max_attempts=10) as running:
        await insert_events(db, event_type="slow")
        await running.tap.add_up(Settled, dead=1)
    row = await row_of(db, "slow")
    assert (row["attempts"], row["last_error"]) == (1, "TimeoutError: the handler did not end within 0.05 s")
    with pytest.raises(ValueError, match=r"timeout must be a timedelta, not int: timeout=timedelta\(seconds=5\)"):
        register("slower", timeout=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        register("slower", attempts=0)


async def test_the_last_attempt_buries(dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db) -> None:
    tries: list[int] = []

    def fails(payload: Any, event: Event) -> None:
        tries.append(event.attempts)
        raise OSError("no route")

    name = handlers_module({"fails": fails})
    async with dispatcher(handlers=name, max_attempts=3, backoff_base_ms=1, backoff_max_ms=1) as running:
        await insert_events(db, event_type="fails")
        await running.tap.add_up(Settled, retried=2, dead=1)
    assert tries == [0, 1, 2]
    [copy] = await read_table(db, "message_dlq")
    assert (copy["attempts"], copy["last_error"]) == (3, "OSError: no route")


@pytest.mark.promise("handler-failure")
async def test_one_that_never_ends_costs_an_attempt_and_is_counted(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    stubborn = asyncio.Event()

    async def swallows(payload: Any) -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    name = handlers_module({"thread": gate, "task": swallows})
    options: dict[str, Any] = {"handler_timeout_ms": 50, "backoff_base_ms": 600_000, "backoff_max_ms": 600_000}
    async with dispatcher(handlers=name, max_parallel=2, **options) as running:
        await insert_events(db, event_type="thread")
        await insert_events(db, event_type="task")
        await running.tap.add_up(Settled, retried=2)
        await insert_events(db, event_type="task")
        stuck = await running.tap.next(StuckHandlers, where=lambda event: event.on)
        assert sorted(stuck.types) == ["task", "thread"]
        await running.tap.next(InHand, where=lambda event: event.stuck == 2)
        stubborn.set()
        gate.open()
        await running.tap.next(StuckHandlers, where=lambda event: not event.on)
        await running.tap.add_up(Settled, sent=1)
    errors = {row["last_error"] for row in await read_table(db) if row["status"] == "retry"}
    assert errors == {"TimeoutError: the handler did not end within 0.05 s"}


@pytest.mark.promise("handler-at-least-once")
async def test_the_lease_is_renewed_while_a_handler_runs(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    name = handlers_module({"slow": gate})
    async with dispatcher(handlers=name, lease_ms=5100, publish_timeout_ms=100) as running:
        await insert_events(db, event_type="slow")
        await gate.holds(1)
        before = (await row_of(db, "slow"))["picked_at"]

        async def renewed() -> bool:
            return bool((await row_of(db, "slow"))["picked_at"] > before)

        await until(renewed, "the lease is renewed")
        gate.open()
        await running.tap.add_up(Settled, sent=1)


@pytest.mark.promise("handler-stop")
async def test_a_stop_waits_for_handlers_then_gives_the_rest_back(
    dispatcher: StartDispatcher,
    handlers_module: MakeModule,
    db: Db,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    finish_within = HandlerRelay._finish_within

    async def ends(payload: Any) -> None:
        begun.set()
        await may_end.wait()

    # It leaves a second of the grace for the release, which may be too little on a busy machine.
    monkeypatch.setattr(HandlerRelay, "_finish_within", lambda relay, patience_s: finish_within(relay, 4.0))
    name = handlers_module({"ends": ends, "endless": gate})
    async with dispatcher(handlers=name, max_parallel=2, shutdown_grace_ms=60_000) as running:
        await insert_events(db, event_type="ends")
        await begun.wait()
        await insert_events(db, 3, event_type="endless")
        await gate.holds(1)
        running.service.stop("test")
        may_end.set()
        stopped = await running.tap.next(Stopped)
    assert running.service.exit_code == 0
    assert stopped.released == 1
    rows = [(row["event_type"], row["status"], row["attempts"]) for row in await read_table(db)]
    assert rows == [("ends", "sent", 0)] + [("endless", "pending", 0)] * 3
    assert await read_table(db, "dispatcher") == []


@pytest.mark.promise("handler-at-least-once")
async def test_sessions_that_break_cost_no_second_run(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    name = handlers_module({"slow": gate})
    async with dispatcher(handlers=name) as running:
        await insert_events(db, event_type="slow")
        await gate.holds(1)
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                         "WHERE application_name LIKE 'dispatcher handlers %'")  # fmt: skip
        gate.open()
        await running.tap.add_up(Settled, sent=1)
    assert len(gate.entered) == 1


@pytest.mark.promise("handler-crash")
async def test_a_dispatcher_that_only_lost_its_control_session_costs_no_attempt(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate, database_url: str, proxy: StartProxy
) -> None:
    """The other one takes it for dead. Its event runs a second time, and is neither charged nor a suspect."""
    name = handlers_module({"slow": gate})
    through = await proxy(database_url)
    async with dispatcher(handlers=name, listen_url=through.via(database_url)) as one:
        await insert_events(db, event_type="slow")
        await gate.holds(1)
        [us] = await read_table(db, "dispatcher")
        async with dispatcher(handlers=name) as two:
            through.refuse()
            await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                             "WHERE application_name LIKE 'dispatcher control %% ' || %s", (us["name"],))  # fmt: skip
            await two.tap.next(TakenOver)
            await through.restore()
            await gate.holds(2)
            row = await row_of(db, "slow")
            assert (row["status"], row["attempts"], row["last_error"]) == ("picked", 0, None)
            gate.open()
            await becomes(lambda: statuses(db), {"sent": 1}, "the rows")
    assert "lost" not in [each.handled for running in (one, two) for each in running.tap.all(Handled)]


@pytest.mark.promise("handler-at-least-once")
async def test_who_lost_its_claim_changes_nothing(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    name = handlers_module({"slow": gate})
    async with dispatcher(handlers=name) as running:
        await insert_events(db, event_type="slow")
        await gate.holds(1)
        await db.execute("UPDATE messaging.message_outbox SET claim_id = gen_random_uuid()")
        gate.open()
        await running.tap.add_up(Settled, lost=1)
    assert await statuses(db) == {"picked": 1}


@pytest.mark.promise("handler-at-least-once")
async def test_what_waited_too_long_for_a_place_does_not_begin(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, database_url: str
) -> None:
    """A handler blocks the loop; meanwhile others take over the rows that wait behind it, and handle them."""
    ran: list[Any] = []

    async def blocks(payload: Any) -> None:
        with psycopg.connect(database_url, autocommit=True) as peer:
            taken = peer.execute("UPDATE messaging.message_outbox SET claim_id = gen_random_uuid() "
                                 "WHERE event_type = 'behind' AND status = 'picked'").rowcount  # fmt: skip
        threading.Event().wait(TOO_LATE_S + 0.1)  # the loop stands still
        assert taken == 3

    name = handlers_module({"fast": lambda payload: None, "blocks": blocks, "behind": ran.append})
    async with dispatcher(handlers=name, max_parallel=1) as running:
        await insert_events(db, 200, event_type="fast")  # so fast that more is claimed than has a place
        await running.tap.add_up(Settled, sent=200)
        await db.execute(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) "
            "SELECT t, t, '{}' FROM unnest(ARRAY['blocks', 'behind', 'behind', 'behind']) AS t"
        )
        await running.tap.add_up(Settled, sent=1, lost=3)
    assert ran == []


@pytest.mark.promise("handlers")
async def test_an_outage_of_redis_stops_no_handler(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    name = handlers_module({"mail": lambda payload: None})
    async with dispatcher(handlers=name, redis_url=NOWHERE, tick_ms=20) as running:
        await insert_events(db)
        await insert_events(db, 30, event_type="mail")
        await running.tap.add_up(Settled, sent=30)
    assert await statuses(db) == {"pending": 1, "sent": 30}


@pytest.mark.promise("handlers")
async def test_without_a_stream_no_redis_is_needed(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    name = handlers_module({"mail": lambda payload: None})
    async with dispatcher(handlers=name, unrouted="dead", redis_url="", max_payload_bytes=20) as running:
        await running.tap.next(LayoutChanged)
        assert running.service._readiness() is None
        await insert_events(db, event_type="mail")
        await running.tap.add_up(Settled, sent=1)  # rung, not on the tick
        await insert_events(db, 200, event_type="mail")
        await insert_events(db, event_type="order.created")
        await insert_events(db, event_type="mail", payload='{"too": "large for this one"}')
        await running.tap.add_up(Settled, sent=200, dead=2)
    assert running.service.exit_code == 0
    assert [row["last_error"] for row in await read_table(db, "message_dlq")] == [
        "no handler for event type 'order.created' (DISPATCH_UNROUTED=dead)",
        "payload is 29 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 20",
    ]


async def test_many_of_both_kinds(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, redis: Redis
) -> None:
    """Each event goes its way once, whichever of two dispatchers takes it."""
    handled: list[Any] = []

    async def handle(payload: Any, event: Event) -> None:
        handled.append(event.id)

    name = handlers_module({"mail": handle})
    for _ in range(5):
        await insert_events(db, 200)
        await insert_events(db, 200, event_type="mail")
    async with dispatcher(handlers=name, tick_ms=20), dispatcher(handlers=name, tick_ms=20):
        await becomes(lambda: statuses(db), {"sent": 2000})
    assert len(handled) == len(set(handled)) == 1000
    entries = [entry["event_id"] for entry in await read_stream(redis)]
    assert len(entries) == len(set(entries)) == 1000


async def test_a_dead_one_is_succeeded_without_a_look_in_the_stream(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    """Its rows are in no stream; they are handled again, by whoever is next."""
    rows = await insert_events(
        db, 3, event_type="mail", status="picked", picked_at="2025-06-01 00:00:00+00", picked_by=7
    )
    got: Callable[..., None] = lambda payload: None  # noqa: E731
    async with dispatcher(handlers=handlers_module({"mail": got})) as running:
        await running.tap.add_up(Settled, sent=len(rows))
        assert running.tap.all(Started)
    assert sum(event.rows for event in running.tap.all(Claimed)) == 3


@pytest.mark.parametrize("unrouted", ["stream", "dead"])
async def test_the_loop_ticks_while_no_place_is_free(
    unrouted: str, dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, gate: Gate
) -> None:
    """Else the alert for a dispatcher that stands still would fire, and a person restart what works."""
    name = handlers_module({"slow": gate})
    async with dispatcher(handlers=name, unrouted=unrouted, max_parallel=1, tick_ms=50) as running:
        await insert_events(db, 5, event_type="slow")
        await gate.holds(1)
        running.tap.forget()
        for _ in range(3):
            await running.tap.next(Ticked)
        gate.open()
        await running.tap.add_up(Settled, sent=5)


@pytest.mark.parametrize("unrouted", ["stream", "dead"])
async def test_a_pause_holds_handlers_back(
    unrouted: str, dispatcher: StartDispatcher, handlers_module: MakeModule, command: RunCommand, db: Db, gate: Gate
) -> None:
    name = handlers_module({"slow": gate})
    async with dispatcher(handlers=name, unrouted=unrouted, max_parallel=2, tick_ms=50) as running:
        await insert_events(db, event_type="slow")
        await gate.holds(1)
        await command("pause", "--timeout", "0")
        await running.tap.next(PauseChanged)
        await insert_events(db, event_type="slow")
        await running.tap.next(Ticked)
        await running.tap.next(Ticked)
        assert gate.inside == 1
        gate.open()
        await running.tap.add_up(Settled, sent=1)
        code, output = await command("pause")
        assert (code, "1 dispatcher acknowledged" in output) == (0, True)
        assert await statuses(db) == {"sent": 1, "pending": 1}
        assert (await command("resume"))[0] == 0
        await running.tap.add_up(Settled, sent=1)


@pytest.mark.promise("handler-failure")
async def test_a_handler_in_a_file_whose_name_is_no_text_may_fail(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    """The history has the file's name, which Postgres must be able to store: the process ended with each attempt."""
    found: dict[str, Any] = {}
    exec(compile("def fails(payload): raise LookupError", "/caf\udce9/mail.py", "exec"), found)  # noqa: S102
    async with dispatcher(handlers=handlers_module({"mail": found["fails"]}), max_attempts=1) as running:
        await insert_events(db, event_type="mail")
        await running.tap.add_up(Settled, dead=1)
    [[place]] = await (await db.execute("SELECT place FROM messaging.message_history")).fetchall()
    assert place == "/caf?/mail.py:1"
