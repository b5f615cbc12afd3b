"""What `status`, `doctor` and `groups` say needs somebody: what the dispatchers say, not what this environment says."""

import json
import re
import time

import anyio
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import BackpressureChanged, Published, Republished, Sampled, Settled
from dispatcher.core.findings.condition import Condition
from dispatcher.core.findings.group_needs import not_read
from dispatcher.core.layout import Route
from dispatcher.core.process_state import Trouble
from dispatcher.core.timestamps import seconds_of
from dispatcher.sidecar.diagnosis import diagnose
from dispatcher.sidecar.history import RecentWindow, shards_of
from tests.support.command import HearCommand
from tests.support.dead_letters import bury
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events
from tests.support.waiting import until

MAXLEN = 100


def kinds(output: str) -> list[tuple[str, str]]:
    return [(each["level"], each["kind"]) for each in json.loads(output)["attention"]]


async def test_backpressure_is_said_with_the_maxlen_of_the_dispatcher(dispatcher, heard: HearCommand, db, redis):
    """The group that nobody reads, the stream, MAXLEN as the dispatcher has it, since when, and what to do."""
    await redis.xgroup_create(STREAM, "search", "0", mkstream=True)
    for n in range(95):
        await redis.xadd(STREAM, {"n": n})
    async with dispatcher(stream_maxlen=MAXLEN, tick_ms=20) as running:
        await insert_events(db, 5)
        assert (await running.tap.next(BackpressureChanged)).on

        async def said() -> bool:
            return ("bad", "backpressure") in kinds((await heard("status", "--json"))[1])

        await until(said, "the dispatcher says what it waits for")
        code, out, _ = await heard("status", "--json")
        first = json.loads(out)["attention"][0]
        assert (code, first["kind"]) == (0, "backpressure")
        waits = (
            f"Publishing waits for the consumer group search of stream {STREAM} (MAXLEN {MAXLEN}): it has never read"
        )
        assert (first["what"], first["needs_somebody"]) == (f"{waits}, 0 consumers, 95 unread", "now")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["since"])
        assert "`dispatcher groups destroy search`" in first["do"]
        text = (await heard("status"))[1].splitlines()
        assert text[0].startswith("bad: Publishing waits for the consumer group search")
        code, out, _ = await heard("doctor", "--json")
        found = {each["check"]: each for each in json.loads(out)["findings"]}
        assert code == 1
        assert (found["groups"]["level"], "95.0% of MAXLEN 100" in found["groups"]["found"]) == ("bad", True)
        assert (found["waits"]["level"], "the consumer group search" in found["waits"]["found"]) == ("bad", True)
        assert found["waits"]["page"] == "backpressure"
        code, out, _ = await heard("groups", "--json")
        [stream] = json.loads(out)["streams"]
        [group] = stream["groups"]
        assert (stream["maxlen"], group["lag"], group["last_read_age_s"], group["exempt"]) == (MAXLEN, 95, None, False)
        out = (await heard("groups"))[1]
        assert "holds publishing back" in out
        await redis.xgroup_destroy(STREAM, "search")
        assert not (await running.tap.next(BackpressureChanged)).on

        async def over() -> bool:
            return kinds((await heard("status", "--json"))[1]) == []

        await until(over, "the dispatcher says that it is over")
        assert (await heard("status"))[1].startswith("Nothing needs anybody.")


async def test_an_exempt_group_holds_nothing_back(dispatcher, heard: HearCommand, db, redis):
    await redis.xgroup_create(STREAM, "web-7", "0", mkstream=True)
    for n in range(95):
        await redis.xadd(STREAM, {"n": n})
    async with dispatcher(stream_maxlen=MAXLEN, tick_ms=20, backpressure_except=("other", "web-*")) as running:
        await insert_events(db, 5)
        assert (await running.tap.next(Published)).entries == 5
        await running.tap.next(Settled)
        assert running.tap.all(BackpressureChanged) == []
        out = (await heard("groups"))[1]
        assert re.search(r"web-7 .* exempt", out)
        findings = json.loads((await heard("doctor", "--json"))[1])["findings"]
        [group] = [each for each in findings if each["check"] == "groups"]
        assert (group["level"], "it is exempt" in group["found"]) == ("ok", True)


async def test_dead_events_are_never_fine_until_each_is_decided(dispatcher, heard: HearCommand, db):
    async with dispatcher():
        await bury(db, ids := await insert_events(db, 3), "redis: ERR no")
        needs = json.loads((await heard("status", "--json"))[1])["attention"]
        assert [(each["level"], each["kind"]) for each in needs] == [("bad", "dead")], needs
        assert needs[0]["what"] == "3 events are dead and wait for a decision; the latest error: redis: ERR no"
        fresh = json.loads((await heard("doctor", "--json"))[1])["findings"]
        assert next(each["level"] for each in fresh if each["check"] == "dead-events") == "bad"  # as `status`
        await db.execute("UPDATE messaging.message_dlq SET died_at = died_at - interval '1 day'")
        assert kinds((await heard("status", "--json"))[1]) == [("warn", "dead")]
        findings = json.loads((await heard("doctor", "--json"))[1])["findings"]
        [dead] = [each for each in findings if each["check"] == "dead-events"]
        assert (dead["level"], dead["found"].startswith("3 events are dead and wait for a decision")) == (
            "warning",
            True,
        )
        await heard("dlq", "discard", *map(str, ids), "--reason", "test data")
        assert kinds((await heard("status", "--json"))[1]) == []


@pytest.mark.parametrize("flag", [True, False])
async def test_status_and_doctor_look_at_the_stream_that_is_named(heard: HearCommand, db, redis, flag):
    await redis.xadd("other", {"n": 1})
    name = ["--stream-name", "other"] if flag else []
    stream = json.loads((await heard("status", "--json", *name))[1])["stream"]
    assert (stream["name"], stream["length"]) == (("other", 1) if flag else (STREAM, 0))
    findings = json.loads((await heard("doctor", "--json", *name))[1])["findings"]
    [found] = [each["found"] for each in findings if each["check"] == "stream"]
    assert ("'other' holds 1 entry" in found) == flag


def test_a_condition_of_another_release_is_read_as_far_as_it_is_understood():
    written = Condition("s", 7, 3, ("web-*",)).with_troubles(
        [Trouble("backpressure", "search", 5.0), Trouble("paused", "by ada", 1.0), Trouble("audit", None, 2.0)]
    )
    read = Condition.read(json.loads(written))
    assert (read.stream, read.maxlen, read.max_attempts, read.exempt) == ("s", 7, 3, ("web-*",))
    assert [each.kind for each in read.told] == ["audit", "backpressure"]
    assert [each.what for each in read.stops] == ["Publishing waits for the consumer group search"]
    assert Condition.read(None) == Condition.read({}) == Condition.read({"waits": [7, {}]}) == Condition()
    [strange] = Condition.read({"waits": [{"kind": "moon", "reason": "full", "since": "x"}]}).told
    assert (strange.what, strange.do) == ("moon: full", "See the log of the dispatcher.")


async def test_a_group_that_went_with_the_data_of_redis_is_said_until_it_is_back(
    dispatcher, heard: HearCommand, own_valkey: StartValkey, db
):
    """Also to a dispatcher that starts afterwards."""
    valkey = own_valkey()

    async def said(what: str) -> list[dict[str, str]]:
        found = json.loads((await heard("status", "--json", REDIS_URL=valkey.url))[1])[what]
        return [each for each in found if each["kind"] == "lost"]

    async with Redis.from_url(valkey.url) as redis, dispatcher(redis_url=valkey.url) as running:
        await redis.xgroup_create(STREAM, "billing", "0", mkstream=True)
        await insert_events(db, 30)
        await running.tap.add_up(Settled, sent=30)
        await running.tap.next(Sampled, lambda each: [known.name for known in each.known_groups] == ["billing"])
        await anyio.to_thread.run_sync(valkey.crash)
        await anyio.to_thread.run_sync(valkey.start)
        assert (await running.tap.next(Republished)).rows == 30
        [need] = await until(lambda: said("attention"), "the group is missed")
        console = diagnose(running.service.report().state, RecentWindow(), time.time())
        assert [each.what for each in console if each.kind == "lost"] == [need["what"]]
        assert (need["level"], need["page"]) == ("warn", "republished-after-loss")
        assert re.fullmatch(
            r"Redis lost data, which was noticed at \S+ UTC: 30 events were published again. "
            "The consumer group billing is gone: nobody reads for it since then",
            need["what"],
        )
        assert f"`XGROUP CREATE {STREAM} billing 0`" in need["do"]
        findings = json.loads((await heard("doctor", "--json", REDIS_URL=valkey.url))[1])["findings"]
        assert [each["level"] for each in findings if each["check"] == "groups"] == ["warning"]
        async with dispatcher(redis_url=valkey.url) as another:
            sample = await another.tap.next(Sampled)
            assert [(each.name, each.gone is None) for each in sample.known_groups] == [("billing", False)]
            await redis.connection_pool.disconnect()  # of the Redis that crashed
            await redis.xgroup_create(STREAM, "billing", "0")
            await another.tap.next(Sampled, lambda each: each.known_groups[0].gone is None)
        assert await said("attention") == []
        [note] = await said("notes")
        assert note["what"].endswith("30 events were published again")


async def test_a_group_that_reads_some_shards_only_is_said(dispatcher, heard: HearCommand, db, redis):
    async with dispatcher(stream_shards=4) as running:
        await insert_events(db, 200)
        await running.tap.add_up(Settled, sent=200)
        await redis.xgroup_create(f"{STREAM}:{{0}}", "billing", "$")
        await running.tap.next(Sampled, lambda each: "billing" in each.group_lag)
        needs = json.loads((await heard("status", "--json"))[1])["attention"]
        assert [(each["level"], each["kind"], each["page"]) for each in needs] == [
            ("warn", "half-read", "group-not-read")
        ]
        assert re.fullmatch(
            rf"The consumer group billing reads 1 of 4 shards of {STREAM}: 3 with \d+ entries are not read by it",
            needs[0]["what"],
        )
        oldest = min([int((await redis.xrange(f"{STREAM}:{{{n}}}", count=1))[0][0].split("-")[0]) for n in (1, 2, 3)])
        since = seconds_of(needs[0]["since"])
        assert since is not None
        assert abs(since - oldest / 1000) < 0.01  # the oldest entry that it does not read
        assert "`Group(..., shards=4)`" in needs[0]["do"]
        for shard in (1, 2, 3):  # by hand: it has entries to read there, and nobody reads them
            await redis.xgroup_create(f"{STREAM}:{{{shard}}}", "billing", "0")
        needs = json.loads((await heard("status", "--json"))[1])["attention"]
        assert "half-read" in [each["kind"] for each in needs]
        for shard in (1, 2, 3):
            await redis.xgroup_destroy(f"{STREAM}:{{{shard}}}", "billing")
        running.tap.forget()
        await running.tap.next(Sampled, lambda each: sum("billing" in stream.group_lag for stream in each.streams) == 1)
        state = running.service.report().state
        console = diagnose(state, RecentWindow(), time.time())
        assert [each.what for each in console] == [needs[0]["what"]]
        assert state.sample is not None
        left = sum(each.length for each in state.sample.streams if "billing" not in each.group_lag)
        assert not_read(shards_of(state.sample)) == {"billing": left}
        assert f"on 1 of 4 shards, {left} entries of the others not read by it" in (await heard("status"))[1]
        listed = (await heard("groups"))[1]
        assert "not on 3 shards" in listed
        assert f"billing is not on {STREAM}:{{1}}, {STREAM}:{{2}}, {STREAM}:{{3}}: nobody reads those for it" in listed
        findings = json.loads((await heard("doctor", "--json", DISPATCH_STREAM_SHARDS="4"))[1])["findings"]
        assert [each["level"] for each in findings if each["check"] == "groups" and each["level"] != "ok"] == [
            "warning"
        ]
        for shard in (1, 2, 3):
            await redis.xgroup_create(f"{STREAM}:{{{shard}}}", "billing", "$")
        assert kinds((await heard("status", "--json"))[1]) == []


async def test_streams_that_nobody_reads_are_told_from_those_that_are_read(dispatcher, heard: HearCommand, db, redis):
    routes = tuple(Route(f"kind{n}.*", f"stream:{n}") for n in range(5))
    async with dispatcher(routes=routes) as running:
        for n in range(3):
            await insert_events(db, 2, event_type=f"kind{n}.done")
        await running.tap.add_up(Settled, sent=6)
        await redis.xgroup_create("stream:0", "billing", "$")
        text = (await heard("status"))[1]
    assert "streams without a group: 2 with 4 entries, read by nobody" in re.sub(" +", " ", text)
    assert "quiet streams: 4 with 2 entries" in re.sub(" +", " ", text)
