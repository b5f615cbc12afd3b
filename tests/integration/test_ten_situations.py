"""Ten situations of a night: `status` says what is wrong, since when, whether it needs somebody, and what to do."""

import json
import re
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dispatcher.core.events import BreakerChanged, Buried, PauseChanged, Published, Sampled, Settled, TakenOver
from dispatcher.embedded import free_port
from dispatcher.sidecar.diagnosis import diagnose
from dispatcher.sidecar.history import RecentWindow
from tests.support.command import HearCommand
from tests.support.dead_letters import bury
from tests.support.layouts import stand_in_order
from tests.support.rows import STREAM, insert_events
from tests.support.waiting import until

SINCE = re.compile(r"; since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(\d+ s ago\)$")


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


async def test_redis_wants_another_password(dispatcher, heard, db, redis, redis_url):
    """What the outbox says is shown all the same, and nobody is told to bring back a Redis that is up."""
    await redis.acl_setuser("shop", enabled=True, passwords=["+guess"], keys=["*"], categories=["+@all"])
    wrong = redis_url.replace("redis://", "redis://shop:guess@")
    async with dispatcher(redis_url=wrong, tick_ms=50) as running:
        await insert_events(db)
        await running.tap.next(Settled)  # it was let in
        await redis.acl_setuser("shop", enabled=True, reset_passwords=True, passwords=["+rotated"])
        await redis.execute_command("CLIENT", "KILL", "USER", "shop")
        await insert_events(db, 3)
        await running.tap.next(BreakerChanged)

        async def said() -> list[str]:
            lines = (await heard("status", REDIS_URL=wrong))[1].splitlines()
            return lines if lines and lines[0].startswith("bad: Redis takes no entries: ") else []

        lines = await until(said, "the dispatcher says that Redis refuses it")
        assert SINCE.search(lines[0])
        assert lines[1].strip().startswith("Give the dispatchers the user and password that Redis takes: in REDIS_URL")
        assert len([line for line in lines if "refused us" in line]) == 1
        code, out, err = await heard("status", REDIS_URL=wrong)
        assert (code, "pending:" in out, "refused us" in err, "guess" in out + err) == (2, True, True, False)
    await redis.acl_deluser("shop")


async def test_what_ended_a_moment_ago_is_a_note_and_needs_nobody(dispatcher, heard, db):
    async with dispatcher() as running:
        await heard("pause")
        await running.tap.next(PauseChanged)
        await heard("resume")
        await running.tap.next(PauseChanged)

        async def over() -> dict[str, Any]:
            found: dict[str, Any] = json.loads((await heard("status", "--json"))[1])
            return found if found["notes"] else {}

        found = await until(over, "the dispatcher says that it is over")
        assert found["attention"] == []
        [note] = found["notes"]
        assert (note["kind"], note["what"].startswith("All was paused from ")) == ("over", True)
        lines = (await heard("status"))[1].splitlines()
        assert lines[0] == "Nothing needs anybody."
        assert re.match(r"note: All was paused from \S+ UTC to \S+ UTC; events waited until then$", lines[1])


@pytest.mark.parametrize(("change", "level"), [("disabled", "bad"), ("dropped", "bad"), ("absent", "note")])
async def test_a_doorbell_that_does_not_ring_is_said(dispatcher, heard, db, change, level):
    """Events are late then, and nothing else says why. It may be missing on purpose (`migrate --no-trigger`)."""
    drop = "DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox"
    disable = "ALTER TABLE messaging.message_outbox DISABLE TRIGGER message_outbox_doorbell"
    down = drop + "; DROP FUNCTION messaging.ring_doorbell()"  # as triggers/doorbell.down.sql and --no-trigger
    await db.execute({"disabled": disable, "dropped": drop, "absent": down}[change])
    async with dispatcher() as running:
        sampled = await running.tap.next(Sampled)
        assert sampled.doorbell == change
        found = json.loads((await heard("status", "--json"))[1])
        [said] = found["attention"] + found["notes"]
        assert (said["level"], said["kind"]) == (level, "doorbell")
        assert "events go out late by up to 60 s" in said["what"]


async def test_a_doorbell_that_is_missing_needs_somebody_now_where_the_tick_breaks_the_promise(dispatcher, heard, db):
    await db.execute("DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox")
    async with dispatcher(tick_ms=5000) as running:
        await running.tap.next(Sampled)
        [said] = json.loads((await heard("status", "--json"))[1])["attention"]
        [found] = [
            each for each in json.loads((await heard("doctor", "--json"))[1])["findings"] if each["check"] == "trigger"
        ]
        assert (said["level"], said["needs_somebody"], said["page"]) == ("bad", "now", "doorbell-trigger")
        assert (found["level"], found["needs_somebody"], found["page"]) == ("bad", "now", "doorbell-trigger")
        assert "late by up to 5 s" in said["what"]
        assert found["found"].startswith(said["what"])
        assert "`dispatcher migrate --database-url OWNER_URL`" in said["do"]
        assert found["remedy"] == said["do"]


async def test_a_transaction_that_is_left_open_is_why_events_are_late(dispatcher, heard, db, database_url):
    """It is named by a role that may not see when it began, too."""
    name = f"relay_{free_port()}"
    await db.execute(f"CREATE ROLE {name} LOGIN")
    await db.execute(f"GRANT USAGE ON SCHEMA messaging TO {name}")
    for what in ("TABLES", "SEQUENCES", "ROUTINES"):
        await db.execute(f"GRANT ALL ON ALL {what} IN SCHEMA messaging TO {name}")
    await insert_events(db, 3, occurred_at=datetime.now(UTC) - timedelta(seconds=30))
    connect = psycopg.AsyncConnection.connect(database_url, application_name="monthly-report")
    async with await connect as holder:
        await holder.execute("SELECT id FROM messaging.message_outbox FOR UPDATE")  # so they wait
        await db.execute("DO $$ BEGIN FOR n IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        async with dispatcher(database_url=f"{database_url}?user={name}") as running:
            await running.tap.next(Sampled)

            async def said() -> list[dict[str, Any]]:
                found = json.loads((await heard("status", "--json", DATABASE_URL=f"{database_url}?user={name}"))[1])
                return [each for each in found["attention"] if each["kind"] == "snapshot" and each["since"]]

            [need] = await until(said, "the dispatcher says since when")
            assert (need["level"], need["needs_somebody"]) == ("bad", "now")
            assert f"The session {holder.info.backend_pid} (user " in need["what"]
            assert "monthly-report" in need["what"]
            assert "Events wait: the oldest is " in need["what"]
            assert f"pg_terminate_backend({holder.info.backend_pid})" in need["do"]
            doctor = json.loads((await heard("doctor", "--json", DATABASE_URL=f"{database_url}?user={name}"))[1])
            [found] = [each for each in doctor["findings"] if each["check"] == "snapshot"]
            assert (found["level"], found["needs_somebody"]) == ("bad", "now")
            assert found["found"].startswith(f"The session {holder.info.backend_pid} ")
            console = diagnose(running.service.report().state, RecentWindow(), time.time())
            assert next((each.kind, each.level) for each in console) == ("snapshot", "bad")
    await db.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_redis_is_away_and_no_dispatcher_says_so(first):
    what, do = await first(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert re.match(r"bad: Redis at 127\.0\.0\.1:\d+/0 is unreachable", what)
    assert do.startswith("Bring Redis back. Events that wait are safe in Postgres")


async def test_postgres_is_away(first):
    what, do = await first(DATABASE_URL=f"postgresql://u:secret@127.0.0.1:{free_port()}/app")
    assert re.match(r"bad: Postgres at 127\.0\.0\.1:\d+/app cannot be reached", what)
    assert do.startswith("Bring Postgres back. Your applications most likely cannot commit either.")
    assert "Since when" in do


async def test_postgres_is_away_and_the_stream_says_until_when_events_went_out(dispatcher, first, db, redis):
    await redis.xgroup_create(STREAM, "billing", "0", mkstream=True)
    async with dispatcher() as running:
        await insert_events(db)
        await running.tap.next(Published)
        [(_, [(entry_id, _)])] = await redis.xreadgroup("billing", "a", {STREAM: ">"})
    what, _ = await first(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/app")
    moment = datetime.fromtimestamp(int(entry_id.split("-")[0]) / 1000, UTC)
    said = f"; since about {moment:%H:%M:%S} UTC or later: then the newest event that a consumer has read went out"
    assert what.endswith(said)


async def test_consumers_put_events_away(dispatcher, first, heard, db, redis):
    """Those events were sent, so nothing else says that somebody has to decide about them."""
    await redis.xgroup_create(STREAM, "billing", "0", mkstream=True)
    await redis.xadd(f"{STREAM}:billing:dead", {"n": 1})
    async with dispatcher() as running:
        sampled = await running.tap.next(Sampled)
        assert sampled.group_dead == {"billing": 1}

        async def said() -> str:
            what, _ = await first()
            return what if SINCE.search(what) else ""

        what = await until(said, "the dispatcher says since when")
        assert what.startswith("warn: Consumers of the group billing have put 1 event away")
        do = (await first())[1]
        assert do.startswith("`dispatcher groups dead billing` lists them.")
        [group] = [
            each for each in json.loads((await heard("doctor", "--json"))[1])["findings"] if "away" in each["found"]
        ]
        assert (group["check"], group["level"], group["needs_somebody"]) == ("groups", "warning", "by morning")
        await redis.delete(f"{STREAM}:billing:dead")
        assert (await first())[0] == "Nothing needs anybody."


async def test_doctor_says_when_somebody_is_needed_as_status_does(dispatcher, heard, db):
    async with dispatcher() as running:
        await heard("pause", "--reason", "moving house")
        await running.tap.next(PauseChanged)
        await db.execute("DROP TRIGGER message_outbox_doorbell ON messaging.message_outbox")
        said = {each["kind"]: each for each in json.loads((await heard("status", "--json"))[1])["attention"]}
        found = {each["check"]: each for each in json.loads((await heard("doctor", "--json"))[1])["findings"]}
        assert said["paused"]["needs_somebody"] == found["pause"]["needs_somebody"] == "now"
        assert said["doorbell"]["needs_somebody"] == found["trigger"]["needs_somebody"] == "now"
        assert found["tables"]["needs_somebody"] == "no"
        lines = [line.strip() for line in (await heard("doctor"))[1].splitlines()]
        at = next(n for n, line in enumerate(lines) if line.startswith("bad: pause: "))
        assert any(line.startswith("Needs somebody: now. Runbook: ") for line in lines[at : at + 4])


async def test_paused_comes_before_dead_events_of_long_ago(dispatcher, first, heard, db):
    await bury(db, await insert_events(db, 3))
    await db.execute("UPDATE messaging.message_dlq SET died_at = died_at - interval '1 day'")
    async with dispatcher() as running:
        await heard("pause", "--reason", "moving house")
        await running.tap.next(PauseChanged)
        what, do = await first()
        assert re.match(r"bad: Paused by \S+ \(moving house\): no event is taken; since ", what)
        assert SINCE.search(what)
        assert do.startswith("`dispatcher resume`, when whoever paused it agrees")
        assert (await heard("status"))[1].splitlines()[2].strip().startswith("Needs somebody: now. Runbook: ")


async def test_five_hundred_dead_in_three_groups(dispatcher, first, heard, db):
    async with dispatcher():
        for count, error in ((300, "KeyError: 'a'"), (150, "redis: ERR no"), (50, "payload is 17 bytes")):
            await bury(db, await insert_events(db, count), error)
        what, do = await first()
        assert what.startswith(
            "bad: 500 events are dead and wait for a decision, of 3 errors; most (300) of: KeyError: 'a'"
        )
        assert re.search(r"; since \S+Z \(\d+ s ago\), the latest died at \S+Z \(\d+ s ago\)$", what)
        option = "--error-code \"KeyError: 'a'\""
        one = "If it may be over already, try one first: `dispatcher dlq retry ID`."
        assert do.startswith(f"Mend the cause, then `dispatcher dlq retry {option}`. {one} What nobody needs: ")
        assert f"`dispatcher dlq discard {option} --reason 'WHY'`. Each error and its commands: `dispatcher dlq" in do
        err = (await heard("dlq", "stats"))[2]
        assert f"`dispatcher dlq retry {option}`" in err
        assert "`dispatcher dlq retry --error-code 'payload is # bytes'`" in err
        assert (await heard("dlq", "retry", "--error-code", "payload is # bytes", "--dry-run"))[1].endswith(": 50\n")
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
    waits = r"bad: No dispatcher is alive, and 3 events wait; since 2025-06-01T00:00:0\dZ \(\d+ d ago\)"
    assert re.fullmatch(waits if waiting else "warn: No dispatcher is alive; no event waits", what)
    assert do.startswith("Start one: `DISPATCHER_ENABLED=true dispatcher run")


async def test_a_dispatcher_that_died_a_moment_ago_is_not_alive(first, db):
    """Its note is young, but its lock is gone."""
    await insert_events(db, 2)
    await db.execute("INSERT INTO messaging.dispatcher (name) VALUES ('shop-1-7-abc')")
    await db.execute(
        "INSERT INTO messaging.pause_acknowledgement (name, version, generation, in_flight, seen_at) "
        "VALUES ('shop-1-7-abc', '1', 0, 0, clock_timestamp())"
    )
    what, _ = await first()
    dead = r"bad: No dispatcher is alive, and 2 events wait; the last one \(shop-1\) was seen at \d\d:\d\d:\d\d UTC; "
    assert re.match(dead, what)


@pytest.mark.parametrize("rows", [0, 3])
async def test_a_dispatcher_that_died_beside_another_leaves_a_note(dispatcher, heard, db, rows):
    async with dispatcher() as running:
        async with db.transaction():
            cursor = await db.execute("INSERT INTO messaging.dispatcher (name) VALUES ('shop-1-7-abc') RETURNING id")
            (dead,) = await cursor.fetchone()
            picked = {"status": "picked", "picked_at": datetime.now(UTC), "picked_by": dead, "claim_id": uuid4()}
            await insert_events(db, rows, **picked)
        assert await running.tap.next(TakenOver) == TakenOver(rows, "shop-1-7-abc", died=True)

        async def notes() -> list[dict[str, Any]]:
            found = json.loads((await heard("status", "--json"))[1])
            return [each for each in found["notes"] if each["kind"] == "ended"]

        [note] = await until(notes, "the dispatcher says whom it took over from")
        had = "; its 3 rows were taken over" if rows else ", and had no rows"
        said = rf"The dispatcher shop-1-7-abc ended without signing off{had}, at \S+ UTC"
        assert re.fullmatch(said, note["what"])
        assert (note["page"], note["do"].startswith("Start it again")) == ("dispatcher-died", True)
        console = diagnose(running.service.report().state, RecentWindow(), time.time())
        assert [each.what for each in console if each.kind == "ended"] == [note["what"]]


async def test_the_only_dispatcher_is_disabled(dispatcher, first, heard, db):
    await insert_events(db, 3)
    async with dispatcher(enabled=False):

        async def said() -> str:
            what, do = await first()
            return (
                what if "is disabled, and no other dispatcher runs: 3 events wait" in what and "ENABLED" in do else ""
            )

        assert (await until(said, "status says that it is disabled")).startswith("bad: ")
        out = (await heard("doctor"))[1]
        assert re.search(r"^bad: dispatchers: .* is disabled, and no other dispatcher runs: 3 events wait", out, re.M)


async def test_an_event_that_fails_and_is_tried_again_is_one_finding(dispatcher, first, heard, db):
    failed: dict[str, Any] = {"status": "retry", "attempts": 7, "last_error": "KeyError: 'template'"}
    old: dict[str, Any] = {"occurred_at": "2025-06-01 00:00:00+00", "next_run_at": "2100-01-01 00:00:00+00"}
    await insert_events(db, event_type="mail.order_confirmed", **old, **failed)
    async with dispatcher(max_attempts=10):

        async def said() -> str:
            what, _ = await first()
            return what if "3 left" in what else ""

        what = await until(said, "a dispatcher has said how many attempts it gives")
        assert what.startswith(
            "warn: 1 event fails and is tried again: mail.order_confirmed, KeyError: 'template', 7 attempts failed, "
            "3 left, next 2100-01-01 00:00:00 UTC. Nothing else waits for it; since 2025-06-01T00:00:00Z "
        )
        needs = json.loads((await heard("status", "--json"))[1])["attention"]
        assert [(each["kind"], each["page"]) for each in needs] == [("retrying", "high-retries")]
        assert (needs[0]["needs_somebody"], "`dispatcher events retry 1`" in needs[0]["do"]) == ("by morning", True)
        text = (await heard("status"))[1].splitlines()[2].strip()
        assert re.fullmatch(r"Needs somebody: by morning\. Runbook: https://\S+/docs/runbook/high-retries\.md", text)


async def test_a_dead_event_that_holds_its_aggregate_is_one_finding(dispatcher, heard, db):
    await stand_in_order(db, "hold")
    dead, *later = await insert_events(db, 6, event_type="order.paid", aggregate_type="order", aggregate_id="42")
    await bury(db, [dead], "KeyError: 'template'")
    await db.execute("UPDATE messaging.message_outbox SET occurred_at = '2025-06-01' WHERE id = ANY(%s)", [later])
    async with dispatcher(order="aggregate", order_on_dead="hold"):

        async def said() -> list[Any]:
            found = json.loads((await heard("status", "--json"))[1])["attention"]
            return found if [each["kind"] for each in found] == ["held"] else []

        [need] = await until(said, "one finding, once a dispatcher is alive")
        assert need["level"] == "bad"
        assert need["what"] == (
            f"Event {dead} (order.paid) is dead and holds order 42: 5 later events wait for it, other aggregates do "
            "not. KeyError: 'template'"
        )
        assert f"`dispatcher held retry {dead}`" in need["do"]
        code, _, err = await heard("held", "retry", "42", DISPATCH_ORDER="aggregate")
        assert (code, f"42 holds nothing. Did you mean event {dead}, which holds aggregate 42?" in err) == (1, True)
        out = (await heard("doctor"))[1].splitlines()
        assert out[0].startswith("bad: ")
        assert any(line.startswith(f"bad: held: Event {dead} (order.paid) is dead and holds order 42") for line in out)


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


async def test_of_errors_that_have_to_do_with_the_limit_the_limit_is_named(heard, db):
    await bury(db, await insert_events(db, 2), error="payload is 27112 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 20000")
    await bury(db, await insert_events(db, 1), error="KeyError: 'vat'")
    await bury(db, await insert_events(db, 1), error="Dead: the customer closed the account")
    _, _, said = await heard("dlq", "stats")
    assert "\nTheir handler said that no retry helps; if that is over, `dispatcher dlq retry " in said
    assert said.endswith("try one first: `dispatcher dlq retry ID`; `dispatcher dlq list` has the ids.\n")
    _, large, other = sorted(said.splitlines(), reverse=True)[:3]
    assert large.startswith("Retrying does not help until the limit is raised: set DISPATCH_MAX_PAYLOAD_BYTES above ")
    assert other.startswith("Mend the cause, then `dispatcher dlq retry ")
