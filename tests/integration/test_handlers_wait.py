"""Waiting is not failing: handlers that wait, servers that are away, and slow types beside others."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random
from threading import Thread
from types import ModuleType
from typing import Any

import psycopg
import pytest

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Handled, HandlerOutage, Sampled, Settled
from dispatcher.handlers import Dead, Event, Wait, handler
from dispatcher.handlers.load import load
from dispatcher.service.policies import handler_retry_policy
from dispatcher.settings import Settings
from tests.support.handlers import MakeModule
from tests.support.rows import insert_events, read_table
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

Db = psycopg.AsyncConnection[Any]


class Away(Exception):
    """What an application's own client raises while its server is away."""


async def found(db: Db) -> Counter[tuple[str, str, int]]:
    return Counter((row["event_type"], row["status"], row["attempts"]) for row in await read_table(db))


@pytest.mark.promise("handler-wait")
async def test_a_wait_costs_no_attempt_however_often(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    calls: list[int] = []

    def waits(payload: Any, event: Event) -> None:
        calls.append(event.attempts)
        if len(calls) <= 12:
            raise Wait(0.0 if len(calls) % 2 else timedelta(milliseconds=100), "not yet")

    async with dispatcher(handlers=handlers_module({"waits": waits}), max_attempts=3) as running:
        await insert_events(db, event_type="waits")
        await running.tap.add_up(Settled, sent=1)
        metric = running.service._metrics.registry.get_sample_value
        assert metric("messaging_dispatch_handled_total", {"result": "wait"}) == 12
        assert metric("messaging_outbox_failed_total") == 0
    assert calls == [0] * 13
    assert await found(db) == {("waits", "sent", 0): 1}


@pytest.mark.promise("handler-wait")
async def test_where_no_thread_can_be_started_the_event_waits(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has a limit of them. The process would end, and each event in hand would pay for that."""
    start, refused = Thread.start, list[str]()

    def start_no_more(self: Thread) -> None:
        if self.name.startswith("handler-") and len(refused) < 2:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(Thread, "start", start_no_more)
    async with dispatcher(handlers=handlers_module({"mail": print}), max_attempts=1) as running:
        await insert_events(db, event_type="mail")
        await running.tap.add_up(Settled, sent=1, waiting=2)
    assert await found(db) == {("mail", "sent", 0): 1}


@pytest.mark.promise("handler-wait")
async def test_an_event_that_waits_for_ever_is_seen_by_its_age(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    async def waits(payload: Any) -> None:
        raise Wait(3600, "the shop is closed")

    async with dispatcher(handlers=handlers_module({"waits": waits})) as running:
        await insert_events(db, event_type="waits", occurred_at="2025-06-01 00:00:00+00")
        await running.tap.add_up(Settled, waiting=1)
        await running.tap.next(Sampled, where=lambda sampled: sampled.oldest_age_s > 86_400)
    [row] = await read_table(db)
    assert (row["status"], row["attempts"], row["last_error"]) == ("retry", 0, "Wait: the shop is closed")


@pytest.mark.promise("handler-wait")
@pytest.mark.parametrize("unrouted", ["stream", "dead"])
@pytest.mark.parametrize(("kind", "known"), [("thread", False), ("task", False), ("thread", True)])
async def test_a_server_that_is_away_costs_nothing_and_takes_no_slot_from_others(
    kind: str, known: bool, unrouted: str, dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    away, calls = True, Counter[str]()

    def mail(payload: Any) -> None:
        calls["mail"] += 1
        if away:
            raise ConnectionRefusedError if known else Away

    async def mail_in_task(payload: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(mail, payload))

    name = handlers_module({"mail": mail if kind == "thread" else mail_in_task, "other": lambda payload: None})
    with_outages(name, Away)
    async with dispatcher(handlers=name, unrouted=unrouted, max_attempts=2, max_parallel=3) as running:
        await insert_events(db, 50, event_type="mail")
        opened = await running.tap.next(HandlerOutage)
        assert opened == HandlerOutage("mail", "ConnectionRefusedError" if known else "Away")
        await insert_events(db, 50, event_type="other")
        await running.tap.add_up(Settled, sent=50)
        await running.tap.next(Handled, where=lambda each: each.handled == "outage")
        assert calls["mail"] < 20  # it is tried now and then, one at a time
        assert running.service._metrics.registry.get_sample_value("messaging_dispatch_handler_outages") == 1
        away = False
        assert (await running.tap.next(HandlerOutage)).error is None
        await becomes(lambda: found(db), {("mail", "sent", 0): 50, ("other", "sent", 0): 50})
        assert running.service._metrics.registry.get_sample_value("messaging_outbox_failed_total") == 0


@pytest.mark.promise("handler-wait")
async def test_an_event_that_alone_meets_the_outage_costs_itself_attempts_and_holds_up_nobody(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    def mail(payload: dict[str, Any]) -> None:
        if payload["n"] == 1:
            raise Away

    name = handlers_module({"mail": mail})
    with_outages(name, lambda error: isinstance(error, Away))
    async with dispatcher(handlers=name, max_attempts=2, backoff_base_ms=1, backoff_max_ms=1) as running:
        await insert_events(db, 30, event_type="mail")
        while not [each for each in running.tap.all(Settled) if each.dead]:
            await insert_events(db, event_type="mail", payload='{"n": 2}')
            await running.tap.next(Settled)
        await becomes(lambda: found_dead(db), [("mail", 2, "Away")])


def with_outages(name: str, outages: Any) -> None:
    module = load.__globals__["importlib"].import_module(name)
    assert isinstance(module, ModuleType)
    module.OUTAGES = outages  # type: ignore[attr-defined]


async def found_dead(db: Db) -> list[tuple[str, int, str]]:
    copies = await read_table(db, "message_dlq")
    return [(copy["event_type"], copy["attempts"], copy["last_error"]) for copy in copies]


@pytest.mark.promise("handlers")
async def test_a_slow_type_leaves_slots_for_others(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    ended = asyncio.Event()

    async def slow(payload: Any) -> None:
        await ended.wait()

    handlers: dict[str, Callable[..., Any]] = {"slow": slow, "slow too": slow, "fast": lambda payload: None}
    async with dispatcher(handlers=handlers_module(handlers), max_parallel=5) as running:
        await insert_events(db, 30, event_type="slow")
        await becomes(lambda: found(db), {("slow", "picked", 0): 4, ("slow", "pending", 0): 26})
        await insert_events(db, 30, event_type="fast")
        await running.tap.add_up(Settled, sent=30)
        ended.set()
        await becomes(lambda: found(db), {("slow", "sent", 0): 30, ("fast", "sent", 0): 30})


async def test_what_the_only_task_of_a_group_raised_counts(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    async def never() -> None:
        raise Dead("unknown currency")

    async def grouped(payload: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(never())

    async with dispatcher(handlers=handlers_module({"grouped": grouped})) as running:
        await insert_events(db, event_type="grouped")
        await running.tap.add_up(Settled, dead=1)
    assert await found_dead(db) == [("grouped", 1, "Dead: unknown currency")]


def test_the_default_pauses_of_a_handler_last_an_hour_and_the_first_is_short() -> None:
    policy = handler_retry_policy(Settings(database_url="postgresql://x"))
    shortest = [policy.backoff.ceiling(attempt) / 2 for attempt in range(1, policy.max_attempts)]
    assert shortest[0] <= 1.0
    assert sum(shortest) > 3600
    given = Settings(database_url="", handler_backoff_base_ms=2000, handler_backoff_max_ms=3000)
    assert handler_retry_policy(given).backoff == Backoff(2.0, 3.0, factor=3.0)
    assert 0.5 <= policy.backoff.reconnect_delay(1, Random(1)) <= 1.0


def test_outages_are_those_of_the_handler_then_those_of_the_module(handlers_module: MakeModule) -> None:
    def is_away(error: BaseException) -> bool:
        return isinstance(error, Away)

    @handler("test.own", outages=is_away)
    def own(payload: Any) -> None: ...

    @handler("test.none")
    def none(payload: Any) -> None: ...

    name = handlers_module({"plain": lambda payload: None})
    with_outages(name, (Away, ConnectionError))
    loaded = load(name)
    assert loaded["test.own"].outages is is_away
    assert loaded["test.none"].outages == loaded["plain"].outages == (Away, ConnectionError)
    with_outages(name, "ConnectionError")
    with pytest.raises(Misconfigured, match="OUTAGES: outages must be an exception class"):
        load(name)
    with pytest.raises(ValueError, match="outages must be"):
        handler("test.other", outages=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(days=-1)])
def test_a_wait_has_an_end(after: float | timedelta) -> None:
    with pytest.raises(ValueError, match=r"Wait\(after=\.\.\.\) takes 0 to"):
        raise Wait(after)


async def test_a_type_that_may_run_no_more_leaves_proof_events_alone(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Db
) -> None:
    """Those of `dispatcher prove` have no handler either, and are no dead letters."""

    def away(payload: Any) -> None:
        raise ConnectionRefusedError("away")

    module = handlers_module({"away": away, "other": lambda payload: None})
    async with dispatcher(handlers=module, unrouted="dead") as running:
        await insert_events(db, event_type="away")
        await running.tap.next(HandlerOutage)
        await insert_events(db, event_type="dispatcher.prove")
        await insert_events(db, 3, event_type="other")
        await running.tap.add_up(Settled, sent=3)
    assert ("dispatcher.prove", "pending", 0) in await found(db)
