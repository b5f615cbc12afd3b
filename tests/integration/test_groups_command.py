"""`dispatcher groups dead`, `retry`, `discard` and `destroy`: what consumers have put away, and who reads no more."""

import json
import re
import uuid
from typing import Any

import pytest
from anyio import to_thread
from redis.asyncio import Redis

from dispatcher.commands.groups.destroy import asked_about
from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.events import Sampled
from dispatcher.core.layout import Layout
from dispatcher.infra.redis.client import open_client
from dispatcher.ops.destroy_group import Abandoned
from dispatcher.ops.groups import GroupsQuestion, read_groups
from dispatcher.sidecar.diagnosis import diagnose
from dispatcher.sidecar.history import RecentWindow
from tests.support.command import HearCommand
from tests.support.consumers import DEAD, GROUP, consuming, group, publish
from tests.support.readme import blocks, page
from tests.support.redis import StartCluster, StartValkey
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.waiting import until


async def put_away(redis: Any, event_id: object, **fields: str) -> str:
    """An entry in the dead stream, as a consumer adds it; its id."""
    entry = {
        "event_id": str(event_id),
        "event_type": "order.created",
        "aggregate_id": "42",
        "payload": '{"card": "4242"}',
        "dead_reason": "LookupError at billing.py:20",
        "dead_deliveries": "10",
    }
    return str(await redis.xadd(DEAD, entry | fields))


async def sent(db: Any, n: int) -> list[uuid.UUID]:
    """The event ids of rows that were sent."""
    ids = await insert_events(db, n, status="sent", sent_at="2026-01-01 00:00:00+00")
    return [row["event_id"] for row in await read_table(db) if row["id"] in ids]


async def test_what_a_consumer_puts_away_is_counted_listed_and_published_again(
    dispatcher, heard: HearCommand, db, redis, redis_url: str
):
    """From the failure to the second try, with the real consumer, and without a payload that nobody asked for."""
    fails = True

    def behave(event: Any) -> None:
        if fails:
            raise LookupError("4242")

    async with dispatcher(tick_ms=20) as _, consuming("asyncio", redis_url, group(max_deliveries=1), behave) as running:
        await insert_events(db, 1, payload='{"card": 4242}')
        first = await running.next()
        await until(lambda: redis.xlen(DEAD), "it was put away")
        [state] = json.loads((await heard("groups", "--json"))[1])["streams"][0]["groups"]
        assert (state["name"], state["dead"]) == (GROUP, 1)
        head, row = (await heard("groups"))[1].splitlines()[1:3]
        assert row[: head.index("dead") + 4].split()[-1] == "1"

        code, out, err = await heard("dlq", "list")
        assert (code, out.strip()) == (0, "No event is dead.")
        assert f"the group {GROUP} have put away 1 entry: `dispatcher groups dead {GROUP}`" in err

        code, out, _ = await heard("groups", "dead", GROUP)
        assert (code, "LookupError at test_groups_command.py:" in out, "4242" in out) == (0, True, False)
        entry = out.splitlines()[1].split()[0]
        out = (await heard("groups", "dead", GROUP, entry))[1]
        assert (str(first.event_id) in out, "4242" in out) == (True, False)
        assert "4242" in (await heard("groups", "dead", GROUP, entry, "--payload"))[1]

        fails = False
        code, out, _ = await heard("groups", "retry", GROUP, entry)
        assert (code, out.strip()) == (0, "Retried 1 entry.")
        again = await running.next()
        assert (again.event_id, again.deliveries) == (first.event_id, 1)
    assert await redis.xlen(DEAD) == 0
    assert (await heard("groups", "dead", GROUP))[1].strip() == f"No entry is in the dead stream of {GROUP}."
    assert (await heard("dlq", "list"))[2] == ""


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1"])
async def test_dlq_needs_no_redis(url: str, heard: HearCommand, db):
    assert await heard("dlq", "list", REDIS_URL=url) == (0, "No event is dead.\n", "")


async def test_an_entry_whose_event_is_not_published_again_stays(heard: HearCommand, db, redis):
    """It may be the last copy: of a pruned row, or no event at all. A retry of those alone touches no other row."""
    [known, other] = await sent(db, 2)
    pruned, foreign = uuid.uuid4(), "none"
    ids = [await put_away(redis, each) for each in (pruned, foreign)]
    code, out, err = await heard("groups", "retry", GROUP, *ids)
    assert (code, out.strip()) == (1, "Retried 0 entries.")
    assert "it was pruned" in err
    assert "it is no event of ours" in err
    code, out, _ = await heard("groups", "retry", GROUP, ids[1], "--json")
    assert (code, json.loads(out)["processed"], await statuses(db)) == (1, 0, {"sent": 2})

    twice = [await put_away(redis, known) for _ in range(2)]  # a crash of the consumer doubles it
    code, out, _ = await heard("groups", "retry", GROUP, "--all", "--yes", "--json")
    assert code == 1
    said = json.loads(out)
    assert (said["requested"], said["processed"]) == (4, 2)
    assert [(each["id"], each["event_id"]) for each in said["left"]] == [(ids[0], str(pruned)), (ids[1], foreign)]
    assert {row["event_id"]: row["status"] for row in await read_table(db)} == {known: "pending", other: "sent"}
    assert [entry_id for entry_id, _ in await redis.xrange(DEAD)] == ids
    assert twice[0] not in ids

    again = await put_away(redis, known)
    code, _, err = await heard("groups", "retry", GROUP, again)
    assert (code, "its row is 'pending'" in err, await redis.xlen(DEAD)) == (1, True, 3)


async def test_a_row_that_somebody_holds_keeps_its_entry(heard: HearCommand, db, redis, database_url: str):
    [free, held] = await sent(db, 2)
    ids = {event: await put_away(redis, event) for event in (free, held)}
    async with db.transaction():
        await db.execute("SELECT FROM messaging.message_outbox WHERE event_id = %s FOR UPDATE", [held])
        code, out, err = await heard("groups", "retry", GROUP, "--all", "--yes")
    assert (code, out.splitlines()[-1]) == (1, "Retried 1 entry.")
    assert f"Entry {ids[held]} stays, event {held}: somebody locked or changed its row" in err
    assert [entry_id for entry_id, _ in await redis.xrange(DEAD)] == [ids[held]]


async def test_all_are_taken_in_batches_and_pages(heard: HearCommand, db, redis):
    events = await sent(db, 450)
    ids = [await put_away(redis, event) for event in events]
    code, out, err = await heard("groups", "dead", GROUP, "--limit", "2")
    assert (code, [line.split()[0] for line in out.splitlines()[1:]]) == (0, ids[:-3:-1])
    assert err.strip() == f"There may be more: --before {ids[-2]}"
    out = (await heard("groups", "dead", GROUP, "--json", "--before", ids[1]))[1]
    [first] = json.loads(out)["entries"]
    assert (first["id"], first["dead_stream"], "payload" in first) == (ids[0], DEAD, False)
    assert (await heard("groups", "retry", GROUP, "--all", "--dry-run"))[1].strip().endswith(": 450")
    assert await statuses(db) == {"sent": 450}
    code, out, _ = await heard("groups", "retry", GROUP, "--all", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "Retried 450 entries.")
    assert (await statuses(db), await redis.xlen(DEAD)) == ({"pending": 450}, 0)


async def test_discard_deletes_for_good_and_asks_first(heard: HearCommand, db, redis):
    ids = [await put_away(redis, uuid.uuid4()) for _ in range(3)]
    code, _, err = await heard("groups", "discard", GROUP, ids[0])
    assert (code, "--yes" in err, await redis.xlen(DEAD)) == (2, True, 3)
    code, out, _ = await heard("groups", "discard", GROUP, ids[0], "--yes")
    assert (code, out.strip(), await redis.xlen(DEAD)) == (0, "Discarded 1 entry.", 2)
    code, _, err = await heard("groups", "discard", GROUP, ids[0], "--yes")
    assert (code, f"no entry {ids[0]} is in {DEAD}" in err) == (1, True)
    assert (await heard("groups", "discard", GROUP, "--all", "--yes"))[0] == 0
    assert await redis.xlen(DEAD) == 0


async def test_shards_have_a_dead_stream_each_and_a_named_one_is_asked_for(heard: HearCommand, db, redis):
    [first, second] = await sent(db, 2)
    fields = {"event_id": str(first), "dead_reason": "Dead"}
    of_shard = f"{STREAM}:{{1}}:{GROUP}:dead"
    await redis.xadd(of_shard, fields, id="5-1")
    await redis.xadd("elsewhere", fields | {"event_id": str(second)}, id="5-1")
    env = {"DISPATCH_STREAM_SHARDS": "2"}
    out = (await heard("groups", "dead", GROUP, "--json", **env))[1]
    assert [each["dead_stream"] for each in json.loads(out)["entries"]] == [of_shard]
    await redis.xadd(f"{STREAM}:{{0}}:{GROUP}:dead", {"n": "1"}, id="5-1")
    code, _, err = await heard("groups", "discard", GROUP, "5-1", "--yes", **env)
    assert (code, "choose one with --dead-stream" in err) == (1, True)
    assert (await heard("groups", "discard", GROUP, "5-1", "--yes", "--dead-stream", of_shard, **env))[0] == 0
    assert await redis.xlen(of_shard) == 0
    assert (await heard("groups", "retry", GROUP, "5-1", "--dead-stream", "elsewhere", **env))[0] == 0
    assert await statuses(db) == {"sent": 1, "pending": 1}


async def test_an_abandoned_group_is_destroyed_and_one_that_is_read_is_not(heard: HearCommand, db, redis, redis_url):
    await publish(redis, "42")
    async with consuming("asyncio", redis_url, group()) as running:
        await running.next()
        code, _, err = await heard("groups", "destroy", GROUP, "--yes")
        assert (code, f"the consumer {running.name} of the group {GROUP} asked {STREAM}" in err) == (1, True)
    await put_away(redis, uuid.uuid4())
    code, _, err = await heard("groups", "destroy", GROUP)
    assert (code, "--yes" in err, len(await redis.xinfo_groups(STREAM))) == (2, True, 1)
    code, out, _ = await heard("groups", "destroy", GROUP, "--yes")
    assert (code, f"Destroyed the group {GROUP}." in out, "keeps 1 entry" in out) == (0, True, True)
    assert await redis.xinfo_groups(STREAM) == []
    code, _, err = await heard("groups", "destroy", GROUP, "--yes")
    assert (code, f"has a group {GROUP}" in err) == (1, True)


async def test_who_may_not_look_is_told_the_right_that_is_missing(heard: HearCommand, db, own_valkey: StartValkey):
    """The groups are shown all the same."""
    server = own_valkey()
    async with Redis.from_url(server.url) as admin:
        await admin.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        await admin.acl_setuser("app", enabled=True, passwords="+right", keys=[STREAM], commands=["+@all"])
    url = server.url.replace("redis://", "redis://app:right@")
    code, out, _ = await heard("groups", "--json", REDIS_URL=url)
    assert (code, json.loads(out)["streams"][0]["groups"][0]["dead"]) == (0, None)
    code, _, err = await heard("groups", "dead", GROUP, REDIS_URL=url)
    assert (code, f"ACL SETUSER ... ~{DEAD} +xrevrange" in err) == (2, True)


async def test_the_rights_of_the_documentation_are_enough(heard: HearCommand, db, own_valkey: StartValkey):
    server = own_valkey()
    *_, line = blocks("The dead stream of a group", "", page("runbook/consumers.md"))
    [event] = await sent(db, 1)
    async with Redis.from_url(server.url, decode_responses=True) as admin:
        await admin.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        ids = [await put_away(admin, each) for each in (event, "none")]
        await admin.execute_command(*line.split())  # type: ignore[no-untyped-call]
        url = server.url.replace("redis://", "redis://operator:secret@")
        for words in (
            [],
            ["dead", GROUP],
            ["dead", GROUP, ids[0]],
            ["retry", GROUP, ids[0]],
            ["discard", GROUP, "--all", "--yes"],
            ["destroy", GROUP, "--yes"],
        ):
            code, _, err = await heard("groups", *words, REDIS_URL=url)
            assert code == 0, (words, err)
        assert [entry for entry in await admin.acl_log() if entry["username"] == "operator"] == []


async def test_in_a_cluster_each_shard_is_asked_where_it_lies(
    heard: HearCommand, db, own_cluster: StartCluster, redis_url: str
):
    cluster = await to_thread.run_sync(lambda: own_cluster(replicas=0))
    env = {"REDIS_URL": cluster.url, "DISPATCH_STREAM_SHARDS": "8"}
    events = await sent(db, 8)
    async with open_client(cluster.url, 5.0) as client:
        for number, (key, event) in enumerate(zip(Layout(STREAM, 8).keys, events, strict=True), 1):
            await client.xgroup_create(key, GROUP, "0", mkstream=True)
            # Shards may give the same id in one millisecond, and one that stands in two of them is refused.
            await client.xadd(f"{key}:{GROUP}:dead", {"event_id": str(event), "dead_reason": "Dead"}, f"{number}-0")
    streams = json.loads((await heard("groups", "--json", **env))[1])["streams"]
    assert [each["groups"][0]["dead"] for each in streams] == [1] * 8
    entries = json.loads((await heard("groups", "dead", GROUP, "--json", **env))[1])["entries"]
    assert {each["event_id"] for each in entries} == {str(event) for event in events}
    code, out, _ = await heard("groups", "discard", GROUP, entries[0]["id"], "--yes", **env)
    assert (code, out.strip()) == (0, "Discarded 1 entry.")
    code, out, _ = await heard("groups", "retry", GROUP, "--all", "--yes", **env)
    assert (code, out.splitlines()[-1]) == (0, "Retried 7 entries.")
    code, out, _ = await heard("groups", "destroy", GROUP, "--yes", **env)
    assert (code, out.count("read up to")) == (0, 8)
    for words in (["dead", GROUP], ["destroy", GROUP, "--yes"]):
        code, _, err = await heard("groups", *words, REDIS_URL=cluster.url.replace("redis+cluster", "redis"))
        assert (code, "cluster" in err.lower()) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "dead", GROUP], "Write the options behind 'dead'"),
        (["retry", GROUP], "Choose the entries in one way"),
        (["retry", GROUP, "1-1", "--all"], "Choose the entries in one way"),
        (["dead", GROUP, "47"], "'47' is no id of an entry"),
        (["dead", GROUP, "--payload"], "--payload is shown with --json, or for one entry"),
        (["retry", GROUP, "--all"], "give --yes"),
    ],
)
async def test_wrong_usage(arguments: list[str], words: str, heard: HearCommand):
    code, _, err = await heard("groups", *arguments)
    assert (code, words in err) == (2, True)


async def test_who_read_last_is_named_where_destroy_or_not_is_asked(heard: HearCommand, redis, redis_url: str):
    await redis.xgroup_create(STREAM, "reports", id="0", mkstream=True)
    for number in range(100):
        await redis.xadd(STREAM, {"n": number})
    await redis.xreadgroup("reports", "reports-7f9c4-xkq2v", {STREAM: ">"}, count=10)
    [[stream], _] = await read_groups(GroupsQuestion(redis_url, (STREAM,), 100))
    assert [group.reader for group in stream.groups] == ["reports-7f9c4-xkq2v"]
    listed = (await heard("groups", REDIS_STREAM_MAXLEN="150"))[1]
    assert re.search(r"^reports was read last by its consumer reports-7f9c4-xkq2v, \d+ s ago\.$", listed, re.M)
    asked = Abandoned(STREAM, 0, "0-0", (("reports-7f9c4-xkq2v", 97.0),))
    assert asked_about(asked) == [
        f"{STREAM}: read up to 0-0, 0 not acknowledged",
        "  its consumer reports-7f9c4-xkq2v asked for entries 97 s ago",
    ]


async def test_a_group_that_goes_on_putting_events_away_needs_somebody_now(
    dispatcher, heard: HearCommand, db, redis, database_url
):
    """With its last error, and at what rate; afterwards by morning."""
    await redis.xgroup_create(STREAM, GROUP, mkstream=True)
    for _ in range(3):
        last = await put_away(redis, uuid.uuid4(), dead_reason="KeyError at stage.py:90")
    async with dispatcher() as running:
        sample = await running.tap.next(Sampled, lambda each: each.group_dead.get(GROUP) == 3)
        at = int(last.split("-")[0]) / 1000
        assert sample.group_put_away == {GROUP: LastPutAway(at, "KeyError at stage.py:90")}
        [need] = json.loads((await heard("status", "--json"))[1])["attention"]
        assert (need["level"], need["needs_somebody"]) == ("bad", "now")
        assert need["what"].endswith("; still going on; the last error: KeyError at stage.py:90")
        assert "4242" not in need["what"]
        await redis.xadd(DEAD, {"dead_reason": "KeyError at stage.py:91"})
        sample = await running.tap.next(
            Sampled, lambda each: each.group_put_away[GROUP].error == "KeyError at stage.py:91"
        )
        at = sample.group_put_away[GROUP].at
        state = running.service.report().state
        [need] = diagnose(state, RecentWindow(put_away_rates={GROUP: 10.2}), at + 1)
        assert "have put 4 events away: they failed too often there; still going on, 10 a second; the" in need.what
        [need] = diagnose(state, RecentWindow(), at + 61.5)
        assert (need.level, need.needs_somebody) == ("warn", "by morning")
        assert re.search(r"; the last at \S+ UTC; the last error: KeyError at stage.py:91$", need.what)
