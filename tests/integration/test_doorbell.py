"""The doorbell: no committed row waits for the tick while the listener is up. Each race is built, not hoped for."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, cast

import anyio
import psycopg
import pytest

from dispatcher.core.events import ListenerChanged, Slept, Ticked
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load, trigger_down
from dispatcher.stages.doorbell.heartbeat import EVERY_S as PING_EVERY_S
from dispatcher.stages.doorbell.listener import DOORBELL
from tests.support.postgres import StartPostgres
from tests.support.rows import insert_events
from tests.support.running import Bell, StartBell
from tests.support.waiting import becomes

pytestmark = pytest.mark.both_versions

Db = psycopg.AsyncConnection[Any]


@asynccontextmanager
async def asleep(ours: Bell, patience_s: float = 50.0) -> AsyncIterator[dict[str, str]]:
    """Wait in the background, and enter the block once K is held and the wait has begun; `cause` is there after it."""
    result: dict[str, str] = {}

    async def wait() -> None:
        result["cause"] = await ours.wait(patience_s)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await ours.tap.next(Slept, where=lambda slept: slept.holds_key)
        yield result


@asynccontextmanager
async def other_session(db: Db) -> AsyncIterator[Db]:
    """One more session on the same database."""
    async with await psycopg.AsyncConnection.connect(
        db.info.dsn, password=db.info.password or None, autocommit=True
    ) as connection:
        yield connection


@pytest.mark.promise("wake")
async def test_a_commit_rings_the_sleeper(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] == "notify"


@pytest.mark.promise("wake")
async def test_a_silent_writer_that_commits_after_the_last_due_check(bell: StartBell, db: Db) -> None:
    async with bell() as ours, other_session(db) as writer:
        async with writer.transaction():
            await insert_events(writer)
            await writer.execute("SET CONSTRAINTS ALL IMMEDIATE")  # the trigger takes K shared and says nothing
            causes: list[str] = []

            async def wait() -> None:
                causes.append(await ours.wait())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                slept = await ours.tap.next(Slept)
                assert not slept.holds_key  # it must not sleep on a key that a writer holds
                await ours.tap.next(Slept)
                tasks.start_soon(writer.execute, "COMMIT")
        assert causes == ["writers"]


@pytest.mark.promise("wake")
async def test_a_silent_writer_that_commits_between_the_key_and_the_due_check(
    bell: StartBell, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the look inside doze.sql cannot see, because its snapshot is older than the key."""
    async with bell() as ours:
        fetch = ours.session.fetch

        async def commit_behind(sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
            rows = await fetch(sql, params)
            if sql == load("doze"):
                assert rows == [("asleep", None)]
                await db.execute("SET dispatcher.doorbell = off")
                await insert_events(db)
            return rows

        monkeypatch.setattr(ours.session, "fetch", commit_behind)
        assert await ours.wait() == "busy"


@pytest.mark.promise("wake")
@pytest.mark.parametrize("received", ["on the socket", "with another answer"])
async def test_a_ring_that_comes_during_the_due_check(
    bell: StartBell, db: Db, monkeypatch: pytest.MonkeyPatch, received: str
) -> None:
    async with bell() as ours:
        fetch = ours.session.fetch

        async def commit_behind(sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
            rows = await fetch(sql, params)
            if sql == load("due_check"):
                assert rows[0][0] is None
                await insert_events(db)
                if received == "with another answer":
                    await fetch("SELECT 1")  # psycopg takes the ring off the socket with this answer
            return rows

        monkeypatch.setattr(ours.session, "fetch", commit_behind)
        assert await ours.wait() == "notify"


async def test_a_row_that_is_due_already_needs_no_ring(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        await insert_events(db)
        assert await ours.wait() == "busy"


@pytest.mark.promise("due")
async def test_the_earliest_due_time_ends_the_sleep(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        await db.execute("SET dispatcher.doorbell = off")
        [row] = await insert_events(db)
        for milliseconds in (400, 4_000, 40_000):
            await db.execute(
                "UPDATE messaging.message_outbox SET next_run_at = clock_timestamp() + %s * interval '1 ms' "
                "WHERE id = %s",
                (milliseconds, row),
            )
            cause = await ours.wait()
            if cause != "busy":  # or it was due before the first look: a machine that stood still
                break
        assert cause == "due"


@pytest.mark.promise("due")
async def test_a_nudge_ends_the_sleep_in_time(bell: StartBell) -> None:
    async with bell() as ours:
        async with asleep(ours) as woken:
            ours.doorbell.nudge(0.01)
        assert woken["cause"] == "nudge"
        ours.doorbell.nudge()
        assert await ours.wait() == "nudge"


async def test_a_due_row_that_somebody_has_locked_makes_no_busy_loop(bell: StartBell, db: Db) -> None:
    async with bell() as ours, other_session(db) as holder:
        [row] = await insert_events(db)
        async with holder.transaction():
            await holder.execute("SELECT FROM messaging.message_outbox WHERE id = %s FOR UPDATE", (row,))
            for pause_s in (0.002, 0.004, 0.008):
                assert await ours.wait() in ("busy", "tick")
                await ours.doorbell.note_claim(0)  # what the claim got
                async with asleep(ours) as woken:
                    assert ours.tap.all(Slept)[-1].timeout_s == pause_s
                assert woken["cause"] == "tick"


@pytest.mark.promise("no-trigger")
async def test_without_the_trigger_the_tick_finds_rows(bell: StartBell, db: Db) -> None:
    await db.execute(trigger_down().encode())
    async with bell(tick_s=0.02) as ours:
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] == "tick"
        assert all(ticked.result == "ok" for ticked in ours.tap.all(Ticked))


@pytest.mark.promise("wake")
async def test_a_producer_transaction_left_open_silences_nobody(bell: StartBell, db: Db) -> None:
    async with bell() as ours, other_session(db) as idler, idler.transaction():
        await insert_events(idler)
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] == "notify"


@pytest.mark.promise("no-trigger")
async def test_a_muted_session_does_not_ring(bell: StartBell, db: Db) -> None:
    async with bell() as ours, other_session(db) as muted:
        await muted.execute("SET dispatcher.doorbell = off")
        async with asleep(ours) as woken:
            await insert_events(muted)
            ours.doorbell.nudge()
        assert woken["cause"] == "nudge"
        assert await listened(ours.session) == 0


@pytest.mark.promise("wake")
async def test_a_terminated_listener_counts_as_a_wake_up(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        async with asleep(ours) as woken:
            await db.execute("SELECT pg_terminate_backend(%s)", (ours.session.backend_pid,))
        assert woken["cause"] == "reconnect"
        assert (await ours.tap.next(ListenerChanged, where=lambda e: not e.up)).reason
        await insert_events(db)  # rung to nobody
        await ours.link.get()
        assert [await ours.wait() for _ in range(3)] == ["reconnect", "nudge", "busy"]


@pytest.mark.promise("quiet-writers")
async def test_only_the_holder_of_the_key_is_rung(bell: StartBell, db: Db) -> None:
    async with bell() as first, bell(tick_s=0.02) as second:
        async with asleep(first) as woken:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(second.wait)
                assert not (await second.tap.next(Slept)).holds_key
                assert not (await second.tap.next(Slept)).holds_key
                tasks.cancel_scope.cancel()
            await insert_events(db)
        assert woken["cause"] == "notify"
        channels = await second.session.fetch("SELECT * FROM pg_listening_channels()")
        assert ("outbox_doorbell",) not in channels


async def test_the_key_passes_on_when_its_holder_ends(bell: StartBell, db: Db) -> None:
    async with bell(tick_s=0.02) as heir:
        async with bell() as first, asleep(first):
            first.doorbell.nudge()
        async with asleep(heir) as woken:
            await insert_events(db)
        assert woken["cause"] in ("notify", "tick")


async def test_peers_are_rung_on_a_backlog_but_not_twice_a_second(bell: StartBell) -> None:
    async with bell(clock=lambda: 1000.0) as busy, bell() as idle:
        async with asleep(idle) as woken:
            await busy.doorbell.ring_peers()
            await busy.doorbell.ring_peers()
        assert woken["cause"] == "peer"
        await busy.session.fetch("SELECT 1")
        assert len([n for n in busy.session.drain_notifications() if n[0] == "outbox_backlog"]) == 1


@pytest.mark.promise("quiet-writers")
async def test_awake_it_lets_the_key_go_when_rows_come_fast(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        async with asleep(ours):
            await insert_events(db)
        await ours.doorbell.note_claim(100)
        async with other_session(db) as writer, writer.transaction():
            cursor = await writer.execute("SELECT pg_try_advisory_xact_lock_shared(1869968482, 1)")
            assert await cursor.fetchone() == (True,)


@pytest.mark.promise("wake")
async def test_a_deaf_listener_is_given_up(bell: StartBell) -> None:
    skipped = [0.0]
    async with bell(clock=lambda: monotonic() + skipped[0], tick_s=0.02) as ours:
        await ours.session.fetch("UNLISTEN *")
        async with asleep(ours) as woken:
            skipped[0] += PING_EVERY_S + 1  # it rings itself
            await ours.tap.next(Ticked)
            await ours.tap.next(Ticked)
            skipped[0] += PING_EVERY_S + 1  # and hears nothing
        assert woken["cause"] == "reconnect"
        assert "deaf" in str((await ours.tap.next(ListenerChanged, where=lambda e: not e.up)).reason)


async def test_a_cancelled_wait_leaves_the_session_in_order(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.wait)
            await ours.tap.next(Slept)
            tasks.cancel_scope.cancel()
        assert await ours.session.fetch("SELECT 1") == [(1,)]
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] == "notify"


async def test_a_table_lock_is_waited_out_on_the_tick(bell: StartBell, db: Db) -> None:
    async with bell(tick_s=0.02) as ours:
        await ours.session.fetch("SET lock_timeout = '50ms'")  # cuts nothing that is only slow
        async with db.transaction():
            await db.execute("LOCK TABLE messaging.message_outbox IN ACCESS EXCLUSIVE MODE")
            assert await ours.wait() == "tick"
            assert [t.result for t in ours.tap.all(Ticked)] == ["error"]
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] in ("notify", "tick")


async def test_after_a_refused_listen_the_next_sleep_is_not_deaf(
    bell: StartBell, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bell() as ours:
        fetch, refusals = ours.session.fetch, [psycopg.errors.QueryCanceled()]

        async def refuse(sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
            if sql == f"LISTEN {DOORBELL}" and refusals:
                ours.doorbell.nudge()  # ends the pause that follows
                raise refusals.pop()
            return await fetch(sql, params)

        monkeypatch.setattr(ours.session, "fetch", refuse)
        assert await ours.wait() == "nudge"
        assert [t.result for t in ours.tap.all(Ticked)] == ["error"]
        async with asleep(ours) as woken:
            await insert_events(db)
        assert woken["cause"] == "notify"


async def test_a_refused_doze_that_got_the_key_does_not_keep_it(
    bell: StartBell, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session locks outlive the statement that took them: taken twice and let go once, writers would ring for ever."""
    async with bell() as ours:
        fetch, refusals = ours.session.fetch, [psycopg.errors.QueryCanceled()]

        async def refuse(sql: str, params: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
            rows = await fetch(sql, params)
            if sql == load("doze") and refusals:
                assert rows == [("asleep", None)]
                ours.doorbell.nudge()
                raise refusals.pop()
            return rows

        monkeypatch.setattr(ours.session, "fetch", refuse)
        assert await ours.wait() == "nudge"
        async with db.transaction():
            cursor = await db.execute("SELECT pg_try_advisory_xact_lock_shared(1869968482, 1)")
            assert await cursor.fetchone() == (True,)


async def listened(session: Session) -> int:
    """How many rings of writers have arrived."""
    await session.fetch("SELECT 1")
    return len([n for n in session.drain_notifications() if n[0] == "outbox_doorbell"])


async def test_savepoints(bell: StartBell, db: Db) -> None:
    async with bell() as ours, asleep(ours):
        ours.doorbell.nudge()
    async with bell() as ours, asleep(ours):
        async with db.transaction():
            await db.execute("SAVEPOINT s")
            await insert_events(db)
            await db.execute("ROLLBACK TO s")
        ours.doorbell.nudge()
    async with bell() as ours:
        async with asleep(ours) as woken, db.transaction():
            await db.execute("SAVEPOINT s")
            await insert_events(db)
            await db.execute("ROLLBACK TO s")
            await insert_events(db)  # the rolled-back one must not have used up the transaction's ring
            await db.execute("SAVEPOINT t")
            await insert_events(db)
            await db.execute("ROLLBACK TO t")
        assert woken["cause"] == "notify"
    await db.execute("DELETE FROM messaging.message_outbox")
    async with bell() as ours:
        async with asleep(ours) as woken, db.transaction():
            await db.execute("SAVEPOINT s")
            await db.execute("SET CONSTRAINTS ALL IMMEDIATE")
            await insert_events(db)
            await db.execute("ROLLBACK TO s")  # the NOTIFY is undone, and so must be the mark that says it was made
            await insert_events(db)
        assert woken["cause"] == "notify"


@pytest.mark.promise("quiet-writers")
async def test_a_copy_of_many_rows_rings_once(bell: StartBell, db: Db) -> None:
    async with bell() as ours:
        async with asleep(ours) as woken, db.transaction():
            async with (
                db.cursor() as cursor,
                cursor.copy("COPY messaging.message_outbox (event_type, aggregate_id, payload) FROM STDIN") as copy,
            ):
                await copy.write("".join(f"MessageCreated\ta{n}\t{{}}\n" for n in range(10_000)))
            await db.execute("SET CONSTRAINTS ALL IMMEDIATE")
            # The other rows' calls end at the mark: without it each would ask for the key in vain, and notify.
            assert await (await db.execute("SELECT current_setting('dispatcher.doorbell')")).fetchone() == ("rang",)
        assert woken["cause"] == "notify"
        assert await (await db.execute("SELECT current_setting('dispatcher.doorbell', true)")).fetchone() == ("",)


@pytest.mark.promise("quiet-writers")
async def test_where_commits_that_ring_wait_for_one_another_nobody_rings(
    bell: StartBell, own_postgres: StartPostgres
) -> None:
    """The first of them waits for a standby that is not there, as others wait for a slow disk."""
    url = own_postgres().url()
    await migrate(url)

    async def commit(writer: Db, synchronous: str) -> None:
        await writer.execute(f"SET synchronous_commit = {synchronous}")
        await insert_events(writer)

    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
            for _ in range(5)
        ]
        db, first, *others = connections
        ours = await stack.enter_async_context(bell(database_url=url))
        async with asleep(ours) as woken:
            await commit(db, "off")
        assert woken["cause"] == "notify"
        await db.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await db.execute("SELECT pg_reload_conf()")

        async def ringing() -> int:
            return int((await ours.session.fetch(load("rings_waiting")))[0][0])

        async def first_waits() -> str | None:
            asked = await db.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [first.info.backend_pid])
            return cast(tuple[str | None], await asked.fetchone())[0]

        async def commit_until_one_waits() -> None:
            while standby:
                await commit(first, "on")

        standby = True
        async with anyio.create_task_group() as writing:
            writing.start_soon(commit_until_one_waits)
            await becomes(first_waits, "SyncRep")
            for number, other in enumerate(others, 1):
                writing.start_soon(commit, other, "off")
                await becomes(ringing, number)
            await ours.doorbell.note_claim(3)
            standby = False
            await db.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            await db.execute("SELECT pg_reload_conf()")
        assert await ours.wait() == "poll"
        keys = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
        assert await (await db.execute(keys)).fetchone() == (0,)
