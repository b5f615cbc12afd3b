"""Ten situations of a night: `status` says what is wrong, since when, whether it needs somebody, and what to do."""

import json
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from dispatcher.core.events import BreakerChanged, Buried, PauseChanged, Published, Settled
from dispatcher.embedded import free_port
from tests.support.command import HearCommand
from tests.support.dead_letters import bury
from tests.support.rows import insert_events
from tests.support.waiting import until

SINCE = re.compile(r"; since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z \(\d+ s ago\)$")


@pytest.fixture
def first(heard: HearCommand):
    """The first two lines of `dispatcher status`: what is wrong, and what to do."""

    async def look(**env: str) -> tuple[str, str]:
        lines = (await heard("status", **env))[1].splitlines()
        return lines[0], lines[1].strip()

    return look


async def test_a_fresh_start_and_a_healthy_one_need_nobody(dispatcher, first, db):
    async with dispatcher() as running:
        assert (await first())[0] == "Nothing needs anybody."
        await insert_events(db, 3)
        await running.tap.next(Published)
        await running.tap.next(Settled)
        assert (await first())[0] == "Nothing needs anybody."


async def test_redis_is_away(dispatcher, first, db, redis_url):
    gone = f"redis://127.0.0.1:{free_port()}/0"
    async with dispatcher(redis_url=gone, tick_ms=50) as running:
        await insert_events(db, 3)
        await running.tap.next(BreakerChanged)

        async def said() -> str:  # by the dispatcher, whatever this environment reaches
            what, _ = await first(REDIS_URL=redis_url)
            return what if "Redis takes no entries" in what else ""

        await until(said, "the dispatcher says that Redis takes no entries")
        for what, do in (
            await first(REDIS_URL=redis_url),
            await first(REDIS_URL=gone),
        ):  # the first line says since when
            assert what.startswith("bad: Redis takes no entries: ")
            assert SINCE.search(what)
            assert do.startswith("Bring Redis back")


async def test_redis_is_away_and_no_dispatcher_says_so(first):
    what, do = await first(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert re.match(r"bad: Redis at 127\.0\.0\.1:\d+/0 is unreachable", what)
    assert do == "Bring it back: events wait in Postgres meanwhile."


async def test_postgres_is_away(first):
    what, do = await first(DATABASE_URL=f"postgresql://u:secret@127.0.0.1:{free_port()}/app")
    assert re.match(r"bad: Postgres at 127\.0\.0\.1:\d+/app cannot be reached", what)
    assert "Bring it back" in do


async def test_paused_comes_before_dead_events(dispatcher, first, heard, db):
    await bury(db, await insert_events(db, 3))
    async with dispatcher() as running:
        await heard("pause", "--reason", "moving house")
        await running.tap.next(PauseChanged)
        what, do = await first()
        assert re.match(r"warn: Paused by \S+ \(moving house\), so no event is taken; since ", what)
        assert SINCE.search(what)
        assert do.startswith("dispatcher resume, when whoever paused it agrees")


async def test_five_hundred_dead_in_three_groups(dispatcher, first, heard, db):
    async with dispatcher():
        for count, error in ((300, "KeyError: 'a'"), (150, "redis: ERR no"), (50, "payload is 17 bytes")):
            await bury(db, await insert_events(db, count), error)
        what, do = await first()
        assert what.startswith(
            "bad: 500 events are dead and wait for a decision; the latest error: payload is 17 bytes"
        )
        assert re.search(r"; the latest died at \S+Z \(\d+ s ago\)$", what)
        assert do.startswith("`dispatcher dlq stats`")
        lines = [re.split("  +", line.strip()) for line in (await heard("dlq", "stats"))[1].splitlines()]
        assert [[line[0], line[2]] for line in lines[2:5]] == [
            ["300", "KeyError: 'a'"],
            ["150", "redis: ERR no"],
            ["50", "payload is # bytes"],
        ]


async def test_an_event_on_its_way_to_death_is_seen_before_it_dies(dispatcher, heard, db):
    failed: dict[str, Any] = {"status": "retry", "attempts": 7, "last_error": "KeyError: 'x'"}
    [row] = await insert_events(db, next_run_at="2100-01-01 00:00:00+00", **failed)
    async with dispatcher(max_attempts=10):

        async def listed() -> str:
            out: str = (await heard("events", "list", "--status", "retry"))[1]
            return out if "7 of 10" in out else ""

        out = await until(listed, "a dispatcher has said how many attempts it gives")
        assert re.search(rf"^ *{row}  +order\.created  +a1  +retry  +7 of 10  +in \d+ d  +KeyError: 'x'$", out, re.M)


@pytest.mark.parametrize("waiting", [0, 3])
async def test_a_dispatcher_that_is_gone(first, db, waiting):
    await insert_events(db, waiting, occurred_at="2025-06-01 00:00:00+00")
    what, do = await first()
    waits = r"bad: No dispatcher runs enabled, and events wait; since 2025-06-01T00:00:0\d\.\d+Z \(\d+ d ago\)"
    assert re.fullmatch(waits if waiting else "warn: No dispatcher runs enabled", what)
    assert do == "Start one: DISPATCHER_ENABLED=true dispatcher run"


async def test_every_time_in_every_json_is_rfc_3339(dispatcher, heard, db):
    """And no command prints anything else where it should print one object."""
    time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
    seen: list[str] = []

    def look(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                look(key, each)
        elif isinstance(value, list):
            for each in value:
                look(name, each)
        elif value is not None and (name.endswith("_at") or name in ("at", "since", "now", "oldest", "newest")):
            seen.append(name)
            assert isinstance(value, str), name
            assert time.fullmatch(value), (name, value)

    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(dispatcher(max_payload_bytes=10))
        dead = await insert_events(db, 2, payload=json.dumps("more than ten bytes"))
        await running.tap.next(Buried)
        sent = await insert_events(db, 1)
        await running.tap.next(Published)
        await running.tap.next(Settled)
        for arguments in (
            ["pause", "--reason", "x"],
            ["status"],
            ["resume"],
            ["events", "list", "--status", "dead"],
            ["events", "list", "--status", "sent"],
            ["events", "find", str(sent[0])],
            ["events", "show", str(dead[0])],
            ["dlq", "list"],
            ["dlq", "show", str(dead[0])],
            ["dlq", "stats"],
            ["replay", "--all", "--dry-run"],
            ["groups"],
        ):
            code, out, _ = await heard(*arguments, "--json")
            assert code == 0, arguments
            assert len(out.splitlines()) == 1, arguments
            look("", json.loads(out))
    assert len(seen) > 20
