"""`dispatcher dlq`: what it shows, what it puts back, what it refuses."""

import io
import json
import os
import pty
import re
from functools import partial
from uuid import uuid4

import pytest

from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.dead_letters.decide import Bulk, Decided, Decision, decide, find_dead
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.session import OperatorSession
from tests.support.command import HearCommand
from tests.support.dead_letters import bury, prune
from tests.support.rows import insert_events, read_table, statuses


@pytest.fixture
def dlq(heard: HearCommand) -> HearCommand:
    """The command's exit code, standard output and standard error. Nobody is there to ask."""
    return partial(heard, "dlq")


async def test_none_is_dead(dlq):
    assert await dlq("list") == (0, "No event is dead.\n", "")
    code, out, err = await dlq("retry", "--error", "x", "--yes")
    assert (code, out, "the whole text" in err) == (0, "Dead events that match: 0\n", True)
    assert await dlq("list", "--event-type", "x") == (0, "No dead event matches.\n", "")
    assert await dlq("stats") == (0, "dead: 0\n", "")
    assert await dlq("retry", "--all", "--yes") == (0, "Dead events that match: 0\n", "")


async def test_looking(dlq, db):
    ids = await insert_events(db, 3, aggregate_id="a\x1b[31m\nb")
    await bury(db, ids, "ERR one")
    paid = await insert_events(db, 1, event_type="order.paid")
    await bury(db, paid, "ERR two")
    code, out, err = await dlq("list", "--limit", "2")
    assert (code, err) == (0, "There may be more: --before 3\n")
    head, first, second = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert head[:3] == ["id", "event type", "aggregate"]
    assert (first[0], first[1], first[-1]) == (str(paid[0]), "order.paid", "ERR two")
    assert (second[0], second[2]) == (str(ids[-1]), "a\\x1b[31m\\x0ab")
    assert len({line.index("ERR") for line in out.splitlines()[1:]}) == 1  # aligned, though nobody looks
    page = json.loads((await dlq("list", "--json", "--error", "ERR one", "--offset", "1"))[1])
    assert ([event["id"] for event in page["events"]], page["count"], page["offset"]) == (ids[1::-1], 2, 1)
    lines = [re.split(r"  +", line.strip()) for line in (await dlq("stats"))[1].splitlines()]
    assert lines[:2] == [["dead: 4"], ["count", "newest", "error code", "figures"]]
    assert [[line[0], line[2]] for line in lines[2:4]] == [["3", "ERR one"], ["1", "ERR two"]]
    assert lines[4:] == [
        ["count", "event type", "aggregate type"],
        ["3", "order.created", "message"],
        ["1", "order.paid", "message"],
    ]
    assert json.loads((await dlq("stats", "--json", "--aggregate-type", "message"))[1])["total"] == 4
    code, out, _ = await dlq("show", str(ids[0]))
    shown = dict(re.split(": +", line, maxsplit=1) for line in out.splitlines())
    assert (code, shown["id"], shown["last_error"], "payload" in shown) == (0, str(ids[0]), "ERR one", False)
    assert json.loads((await dlq("show", shown["event_id"], "--payload", "--json"))[1])["payload"] == {"n": 1}
    assert await dlq("show", "999") == (
        1,
        "",
        "dispatcher: no dead event has the id 999; see `dispatcher events show 999`\n",
    )


async def test_retrying_those_named(dlq, db):
    ids = await insert_events(db, 3)
    await bury(db, ids)
    [first, *_] = await read_table(db)
    await prune(db)
    assert await dlq("retry", str(first["event_id"]), str(ids[1])) == (0, "Retried 2 events.\n", "")
    stranger = str(uuid4())
    assert await dlq("retry", str(ids[1]), str(ids[2]), stranger) == (
        1,
        "Retried 1 event.\n",
        f"Not retried, because not dead: 2 events ({ids[1]}, {stranger})\n"
        f"  {ids[1]} is pending: it goes out by itself\n"
        f"  {stranger}: no such event; `dispatcher events find {stranger}` looks for other names\n",
    )
    assert await statuses(db) == {"pending": 3}


async def test_an_event_is_decided_on_where_it_was_found(heard, db):
    """`events retry` and `discard` are one step from `events show`; of what is not dead they say what it is."""
    dead, gone, tried, sent = ids = await insert_events(db, 4)
    await bury(db, ids[:2], "ERR refused")
    failed = "UPDATE messaging.message_outbox SET status = 'retry', next_run_at = '2100-01-01' WHERE id = %s"
    await db.execute(failed, [tried])
    assert f"Try it now: `dispatcher events retry {tried}`" in (await heard("events", "show", str(tried)))[2]
    code, out, err = await heard("dlq", "retry", str(tried))  # dead ones only
    assert (code, out) == (1, "Retried 0 events.\n")
    instead = rf"^  {tried} is tried again by itself at 2100\S+; `dispatcher events retry {tried}` tries it now$"
    assert re.search(instead, err, re.MULTILINE)
    await db.execute("UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [sent])
    assert f"`dispatcher events retry {dead}`" in (await heard("events", "show", str(dead)))[2]
    assert "`dispatcher events retry ID`" in (await heard("events", "list", "--status", "dead"))[2]
    assert "events retry" not in (await heard("events", "show", str(sent)))[2]

    named = [str(each) for each in (dead, tried, sent)]
    code, out, err = await heard("events", "retry", *named, "--reason", "mail is back")
    trying = "Trying 1 event now, with the attempts that it has left. See what became of it in a moment: "
    assert (code, out) == (1, f"Retried 1 event.\n{trying}`dispatcher events show {tried}`.\n")
    event_id = (await read_table(db))[-1]["event_id"]
    assert f"Not retried, because neither dead nor tried again: 1 event ({sent})\n" in err
    assert f"  {sent} was sent: `dispatcher replay --event-id {event_id}` publishes it again\n" in err
    assert (await heard("events", "discard", str(gone)))[0] == 2  # not without a reason
    code, out, _ = await heard("events", "discard", str(gone), "--reason", "a test order", "--json")
    assert (code, json.loads(out)) == (0, {"requested": 1, "processed": 1, "not_dead": []})
    assert "was discarded by" in (await heard("events", "retry", str(gone)))[2]
    for event, what, why in (
        (dead, "retried", "mail is back"),
        (tried, "retried", "mail is back"),
        (gone, "discarded", "a test order"),
    ):
        steps = json.loads((await heard("events", "show", str(event), "--json"))[1])["history"]
        step = next(each for each in steps if each["what"] == what)
        assert (step["error"], "@" in step["by"]) == (why, True)


async def test_retrying_says_so_in_json_as_the_api_does(dlq, db):
    ids = await insert_events(db, 3)
    await bury(db, ids)
    stranger = str(uuid4())
    code, out, err = await dlq("retry", str(ids[0]), stranger, "--json")
    assert (code, json.loads(out), err) == (1, {"requested": 2, "processed": 1, "not_dead": [stranger]}, "")
    code, out, err = await dlq("retry", "--all", "--dry-run", "--json")
    assert (code, json.loads(out), err) == (0, {"requested": 2, "processed": 0, "not_dead": []}, "")
    code, out, err = await dlq("retry", "--all", "--yes", "--json")
    assert (code, json.loads(out), err) == (0, {"requested": 2, "processed": 2, "not_dead": []}, "")
    code, out, err = await dlq("retry", "--all", "--yes", "--json")
    assert (code, json.loads(out), err) == (0, {"requested": 0, "processed": 0, "not_dead": []}, "")


async def test_many_are_found_in_pages_and_retried_in_batches(database_url, db):
    ids = await insert_events(db, 7)
    await bury(db, ids)
    said = []
    async with OperatorSession(PostgresTarget(database_url, "test"), "test") as letters:
        fetch = letters.session.fetch
        run = Bulk(lambda some: decide(fetch, some, Decision("retry")), Decided(), batch=3)
        events = await find_dead(fetch, Filter(), page=2)
        assert events == ids
        await run.run([*events, 999], lambda done, of: said.append((done, of)))
    assert (len(run.done.ids), run.done.not_dead, said) == (7, (999,), [(3, 8), (6, 8), (8, 8)])
    assert await statuses(db) == {"pending": 7}


async def test_retrying_those_that_match(dlq, db):
    ids = await insert_events(db, 7)
    await bury(db, ids, "ERR one")
    others = await insert_events(db, 2)
    await bury(db, others, "ERR two")
    assert await dlq("retry", "--error", "ERR one", "--dry-run") == (0, "Dead events that match: 7\n", "")
    assert await statuses(db) == {"dead": 9}
    assert await dlq("retry", "--error", "ERR one", "--yes") == (
        0,
        "Dead events that match: 7\nRetried 7 events.\n",
        "",
    )
    rows = {row["id"]: row for row in await read_table(db)}
    assert [row_id for row_id, row in rows.items() if row["status"] == "pending"] == ids
    assert sorted(ids, key=lambda row_id: (rows[row_id]["next_run_at"], row_id)) == ids  # go out as they were inserted
    assert (await dlq("retry", "--all", "--yes"))[1].endswith("Retried 2 events.\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["retry"], "Choose the events in one way: by ids, by filters"),
        (["retry", "7", "--all"], "Choose the events in one way"),
        (["retry", "7", "--event-type", "x"], "Choose the events in one way"),
        (["retry", "--all"], "There is no terminal to ask on"),
        (["retry", "7", "--dry-run"], "`dlq show` looks at one event"),
        (["retry", "x"], "'x' is no event: it must be the number of a row"),
        (["show", "0"], "'0' is no event"),
        (["list", "--limit", "1001"], "1<=x<=1000"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
async def test_bad_usage(dlq, monkeypatch, arguments, complaint):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out, err = await dlq(*arguments)
    assert (code, out) == (2, "")
    assert complaint in re.sub(r"[\s│]+", " ", err)


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, "pending"), ("n", 1, "dead")])
async def test_a_person_is_asked(dlq, db, monkeypatch, answer, code, left):
    await bury(db, await insert_events(db))
    keyboard, terminal = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as typing, os.fdopen(terminal) as read:
        monkeypatch.setattr("sys.stdin", read)
        typing.write(f"{answer}\n".encode())
        ended, out, _ = await dlq("retry", "--all")
    assert ended == code
    assert "Publish them again? [y/N]" in out
    assert await statuses(db) == {left: 1}


async def test_what_is_wrong_with_the_database_is_said(dlq, empty_database_url):
    code, _, err = await dlq("list", "--database-url", empty_database_url)
    assert (code, "run `dispatcher migrate` first" in err) == (2, True)
    code, _, err = await dlq("stats", "--dsn", "host=127.0.0.1 port=1 dbname=x")
    assert (code, "nothing listens there" in err) == (1, True)
