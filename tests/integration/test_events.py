"""All events, whatever became of them: found, listed by status, shown with their attempts; over HTTP and by command."""

import json
import re
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dispatcher.core.events import Buried, DeadDiscarded, PauseChanged, RetriedNow, Settled
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Waits
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.decide import Decision, decide
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.outbox_events import find, list_events
from dispatcher.stages.claim import new_claim_id
from dispatcher.stages.settle import settle
from tests.support.api import get, post
from tests.support.command import HearCommand
from tests.support.dead_letters import bury, insert_copies, prune
from tests.support.reads import blocks_of, blocks_read
from tests.support.rows import insert_events, read_table, statuses
from tests.support.waiting import becomes

MAIN = "SELECT name FROM messaging.dispatcher"


@pytest.fixture
async def session(database_url: str):
    session = await connect(PostgresTarget(database_url, "test"), "api")
    yield session
    await session.close()


@pytest.fixture
def events(heard: HearCommand) -> HearCommand:
    return partial(heard, "events")


async def fail(
    db: psycopg.AsyncConnection[Any], session: Any, row_id: int, outcome: FailedAttempt | FailedForGood | Waits
) -> None:
    """Claim a row, and settle it so, as a dispatcher does that is number 7 in the registry."""
    claim_id = new_claim_id()
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now(), picked_by = 7, claim_id = %s "
        "WHERE id = %s",
        [claim_id, row_id],
    )
    outcomes = BatchOutcomes()
    outcomes.add(row_id, outcome)
    assert not (await settle(session, claim_id, outcomes)).not_ours


async def test_the_attempts_of_an_event_are_kept_with_who_made_them_and_where_it_failed(db, session, events):
    await db.execute("INSERT INTO messaging.dispatcher (id, name) VALUES (7, 'relay-a')")
    [row] = await insert_events(db)
    await fail(db, session, row, FailedAttempt(60.0, "KeyError: 'x'", "shop/mail.py:17"))
    await fail(db, session, row, Waits(60.0, "the partner is away"))  # costs no attempt, and is none
    await fail(db, session, row, FailedForGood("redis: ERR no", None))
    await decide(session.fetch, [row], Decision("retry", "ada@host", "mended"))
    code, out, _ = await events("show", str(row), "--json")
    shown = json.loads(out)
    history = [(each["what"], each["attempt"], each["by"], each["error"], each["where"]) for each in shown["history"]]
    assert (code, shown["status"]) == (0, "pending")
    assert history == [
        ("retried", None, "ada@host", "mended", None),
        ("died", 2, "relay-a", "redis: ERR no", None),
        ("failed", 1, "relay-a", "KeyError: 'x'", "shop/mail.py:17"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each["at"]) for each in shown["history"])
    text = (await events("show", str(row)))[1]
    assert "relay-a KeyError: 'x' (shop/mail.py:17)" in re.sub(" +", " ", text)


async def test_an_event_in_status_retry_is_tried_now_and_keeps_its_attempts(db, api, heard):
    """By a button and by a command; nobody waits for the year 2100, and a dispatcher that sleeps hears of it."""
    later = {"status": "retry", "attempts": 7, "last_error": "KeyError: 'x'", "next_run_at": "2100-01-01 00:00:00+00"}
    button, command = await insert_events(db, 2, **later)
    picked = (await insert_events(db, 1, **later | {"status": "picked", "picked_at": "2100-01-01 00:00:00+00"}))[0]
    [scheduled] = await insert_events(db, 1, next_run_at="2100-01-01 00:00:00+00")
    async with api() as (client, running):
        said = await post(client, f"events/{button}/retry", {"by": "ada", "reason": "mail is back"})
        assert said["message"] == f"event {button} is tried now, with the attempts that it has left"
        assert await running.tap.next(RetriedNow) == RetriedNow((button,), "ada (127.0.0.1)")
        await running.tap.next(Settled)
        assert (await heard("events", "retry", str(command)))[0] == 0
        await running.tap.next(Settled)
        for other in (picked, scheduled, button):
            await post(client, f"events/{other}/retry", status=404)
        assert (await heard("events", "retry", str(picked), str(scheduled)))[0] == 1
    rows = {row["id"]: row for row in await read_table(db)}
    assert [rows[each]["status"] for each in (button, command, picked, scheduled)] == [
        "sent",
        "sent",
        "picked",
        "pending",
    ]
    assert rows[button]["attempts"] == 7
    notes = [(each["what"], each["actor"], each["error"]) for each in await read_table(db, "message_history")]
    assert notes[0] == ("retried", "ada (127.0.0.1)", "mail is back")
    assert len(notes) == 2


async def test_in_order_an_event_that_is_tried_now_goes_before_the_later_ones_of_its_aggregate(db, api):
    head, *later = await insert_events(db, 3, aggregate_id="one")
    failed = "SET status = 'retry', attempts = 1, next_run_at = '2100-01-01'"
    await db.execute(f"UPDATE messaging.message_outbox {failed} WHERE id = {head}")
    async with api(order="aggregate") as (client, _):
        await post(client, f"events/{head}/retry")
        await becomes(lambda: statuses(db), {"sent": 3})
    streamed = {row["id"]: tuple(map(int, row["stream_id"].split("-"))) for row in await read_table(db)}
    assert sorted(streamed, key=streamed.__getitem__) == [head, *later]


async def test_no_more_than_twenty_steps_of_an_event_are_kept_and_none_of_one_that_goes_well(db, session):
    [row, good] = await insert_events(db, 2)
    for attempt in range(25):
        await fail(db, session, row, FailedAttempt(0.0, f"error {attempt}"))
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [good])
    kept = await read_table(db, "message_history")
    assert [each["error"] for each in kept if each["outbox_id"] == row] == [f"error {n}" for n in range(5, 25)]
    assert {each["outbox_id"] for each in kept} == {row}
    await db.execute("CALL messaging.prune_message_dlq('0')")
    assert await read_table(db, "message_history") == []


@pytest.mark.parametrize("status", ["pending", "scheduled", "picked", "retry"])
async def test_unsettled_events_are_listed_by_status_and_paged_by_key(db, session, status):
    waiting = await insert_events(db, 4)
    later = await insert_events(db, 4, next_run_at="2100-01-01 00:00:00+00", event_type="order.paid")
    picked = await insert_events(db, 4, status="picked", picked_at="2025-06-01 00:00:00+00")
    tried = await insert_events(db, 4, status="retry", attempts=7, last_error="redis: ERR 12", next_run_at="now")
    expected = {"pending": waiting, "scheduled": later, "picked": picked, "retry": tried}[status]
    found: list[int] = []
    after, pages = None, 0
    while True:  # a window that is smaller than what lies between: a page may be empty, and the list goes on
        page = await list_events(session.fetch, status, Filter(), limit=3, after=after, window=2)
        events = json.loads(page.events)
        assert all(each["status"] == status for each in events)
        found += [each["id"] for each in events]
        after, pages = page.next, pages + 1
        if after is None:
            break
    assert (sorted(found), pages > 2) == (expected, True)
    everything = json.loads((await list_events(session.fetch, None, Filter(), limit=100)).events)
    assert len(everything) == 16


async def test_lists_obey_their_filters(db, session):
    await insert_events(db, 2)
    [paid] = await insert_events(db, 1, event_type="order.paid", aggregate_type="order", aggregate_id="o-1")
    [tried] = await insert_events(
        db, 1, status="retry", attempts=1, last_error="payload is 17 bytes", aggregate_id="o-2"
    )
    [sent] = await insert_events(db, 1, status="sent", sent_at="2025-06-01 00:00:00+00", aggregate_id="o-3")
    await bury(db, [dead := (await insert_events(db))[0]])

    async def ids(status: str | None = None, **which: Any) -> list[int]:
        page = await list_events(session.fetch, status, Filter(**which), limit=9)
        return [each["id"] for each in json.loads(page.events)]

    assert await ids(event_type="order.paid") == [paid]
    assert await ids(aggregate_type="order", aggregate_id="o-1") == [paid]
    assert await ids(error_code="payload is # bytes") == [tried]
    assert await ids(error_like="IS 17") == [tried]
    assert await ids(last_error="payload is 17 bytes", status="pending") == []
    assert await ids(status="sent", aggregate_id="o-3") == [sent]
    assert await ids(status="dead") == [dead]
    assert await ids(status="dead", aggregate_id="a1") == [dead]
    assert await ids(status="dead", aggregate_id="x") == await ids(status="sent", error_like="x") == []


async def test_an_empty_list_says_what_it_is_a_list_of(db, events):
    """One of what waits is empty on a quiet day: that there are no events it does not say."""
    await insert_events(db, 1, status="sent", sent_at="2025-06-01 00:00:00+00")
    others = "--status sent (or dead, discarded) lists the others."
    for arguments, said in (
        ((), f"No event waits. {others}"),
        (("--event-type", "x"), f"No event that waits matches. {others}"),
        (("--status", "dead"), "No event is dead."),
        (("--status", "sent", "--event-type", "x"), "No sent event matches."),
    ):
        code, out, _ = await events("list", *arguments)
        assert (code, out.strip()) == (0, said)


async def test_an_event_is_found_by_any_of_its_names_whatever_became_of_it(db, session, events):
    [sent] = await insert_events(db, 1, status="sent", sent_at="2025-06-01 00:00:00+00", aggregate_id="order-4711")
    [dead] = await insert_events(db, 1, aggregate_id="order-4711")
    [other] = await insert_events(db)
    await bury(db, [dead])
    rows = {row["id"]: row for row in await read_table(db)}

    async def ids(name: object) -> list[int]:
        code, out, _ = await events("find", str(name), "--json")
        assert code == 0
        return [each["id"] for each in json.loads(out)["events"]]

    assert await ids("order-4711") == [dead, sent]
    assert await ids("message/order-4711") == [dead, sent]
    assert await ids(sent) == [sent]
    assert await ids(rows[other]["event_id"]) == [other]
    assert await ids(rows[dead]["message_id"]) == [dead]
    await prune(db)  # rows go, the dead one's copy stays
    assert await ids("order-4711") == [dead]
    assert await ids("message/order-4711") == [dead]
    assert await ids(rows[dead]["message_id"]) == [dead]
    code, out, err = await events("find", str(uuid4()))
    assert (code, out) == (1, "")
    assert err.startswith(
        "dispatcher: no event has the row number, event_id, message_id, aggregate_id or type/aggregate_id"
    )
    # A table is walked in windows: every page but the last has a next one.
    await insert_events(db, 7)
    pages = [page := await find(session.fetch, "a1", limit=5, window=3)]
    while page.next is not None:
        pages.append(page := await find(session.fetch, "a1", limit=5, after=page.next, window=3))
    assert len(pages) == 3
    assert len([each for page in pages for each in json.loads(page.events)]) == 2


@pytest.mark.both_versions
@pytest.mark.parametrize("analyzed", [False, True])
async def test_an_event_that_never_died_is_shown_without_a_walk_of_the_dead_letter_queue(db, analyzed: bool) -> None:
    """It was walked once for each event that is shown."""
    await insert_copies(db, list(range(-20_000, 0)))  # their rows are gone
    [sent] = await insert_events(db, 1, status="sent", sent_at="2025-06-01 00:00:00+00")
    if analyzed:
        await db.execute("ANALYZE messaging.message_outbox, messaging.message_dlq")
    [event_id] = [row["event_id"] for row in await read_table(db) if row["id"] == sent]
    for name in ({"id": sent, "event_id": None}, {"id": None, "event_id": event_id}):
        parameters = {**name, "payload": True, "at_most": 1_000_000, "now": None}
        assert await blocks_read(db, load("event_show"), parameters) < await blocks_of(db, "message_dlq") / 4


async def test_what_is_asked_wrongly_is_said(db, api, events):
    async with api() as (client, _):
        for path, error in {
            "events?status=lost": "status must be one of pending, scheduled",
            "events?after=xyz": "`after` is not one that a page gave",
            "events/find": "q must be a row number, event_id, message_id or [type/]aggregate_id",
            "events/find?q=x&after=!": "`after` is not one",
            "events/x": "the event's id must be",
            "events/counts?x=1": "'x' is not a parameter here",
        }.items():
            assert (await get(client, path, 400))["error"].startswith(error), path
        assert (await get(client, "events/4711", 404)) == {"error": "no event has the id 4711"}
    assert (await events("list", "--after", "xyz"))[0] == 2


async def test_a_running_dispatcher_shows_what_failed_and_who_decided(db, api):
    """From the failure to the decision, over HTTP: the payload only when asked for."""
    async with api(max_payload_bytes=10, max_attempts=4) as (client, running):
        ids = await insert_events(db, 3, payload=json.dumps("canary-of-more-than-ten-bytes"))
        while len([row for each in running.tap.all(Buried) for row in each.rows]) < 3:
            await running.tap.next(Settled)
        counts = await get(client, "events/counts")
        assert counts == {"pending": 0, "scheduled": 0, "picked": 0, "retry": 0, "dead": 3, "complete": True}
        page = await get(client, "events?status=dead&limit=2")
        assert ([each["id"] for each in page["events"]], page["max_attempts"]) == (ids[:0:-1], 4)
        assert [
            each["id"] for each in (await get(client, f"events?status=dead&after={page['next']}"))["events"]
        ] == ids[:1]
        assert "canary" not in json.dumps(await get(client, f"events/{ids[0]}"))
        assert "canary" in json.dumps(await get(client, f"events/{ids[0]}?payload=1"))
        shown = await get(client, f"events/{ids[0]}")
        [step] = shown["history"]
        assert (step["what"], step["attempt"], step["by"] is None) == ("died", 1, False)
        assert (await post(client, f"dead-events/{ids[0]}/discard", {"by": "ada"}, 400))["error"] == (
            "reason must say why, in a few words"
        )
        assert await post(client, f"dead-events/{ids[0]}/discard", {"reason": "test data", "by": "ada"}) == {
            "status": "success",
            "message": f"event {ids[0]} is discarded",
            "event_id": ids[0],
        }
        assert await running.tap.next(DeadDiscarded) == DeadDiscarded((ids[0],), "ada (127.0.0.1)", "test data")
        again = await post(client, "dead-events/discard-batch", {"event_ids": ids[:2], "reason": "test data"})
        assert (again["requested"], again["processed"], again["not_dead"]) == (2, 1, [ids[0]])
        gone = await get(client, f"events/{ids[0]}?payload=1")
        assert (gone["status"], gone["in_outbox"], "canary" in gone["payload"]) == ("discarded", False, True)
        assert (gone["discarded"]["by"], gone["discarded"]["reason"]) == ("ada (127.0.0.1)", "test data")
        assert (await get(client, "dead-events"))["count"] == 1
        assert (await post(client, f"dead-events/{ids[0]}/retry", status=404))["error"].startswith("no dead event")
        await post(client, f"dead-events/{ids[2]}/retry", {"by": "ada", "reason": "mended"})
        while len([row for each in running.tap.all(Buried) for row in each.rows]) < 4:
            await running.tap.next(Settled)
        steps = [(each["what"], each["by"]) for each in (await get(client, f"events/{ids[2]}"))["history"]]
        assert (steps[1], [what for what, _ in steps]) == (("retried", "ada (127.0.0.1)"), ["died", "retried", "died"])


async def test_a_row_marked_dead_by_hand_and_a_copy_without_a_row_can_be_discarded(db, session):
    by_hand, pruned, alive = await insert_events(db, 3)
    await bury(db, [pruned])
    await prune(db)
    await db.execute("UPDATE messaging.message_outbox SET status = 'dead' WHERE id = %s", [by_hand])
    done = await decide(session.fetch, [by_hand, pruned, alive], Decision("discard", "ada", "never needed"))
    assert (done.ids, done.not_dead) == ((by_hand, pruned), (alive,))
    assert await statuses(db) == {"pending": 1}
    copies = await read_table(db, "message_dlq")
    assert all(copy["discarded_at"] is not None and copy["replayed_at"] is not None for copy in copies)
    assert len(copies) == 2
    assert (await decide(session.fetch, [by_hand, pruned], Decision("discard", "ada", "again"))).ids == ()


async def test_discarded_events_are_listed_with_who_decided_it_when_and_why(db, session, api, events):
    ids = await insert_events(db, 7)
    await bury(db, ids[:5], "payload is 17 bytes")  # at one moment
    await bury(db, ids[5:], "redis: ERR no")
    await db.execute(
        "UPDATE messaging.message_dlq SET died_at = '2026-11-29 12:00:00.123456+00' WHERE outbox_id <= %s", [ids[4]]
    )
    await decide(session.fetch, ids[:4], Decision("discard", "ada@host", "test data"))
    await decide(session.fetch, [ids[5]], Decision("discard", "bob@host", "the order was cancelled"))
    await decide(session.fetch, [ids[6]], Decision("retry", "bob@host", "mended"))
    expected = [ids[5], *ids[3::-1]]  # not the dead one, not the one that was retried
    for limit, window in ((2, 50), (2, 1), (9, 3), (5, 50)):
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page = await list_events(session.fetch, "discarded", Filter(), limit=limit, after=after, window=window)
            found += json.loads(page.events)
            if (after := page.next) is None:
                break
        assert [each["id"] for each in found] == expected, (limit, window)
    assert [(each["discarded"]["by"], each["discarded"]["reason"]) for each in found] == [
        ("bob@host", "the order was cancelled"),
        *[("ada@host", "test data")] * 4,
    ]

    async def chosen(**which: Any) -> list[int]:
        page = await list_events(session.fetch, "discarded", Filter(**which), limit=9)
        return [each["id"] for each in json.loads(page.events)]

    assert await chosen(error_code="payload is # bytes") == ids[3::-1]
    assert await chosen(error_like="ERR", aggregate_id="a6") == [ids[5]]
    assert await chosen(last_error="") == await chosen(event_type="x") == await chosen(aggregate_type="x") == []

    async with api() as (client, _):
        page = await get(client, "events?status=discarded&limit=2")
        assert [each["id"] for each in page["events"]] == expected[:2]
        rest = await get(client, f"events?status=discarded&after={page['next']}")
        assert ([each["id"] for each in rest["events"]], rest["next"]) == (expected[2:], None)
    code, out, err = await events("list", "--status", "discarded", "--limit", "2")
    lines = [re.split("  +", line.strip()) for line in out.splitlines()]
    assert (code, lines[0]) == (0, ["id", "event type", "aggregate", "when", "by", "reason"])
    assert [[line[0], *line[4:]] for line in lines[1:]] == [
        [str(ids[5]), "bob@host", "the order was cancelled"],
        [str(ids[3]), "ada@host", "test data"],
    ]
    after = err.split()[-1]
    again = json.loads((await events("list", "--status", "discarded", "--after", after, "--json"))[1])
    assert [each["id"] for each in again["events"]] == expected[2:]


async def test_sizes_of_one_error_are_one_group_with_its_figures(db, session, heard):
    for n in range(31):
        await bury(db, await insert_events(db), f"payload is {1_280_000 + n} bytes, of event {uuid4()}")
    await bury(db, await insert_events(db), "redis: ERR 1")
    code, out, _ = await heard("dlq", "stats", "--json")
    sizes, other = json.loads(out)["by_error"]
    assert (code, sizes["code"], sizes["count"], sizes["texts"]) == (0, "payload is # bytes, of event *", 31, 31)
    assert (sizes["figures"], sizes["event_types"]) == ([[1_280_000, 1_280_030]], ["order.created"])
    assert (other["code"], other["figures"]) == ("redis: ERR #", [])
    code, out, _ = await heard("dlq", "retry", "--error-code", sizes["code"], "--dry-run", "--json")
    assert json.loads(out)["requested"] == 31
    code, out, _ = await heard("dlq", "discard", "--error-like", "ERR 1", "--reason", "nobody needs it", "--yes")
    assert (code, out) == (0, "Dead events that match: 1\nDiscarded 1 event.\n")
    assert "1280000 to 1280030" in (await heard("dlq", "stats"))[1]


async def test_the_pause_is_switched_over_http_with_who_and_why(db, api):
    async with api() as (client, running):
        assert await get(client, "pause") == {"paused": False, "by": None, "reason": None, "since": None}
        said = await post(client, "pause", {"reason": "a migration", "by": "ada"})
        assert (said["paused"], said["changed"], said["by"], said["reason"]) == (
            True,
            True,
            "ada (127.0.0.1)",
            "a migration",
        )
        changed = await running.tap.next(PauseChanged)
        assert (changed.paused, changed.by, changed.reason) == (True, "ada (127.0.0.1)", "a migration")
        assert not (await post(client, "pause", {"by": "bob"}))["changed"]
        assert (await post(client, "resume"))["changed"]
        assert not (await running.tap.next(PauseChanged)).paused
