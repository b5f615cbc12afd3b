"""Held aggregates by the table: which are, what is shown of each, and that a person's retry or skip is done once."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest

from dispatcher.core.process_state import HeldCount, HeldHead
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.decide import Bulk, Decision, decide
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.held.decide import HeldDecided, decide_held, find_heads
from dispatcher.ops.held.find import count_held, find_held
from dispatcher.ops.retrying import read_retrying
from dispatcher.stages.claim import new_claim_id
from tests.support.dead_letters import bury, prune
from tests.support.layouts import stand_in_order
from tests.support.rows import insert_events, read_table
from tests.support.waiting import until

pytestmark = pytest.mark.both_versions

ALL = Filter()
RETRY, SKIP = Decision("retry", "ada"), Decision("skip", "ada", "nobody needs it")


@pytest.fixture
async def session(database_url: str):
    session = await connect(PostgresTarget(database_url, "test", query_timeout_s=20.0), "api")
    yield session
    await session.close()


async def fail(
    db: psycopg.AsyncConnection[Any], row_id: int, delay_s: float = 3600.0, error: str = "ERR refused"
) -> None:
    """Claim the row, and settle it as one that failed for its own sake: the dispatcher's own statement."""
    claim_id = new_claim_id()
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = clock_timestamp(), claim_id = %s "
        "WHERE id = %s",
        [claim_id, row_id],
    )
    parameters = {"claim_id": claim_id, "ids": [row_id], "delays": [delay_s], "errors": [error], "costs": [1]}
    done = await db.execute(load("settle_retry").encode(), parameters | {"places": [None], "now": None})
    assert done.rowcount == 1


async def add(db: psycopg.AsyncConnection[Any], aggregate: str, n: int = 1) -> list[int]:
    return await insert_events(db, n, aggregate_type="conversation", aggregate_id=aggregate)


async def shown(session: Session, which: Filter = ALL, **options: Any) -> dict[int, dict[str, Any]]:
    """Of each held aggregate what the list shows, by the id of its head; the count agrees."""
    page = await find_held(session.fetch, which, **options)
    found = {each["id"]: each for each in page.read()}
    assert page.count == len(found)
    if page.order.on and which == ALL and not options:
        counted = await count_held(session.fetch, hold=page.order.hold)
        assert (counted.aggregates, page.total) == (len(found), len(found))
        assert counted.by_dead == sum(each["state"] == "dead" for each in found.values())
    return found


async def test_an_event_that_failed_holds_the_later_ones_of_its_aggregate_and_nothing_else(session, db):
    [first, *later] = await add(db, "a", 4)
    await add(db, "b", 2)
    await insert_events(db, 2, aggregate_type="order", aggregate_id="a")
    await fail(db, first)
    assert (await find_held(session.fetch, ALL)).order.on is False
    assert await shown(session) == {}  # without order nothing waits for it
    await stand_in_order(db)
    found = await shown(session)
    [row] = [row for row in await read_table(db) if row["id"] == first]
    [note] = await read_table(db, "message_history")
    assert found == {
        first: {
            "id": first,
            "event_id": str(row["event_id"]),
            "event_type": "order.created",
            "aggregate_type": "conversation",
            "aggregate_id": "a",
            "state": "retry",
            "attempts": 1,
            "last_error": "ERR refused",
            "waiting": len(later),
            "since": note["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "next_attempt_at": row["next_run_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
    }
    counted = await count_held(session.fetch, hold=False)
    assert replace(counted, head=None) == HeldCount(1, 0, counted.oldest_s, "ERR refused")
    assert counted.head == HeldHead(first, "order.created", "conversation", "a", "retry", 3, "ERR refused")
    assert 0 < counted.oldest_s < 600


async def test_the_first_of_several_is_the_head_and_it_is_held_since_its_first_failure(session, db):
    await stand_in_order(db)
    ids = await add(db, "a", 5)
    await fail(db, ids[2], error="ERR later")
    await fail(db, ids[0], error="ERR once")
    await fail(db, ids[0], error="ERR twice")
    [note, *_] = sorted(
        (n for n in await read_table(db, "message_history") if n["outbox_id"] == ids[0]), key=lambda n: n["at"]
    )
    [head] = (await shown(session)).values()
    assert (head["id"], head["waiting"], head["last_error"], head["attempts"]) == (ids[0], 4, "ERR twice", 2)
    assert head["since"] == note["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_a_dead_event_holds_with_hold_only_and_only_if_something_waits(session, db):
    await stand_in_order(db)
    [dead, _waits] = await add(db, "a", 2)
    [alone] = await add(db, "b")
    before, after = await add(db, "c", 2)
    await bury(db, [dead, alone, after])
    assert await shown(session) == {}
    await stand_in_order(db, "hold")
    found = await shown(session)
    assert {row: (each["state"], each["waiting"], each["next_attempt_at"]) for row, each in found.items()} == {
        dead: ("dead", 1, None)
    }
    await fail(db, before)
    assert (await shown(session)).keys() == {dead, before}
    await add(db, "b")
    assert (await shown(session)).keys() == {dead, alone, before}


async def test_a_row_that_was_replayed_by_hand_and_dies_holds_and_is_shown(session, db):
    """The runbook's UPDATE left its sent_at, and the row was not found among the dead ones: it held unseen."""
    await stand_in_order(db, "hold")
    sent, _waits = await add(db, "a", 2)
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [sent])
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'pending', attempts = 0, next_run_at = now() WHERE id = %s",
        [sent],
    )
    await bury(db, [sent])
    assert {row: (each["state"], each["waiting"]) for row, each in (await shown(session)).items()} == {
        sent: ("dead", 1)
    }


async def test_parked_and_being_tried(session, db):
    await stand_in_order(db)
    parked, picked, scheduled = await add(db, "a", 1) + await add(db, "b", 1) + await add(db, "c", 1)
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = 'infinity' WHERE id = %s", [parked])
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = now() + '1 h' WHERE id = %s", [scheduled])
    await fail(db, picked)
    await db.execute("UPDATE messaging.message_outbox SET status = 'picked' WHERE id = %s", [picked])
    found = await shown(session)
    assert {row: (each["state"], each["next_attempt_at"]) for row, each in found.items()} == {
        parked: ("parked", None),
        picked: ("in_flight", None),
    }
    done = await decide_held(session.fetch, [picked], SKIP)
    assert (done.ids, done.in_flight, done.not_held) == ([], [picked], [])
    done = await decide_held(session.fetch, [parked, picked], RETRY)
    assert (done.ids, done.in_flight) == ([parked], [picked])
    [row] = [row for row in await read_table(db) if row["id"] == parked]
    assert row["next_run_at"].year == 1970  # the later ones, which nobody scheduled, come after it by their ids


async def overdue_s(session: Session) -> float:
    """By how much the oldest event is overdue that nothing holds; with `hold`."""
    return (await read_retrying(session.fetch, ordered=True, holds=True)).overdue_s


async def late(db: psycopg.AsyncConnection[Any], ids: list[int]) -> None:
    """An hour late, as rows that nobody scheduled."""
    await db.execute(
        "UPDATE messaging.message_outbox SET occurred_at = now() - interval '1 h' WHERE id = ANY (%s)", [ids]
    )


async def test_what_waits_behind_a_held_event_is_not_overdue(session, db):
    parked, failed, dead = [(await add(db, aggregate, 3))[0] for aggregate in "abc"]
    await late(db, [row["id"] for row in await read_table(db)])
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = 'infinity' WHERE id = %s", [parked])
    await fail(db, failed)
    await bury(db, [dead])
    assert await overdue_s(session) == 0


async def test_what_nothing_holds_is_overdue_behind_many_that_are_held(session, db):
    """The first hundred events that wait may all be of one held aggregate."""
    failed, *waits = await add(db, "a", 300)
    [alone] = await add(db, "b")
    await late(db, [*waits, alone])
    await fail(db, failed)
    assert await overdue_s(session) > 3000


async def test_what_holds_others_is_overdue_itself_and_so_is_what_came_before_it(session, db):
    """Its dispatcher stands still: it is due, and nobody tries it."""
    failed, *waits = await add(db, "a", 2)
    await late(db, waits)
    await fail(db, failed, delay_s=-1800)
    assert 1700 < await overdue_s(session) < 3000
    first, parked = await add(db, "b", 2)
    await late(db, [first])
    await db.execute("UPDATE messaging.message_outbox SET next_run_at = 'infinity' WHERE id = %s", [parked])
    assert await overdue_s(session) > 3000


async def test_filters_and_pages(session, db):
    await stand_in_order(db)
    heads = [(await add(db, f"a{n}", 2))[0] for n in range(5)]
    for n, head in enumerate(heads):
        await fail(db, head, error=f"ERR code {n}")
    assert list(await shown(session, limit=2)) == heads[:2]
    assert list(await shown(session, limit=2, after=heads[1])) == heads[2:4]
    assert list(await shown(session, Filter(aggregate_id="a3"))) == [heads[3]]
    assert list(await shown(session, Filter(aggregate_type="order"))) == []
    assert list(await shown(session, Filter(last_error="ERR code 2"))) == [heads[2]]
    assert list(await shown(session, Filter(error_code="ERR code #"))) == heads
    assert list(await shown(session, Filter(error_like="CODE 4"))) == [heads[4]]
    assert list(await shown(session, Filter(event_type="mail.sent"))) == []


async def test_retry_makes_the_head_due_and_it_holds_until_it_went_out(session, db):
    await stand_in_order(db)
    [head, *_] = await add(db, "a", 3)
    await fail(db, head)
    [row] = [row for row in await read_table(db) if row["id"] == head]
    done = await decide_held(session.fetch, [row["event_id"], 999], RETRY)
    assert (done.ids, done.in_flight, done.not_held) == ([head], [], [999])
    due = await (
        await db.execute("SELECT next_run_at <= now(), attempts FROM messaging.message_outbox WHERE id = %s", [head])
    ).fetchone()
    assert due == (True, 1)
    assert (await shown(session)).keys() == {head}
    [*_, note] = await read_table(db, "message_history")
    assert (note["what"], note["actor"], note["outbox_id"]) == ("retried", "ada", head)


@pytest.mark.parametrize("entry", ["held", "dlq"])
async def test_a_dead_head_that_is_retried_goes_before_those_that_waited(session, db, entry):
    await stand_in_order(db, "hold")
    [head, *later] = await add(db, "a", 3)
    await bury(db, [head])
    if entry == "held":
        assert (await decide_held(session.fetch, [head], RETRY)).ids == [head]
    else:
        assert (await decide(session.fetch, [head], Decision("retry"))).ids == (head,)
    rows = await (
        await db.execute("SELECT id FROM messaging.message_outbox WHERE NOT settled ORDER BY next_run_at, id")
    ).fetchall()
    assert [row for (row,) in rows] == [head, *later]
    assert await shown(session) == {}


@pytest.mark.parametrize("dead", [False, True])
async def test_skip_deletes_the_head_keeps_its_copy_and_says_who_and_why(session, db, dead):
    await stand_in_order(db, "hold")
    [head, *later] = await add(db, "a", 3)
    if dead:
        await bury(db, [head])
    else:
        await fail(db, head)
    done = await decide_held(session.fetch, [head], SKIP)
    assert (done.ids, done.not_held) == ([head], [])
    assert await shown(session) == {}
    assert [row["id"] for row in await read_table(db)] == later
    [copy] = await read_table(db, "message_dlq")
    assert (copy["outbox_id"], copy["payload"], copy["last_error"]) == (head, {"n": 1}, "ERR refused")
    assert copy["discarded_at"] == copy["replayed_at"] is not None
    note = (await read_table(db, "message_history"))[-1]
    assert (note["what"], note["actor"], note["error"]) == ("skipped", "ada", "nobody needs it")
    again = await decide_held(session.fetch, [head, UUID(int=0)], SKIP)
    assert (again.ids, again.not_held) == ([], [head, UUID(int=0)])  # not the next one of the aggregate


async def test_what_does_not_hold_is_not_skipped(session, db):
    await stand_in_order(db)
    fresh, dead, sent = await add(db, "a", 1) + await add(db, "b", 1) + await add(db, "c", 1)
    await bury(db, [dead])
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [sent])
    for decision in (SKIP, RETRY):
        done = await decide_held(session.fetch, [fresh, dead, sent], decision)
        assert (done.ids, done.not_held) == ([], [fresh, dead, sent])
    assert len(await read_table(db)) == 3


async def test_two_people_skip_at_once_and_one_does_it(database_url, session, db):
    await stand_in_order(db)
    [head, _] = await add(db, "a", 2)
    await fail(db, head)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        parameters = {"ids": [head], "event_ids": [], "hold": False, "by": "grace", "reason": "first", "now": None}
        await other.execute(load("held_skip").encode(), parameters)

        async def commits() -> None:
            await until(lambda: waits(db), "the second one waits for the lock of the first")
            await other.commit()

        async with anyio.create_task_group() as group:
            group.start_soon(commits)
            done = await decide_held(session.fetch, [head], SKIP)
    assert (done.ids, done.not_held) == ([], [head])
    assert [note["actor"] for note in await read_table(db, "message_history") if note["what"] == "skipped"] == ["grace"]


async def waits(db: psycopg.AsyncConnection[Any]) -> bool:
    rows = await db.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%held_skip%'")
    return rows.rowcount > 0


async def test_many_are_decided_in_batches(session, db):
    await stand_in_order(db)
    heads = [(await add(db, f"a{n}", 2))[0] for n in range(7)]
    for head in heads:
        await fail(db, head)
    run = Bulk(lambda some: decide_held(session.fetch, some, SKIP), HeldDecided(), batch=3)
    events = await find_heads(session.fetch, ALL, page=2)
    assert events == heads
    said: list[tuple[int, int]] = []
    await run.run(events, lambda done, of: said.append((done, of)))
    assert (run.done.ids, said) == (heads, [(3, 7), (6, 7), (7, 7)])
    assert await shown(session) == {}


async def test_every_dispatcher_is_rung_after_a_decision(database_url, session, db):
    await stand_in_order(db, "hold")
    for decision in (RETRY, SKIP):
        [head, _] = await add(db, f"{decision.what}", 2)
        await bury(db, [head])
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener:
            await listener.execute("LISTEN outbox_backlog")
            await listener.execute("LISTEN outbox_control")
            await decide_held(session.fetch, [head], decision)
            heard = {note.channel async for note in listener.notifies(timeout=20, stop_after=2)}
        assert heard == {"outbox_backlog", "outbox_control"}


async def test_prune_leaves_every_dead_row_with_hold(session, db):
    await stand_in_order(db)
    [first] = await add(db, "a")
    await bury(db, [first])
    await prune(db)
    assert await read_table(db) == []
    await stand_in_order(db, "hold")
    [second] = await add(db, "b")
    [sent] = await add(db, "c")
    await bury(db, [second])
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [sent])
    said: list[str] = []
    db.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    await prune(db)
    assert [row["id"] for row in await read_table(db)] == [second]
    assert any("1 dead rows are left" in text for text in said)
