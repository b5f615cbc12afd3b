"""What the console asks: answered from memory, to whoever may, as it is now; and its page, which needs no leave."""

import json
import re
from dataclasses import replace
from math import inf
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from dispatcher.core import events
from dispatcher.core.events import DatabaseChanged, Sampled, Settled, SidecarUp
from dispatcher.core.process_state import SentBy, StreamSample
from dispatcher.embedded import free_port
from dispatcher.settings import Settings
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.app import build
from dispatcher.sidecar.overview import Overview
from dispatcher.telemetry.latency import LatencyHistogram
from tests.support.api import get
from tests.support.console import FedConsole
from tests.support.http import served
from tests.support.rows import insert_events
from tests.support.running import StartDispatcher
from tests.support.waiting import until

SETTINGS = Settings(database_url="postgresql:///app", redis_url="redis://localhost", stream_maxlen=1000)


@pytest.fixture
def console() -> FedConsole:
    return FedConsole(SETTINGS, LatencyHistogram("x", "x").snapshot)


def site(console: FedConsole, token: str | None = None, listens_on: str = "127.0.0.1"):
    guard = AccessControl(token=lambda: token, listens_on=listens_on)
    return build(lambda: None, CollectorRegistry(), guard=guard, routes=console.routes)


async def test_the_overview_says_everything_at_once(console):
    console.observe(events.Started("a", enabled=True))
    console.observe(events.Sampled(7, 0.25, 0.0, 900, {"billing": 40}))
    console.history.add_point()
    async with served(site(console)) as client:
        seen = await get(client, "/api/overview")
    assert (seen["level"], seen["findings"], seen["names"]) == ("fine", [], ["a"])
    assert (seen["backlog"], seen["oldest_age_s"]) == (7, 0.25)
    assert seen["stream"] == {
        "name": "sanctum:messages",
        "maxlen": 1000,
        "length": 900,
        "groups": [{"name": "billing", "lag": 40, "last_read_age_s": None}],
    }
    assert seen["latency"]["sla_s"] == 1.5
    assert all(state["ok"] for state in seen["states"])
    assert (seen["dispatchers"], seen["dead"]) == ([], 0)


def silent(console: FedConsole, now: float) -> Any:
    return Overview(console.history, stream="s", maxlen=1).describe(now)


async def test_each_figure_has_the_colour_of_its_threshold_whatever_explains_it(console):
    now = console.observe.read().started_at
    console.observe(events.BreakerChanged("open", "away"))
    for age_s, after_s, expected in (
        (1.0, 60.0, ("", "", "")),  # what waits came just now
        (4.0, 60.0, ("bad", "bad", "")),
        (31.0, 31.0, ("bad", "bad", "warn")),
        (61.0, 61.0, ("bad", "bad", "bad")),
        (61.0, 1.0, ("", "", "bad")),  # it has just begun
    ):
        console.observe(events.Sampled(9, age_s, 0.0, 900, {}))
        seen = silent(console, now + after_s)
        assert tuple(seen["levels"][name] for name in ("events", "latency", "backlog")) == expected, age_s
        assert (seen["silent_s"] is not None) == (expected[0] == "bad")
    console.observe(events.Published(1, [0.1], 0.1))
    assert silent(console, now + 2.0)["silent_s"] is None
    console.observe(events.Sampled(0, 0.0, 0.0, 900, {}))
    console.observe(events.DatabaseChanged(False, "refused"))  # nobody knows what waits there
    assert silent(console, now + 60.0)["levels"]["events"] == "bad"


async def test_nothing_was_sent_for_no_longer_than_by_any_dispatcher(console):
    """What others sent counts, by their notes; one that was sending may have gone on until its next note."""
    began = console.observe.read().started_at
    console.observe(events.PauseChanged(True, "ada", "moving"))
    for sent, after_s, expected, known in (
        ((), 47.0, 47.0, False),  # nobody noted anything: since the start
        ((SentBy("other", 90, 20.0, 2.0),), 47.0, 22.0, True),
        ((SentBy("other", 90, 0.1, 2.0),), 47.0, None, True),
        ((SentBy("other", 90, 0.1, 2.0),), 57.0, 6.0, True),
        ((SentBy("other", 0, None, 2.0),), 47.0, 47.0, False),
    ):
        console.observe(events.Sampled(9, 61.0, 0.0, 900, {}, sent=sent))
        sample = console.observe.read().sample
        assert sample is not None
        console.observe._sample = replace(sample, at=began + 47.0)
        seen = silent(console, began + after_s)
        assert (seen["silent_s"], seen["ever_sent"]) == (expected, known), sent


async def test_what_a_pause_holds_up_is_red_as_its_headline(console):
    now = console.observe.read().started_at
    console.observe(events.PauseChanged(True, "ada", "moving"))
    console.observe(events.Sampled(9, 61.0, 0.0, 900, {}))
    seen = silent(console, now + 61.0)
    assert [seen["levels"][name] for name in ("events", "latency", "backlog")] == ["bad"] * 3
    assert (seen["level"], seen["findings"][0]["needs_somebody"]) == ("bad", "now")


async def test_what_only_postgres_knows_is_not_known_while_it_is_away(console):
    def unknown() -> set[str]:
        states = Overview(console.history, stream="s", maxlen=1).describe(0.0)["states"]
        return {state["kind"] for state in states if not state["known"]}

    assert unknown() == set()
    console.observe(events.DatabaseChanged(False, "refused"))
    assert unknown() == {"listener", "paused", "layout", "slots"}
    console.observe(events.PauseChanged(True, "ada", None))  # as it said before it went
    assert unknown() == {"listener", "layout", "slots"}
    console.observe(events.DatabaseChanged(True, None))
    assert unknown() == set()


async def test_backpressure_says_at_how_many_entries_it_ends(console):
    console.observe(events.BackpressureChanged(True, "billing", 1900))
    said = Overview(console.history, stream="s", maxlen=2000).describe(0.0)["findings"][0]
    assert "less than 1,600 entries (80 % of REDIS_STREAM_MAXLEN) to read" in said["do"]


async def test_no_point_is_drawn_of_what_postgres_said_before_it_went_away(console):
    def last() -> list[float | None]:
        console.history.add_point()
        answer = json.loads(console.history.after(0))
        return [answer["points"][-1][answer["fields"].index(name)] for name in ("backlog", "oldest", "lag")]

    console.observe(events.Sampled(7, 0.25, 0.0, 900, {"billing": 40}))
    assert last() == [7, 0.25, 40]
    console.observe(events.DatabaseChanged(False, "refused"))
    assert last() == [None, None, None]


async def test_dead_events_are_never_fine(console):
    now = console.observe.read().started_at
    for dead, newest, expected in ((0, None, ""), (3, now - 60, "bad"), (3, now - 3600, "warn"), (3, None, "warn")):
        console.observe(events.Sampled(0, 0.0, 0.0, 900, {}, dead=dead, newest_dead_at=newest))
        assert silent(console, now)["levels"]["dead"] == expected


async def test_it_says_which_system_it_is_and_no_password():
    settings = replace(SETTINGS, database_url="postgresql://me:secret@db:5433/shop", deployment="shop, production")
    async with served(site(FedConsole(settings, LatencyHistogram("x", "x").snapshot))) as client:
        seen = await get(client, "/api/overview")
    assert (seen["deployment"], seen["database"], seen["grafana"]) == ("shop, production", "db:5433/shop", None)
    assert "secret" not in json.dumps(seen)


async def test_each_of_several_streams_has_a_row(console):
    streams = [StreamSample(f"s:{n}", 100, {"billing": n, "new": 1}, {"billing": 2.25, "new": inf}) for n in range(16)]
    console.observe(events.Sampled(0, 0.0, 0.0, 1600, {"billing": 15}, streams=streams))
    async with served(site(console)) as client:
        each = (await get(client, "/api/overview"))["streams"]
    assert len(each) == 16
    assert each[3] == {
        "name": "s:3",
        "length": 100,
        "groups": [
            {"name": "billing", "lag": 3, "last_read_age_s": 2.2},
            {"name": "new", "lag": 1, "last_read_age_s": None},
        ],
    }


async def test_who_runs_is_not_known_before_postgres_answered(console):
    async with served(site(console)) as client:
        assert (await get(client, "/api/overview"))["dispatchers"] is None


async def test_the_history_gives_what_is_new(console):
    async with served(site(console)) as client:
        for _ in range(3):
            console.history.add_point()
        seen = await get(client, "/api/history")
        assert (len(seen["points"]), seen["next"], seen["keep"], seen["every_s"]) == (3, 3, 450, 2.0)
        console.history.add_point()
        assert len((await get(client, "/api/history?after=3"))["points"]) == 1
        assert (await get(client, "/api/history?after=4"))["points"] == []


@pytest.mark.parametrize("after", ["", "-1", "x", "1.5", "٣", "1" * 16])
async def test_a_wrong_number_is_named(console, after):
    async with served(site(console)) as client:
        seen = await get(client, f"/api/history?after={after}", 400)
        assert seen == {"error": "after must be a whole number: the `next` of the answer before"}


async def test_the_figures_ask_for_the_token_and_the_page_does_not(console):
    async with served(site(console, token="secret")) as client:
        for path in ("/api/overview", "/api/history"):
            await get(client, path, 401)
            await get(client, path, Authorization="Bearer secret")
        for path in ("/", "/console/main.js", "/console/base.css"):
            async with client.get(path) as answer:
                assert answer.status == 200
    async with served(site(console, listens_on="0.0.0.0")) as client:  # noqa: S104
        for path in ("/", "/console/main.js", "/api/overview", "/api/history"):
            assert "set DISPATCH_API_TOKEN" in (await get(client, path, 403))["error"]


@pytest.mark.promise("console")
async def test_the_page_allows_its_own_files_only_and_they_are_all_there(console):
    async with served(site(console)) as client:
        async with client.get("/") as answer:
            policy, page, tag = answer.headers["Content-Security-Policy"], await answer.text(), answer.headers["ETag"]
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)
        # Below any path of a proxy.
        asked = {f"/{path}" for path in re.findall(r'(?:src|href)="(console/[^"]+)"', page)}
        done: set[str] = set()
        while asked - done:
            path = (asked - done).pop()
            async with client.get(path) as answer:
                assert answer.status == 200, path
                text = await answer.text()
            assert "http" not in text.replace("http://www.w3.org/2000/", "").replace("HTTP", ""), path
            asked |= {f"/console/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}
            done.add(path)
        assert len(done) > 10
        async with client.get("/", headers={"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


@pytest.mark.promise("console")
async def test_ten_readers_cost_one_answer_a_second(console, monkeypatch):
    now = 1000.0
    overview = Overview(console.history, stream="s", maxlen=1, clock=lambda: now)
    made = []

    def describe(moment: float) -> dict[str, Any]:
        made.append(moment)
        return {}

    monkeypatch.setattr(overview, "describe", describe)
    app = build(
        lambda: None, CollectorRegistry(), guard=AccessControl(listens_on="127.0.0.1"), routes=overview.routes()
    )
    async with served(app) as client:
        for _ in range(10):
            await get(client, "/api/overview")
        now += 1.0
        await get(client, "/api/overview")
    assert made == [1000.0, 1001.0]


async def test_a_real_dispatcher_says_what_it_does_and_who_runs(dispatcher: StartDispatcher, db, redis):
    await redis.xgroup_create("sanctum:messages", "billing", mkstream=True)
    async with (
        dispatcher(http_enabled=True) as running,
        aiohttp.ClientSession(running.http_url) as client,
    ):
        await insert_events(db, 5)
        await running.tap.next(Settled)
        await running.tap.next(Sampled, where=lambda sample: sample.group_lag == {"billing": 5})

        async def answer() -> Any:
            seen = await get(client, "/api/overview")
            return seen if seen["totals"]["published"] == 5 and seen["stream"] else None

        seen = await until(answer, "an answer made after that")
    assert seen["totals"] == {"published": 5, "failed": 0, "dead": 0}
    assert [one["name"] for one in seen["dispatchers"]] == seen["names"]
    [group] = seen["stream"]["groups"]
    assert (seen["dead"], group["name"], group["lag"]) == (0, "billing", 5)


async def test_a_real_dispatcher_notes_how_much_it_sent(dispatcher: StartDispatcher, db, redis):
    async with dispatcher() as running:
        await insert_events(db, 5)
        await running.tap.next(Settled)
        sample = await running.tap.next(Sampled, where=lambda sample: any(each.events == 5 for each in sample.sent))
    [noted] = sample.sent
    assert noted.quiet_s is not None
    assert noted.quiet_s >= 0
    assert noted.heard_s >= 0


@pytest.mark.promise("console")
async def test_it_answers_while_neither_server_does(dispatcher: StartDispatcher):
    nobody = free_port()
    async with dispatcher(
        wait=False,
        http_enabled=True,
        database_url=f"postgresql://x@127.0.0.1:{nobody}/x",
        redis_url=f"redis://127.0.0.1:{nobody}",
    ) as running:
        await running.tap.next(SidecarUp)
        await running.tap.next(DatabaseChanged)
        async with aiohttp.ClientSession(running.http_url) as client:
            assert await get(client, "/health") == {"status": "ok"}
            assert (await get(client, "/ready", 503))["reason"].startswith("database: ")
            seen = await get(client, "/api/overview")
            kinds = [finding["kind"] for finding in seen["findings"]]
            assert (kinds[0], set(kinds) <= {"database", "starting"}) == ("database", True)
            assert json.dumps(seen["findings"]).count("What is committed is kept") == 1


async def test_what_lies_in_keys_that_a_group_is_not_on_counts_as_unread(console):
    on, off = StreamSample("s:{0}", 9, {"billing": 0}, {"billing": 1.0}), StreamSample("s:{1}", 191, {}, {}, 1000.0)
    console.observe(events.Sampled(0, 0.0, 0.0, 200, {"billing": 0}, streams=[on, off]))
    console.history.add_point()
    answer = json.loads(console.history.after(0))
    assert answer["points"][-1][answer["fields"].index("lag")] == 191
    seen = silent(console, 2000.0)
    assert seen["stream"]["groups"] == [{"name": "billing", "lag": 0, "last_read_age_s": None, "not_read": 191}]
    assert [each["since"] for each in seen["findings"] if each["kind"] == "half-read"] == [1000.0]
