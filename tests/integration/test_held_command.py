"""`dispatcher held`: what it shows, what it retries and skips, what it refuses. And `prune` beside it."""

import json
import re
from functools import partial

import pytest

from tests.integration.test_held import add, fail
from tests.support.command import HearCommand
from tests.support.dead_letters import bury
from tests.support.layouts import stand_in_order
from tests.support.rows import read_table


@pytest.fixture
def held(heard: HearCommand) -> HearCommand:
    """The command's exit code, standard output and standard error. Nobody is there to ask."""
    return partial(heard, "held")


async def test_without_order_it_says_so(held, db):
    [head, _] = await add(db, "a", 2)
    await fail(db, head)
    off = "Order is off (DISPATCH_ORDER=none): no event waits for another one."
    assert await held("list") == (0, f"{off}\n", "")
    assert json.loads((await held("list", "--json"))[1]) == {
        "aggregates": [],
        "total": 0,
        "count": 0,
        "limit": 20,
        "order": "none",
        "order_on_dead": None,
    }
    for arguments in (["retry", str(head)], ["skip", str(head), "--reason", "x"], ["retry", "--all", "--yes"]):
        code, out, err = await held(*arguments)
        assert (code, out, off in err) == (1, "", True)


async def test_what_it_shows(held, db):
    await stand_in_order(db, "hold")
    assert await held("list") == (0, "No aggregate is held.\n", "")
    assert await held("list", "--aggregate-id", "x") == (0, "No held aggregate matches.\n", "")
    dead, *_ = await add(db, "a\x1b[31m", 3)
    tried, *_ = await add(db, "b", 2)
    await bury(db, [dead], "ERR dead")
    await fail(db, tried, delay_s=7165.0, error="ERR tried")
    code, out, err = await held("list", "--limit", "2")
    total, head, first, second, *words = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert (code, err, total) == (0, f"There may be more: --after {tried}\n", ["held aggregates: 2"])
    assert head == ["id", "aggregate type", "aggregate", "waiting", "held", "state", "next try", "attempts", "error"]
    assert [*first[:4], *first[5:]] == [str(dead), "conversation", "a\\x1b[31m", "2", "dead", "-", "1", "ERR dead"]
    assert [*second[:4], *second[5:]] == [str(tried), "conversation", "b", "1", "retry", "in 119 min", "1", "ERR tried"]
    assert [line[0].partition(":")[0] for line in words] == ["retry", "dead"]
    page = json.loads((await held("list", "--json", "--after", str(dead)))[1])
    assert [each["id"] for each in page.pop("aggregates")] == [tried]
    assert page == {"total": 2, "count": 1, "limit": 20, "order": "aggregate", "order_on_dead": "hold"}


async def test_retry_and_skip_of_those_named(held, db):
    await stand_in_order(db)
    one, *_ = await add(db, "a", 2)
    other, *_ = await add(db, "b", 2)
    await fail(db, one)
    await fail(db, other)
    assert await held("retry", str(one)) == (
        0,
        "Retried 1 event. See what became of it in a moment: `dispatcher held list`.\n",
        "",
    )
    code, out, err = await held("skip", str(other), "999", "--reason", " not \n needed ")
    assert (code, out) == (1, "Skipped 1 event.\n")
    assert err == "Not skipped, because holding nothing: 1 event (999)\n"
    table = await read_table(db, "message_history")
    notes = [(note["what"], note["error"]) for note in table if note["what"] != "failed"]
    assert notes == [("retried", None), ("skipped", "not needed")]
    assert json.loads((await held("skip", str(other), "--json", "--reason", "x"))[1]) == {
        "requested": 1,
        "processed": 0,
        "in_flight": [],
        "not_held": [other],
    }
    await db.execute("UPDATE messaging.message_outbox SET status = 'picked', picked_at = now() WHERE id = %s", [one])
    code, out, err = await held("skip", str(one), "--reason", "x")
    assert (code, err) == (1, f"Not skipped, because being tried now, ask again: 1 event ({one})\n")
    events = (await held("list", "--json"))[1]
    assert [each["state"] for each in json.loads(events)["aggregates"]] == ["in_flight"]


async def test_the_history_of_a_skipped_event_is_shown(heard, db):
    await stand_in_order(db)
    head, *_ = await add(db, "a", 2)
    await fail(db, head)
    await heard("held", "skip", str(head), "--reason", "the order was cancelled")
    code, out, _ = await heard("events", "show", str(head))
    assert (code, "skipped" in out, "the order was cancelled" in out, "discarded:" in out) == (0, True, True, True)


async def test_those_that_match_are_counted_first(held, db):
    await stand_in_order(db)
    heads = [(await add(db, f"a{n}", 2))[0] for n in range(3)]
    for n, head in enumerate(heads):
        await fail(db, head, error=f"ERR {n % 2}")
    some = ("skip", "--error-like", "err 0", "--reason", "x")
    assert await held(*some, "--dry-run") == (0, "Held aggregates that match: 2\n", "")
    code, out, err = await held(*some)
    assert (code, out, "no terminal to ask on" in err) == (2, "", True)
    assert await held(*some, "--yes") == (0, "Held aggregates that match: 2\nSkipped 2 events.\n", "")
    assert json.loads((await held("retry", "--all", "--yes", "--json"))[1])["processed"] == 1
    for wrong in (["skip", "1"], ["retry"], ["retry", "1", "--all"], ["retry", "1", "--dry-run"], ["retry", "x"]):
        assert (await held(*wrong))[0] == 2


async def test_prune_says_how_many_dead_rows_it_left(heard, db):
    await stand_in_order(db, "hold")
    dead, *_ = await add(db, "a", 2)
    await bury(db, [dead])
    later = ("prune", "--outbox-older-than", "0s", "--only", "outbox")
    code, out, _ = await heard(*later, "--dry-run")
    assert (code, "0 settled rows" in out, "1 dead row left, because it holds later events" in out) == (0, True, True)
    code, out, _ = await heard(*later)
    assert (code, "1 dead row left, because it holds later events" in out) == (0, True)
    assert json.loads((await heard(*later, "--json"))[1])["held_rows"] == 1
    assert len(await read_table(db)) == 2
