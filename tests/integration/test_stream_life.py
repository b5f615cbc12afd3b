"""Entries that vanish while Redis runs on, clocks that are set back, and a proxy that makes up run ids."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import AuditChanged, Republished, Settled, Ticked
from dispatcher.core.incarnation import stream_order
from dispatcher.embedded import EmbeddedPostgres
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.upkeep import redis_loss, stream_server
from tests.support.command import RunCommand
from tests.support.postgres import StartPostgres
from tests.support.proxy import StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.running import Running, StartDispatcher
from tests.support.waiting import becomes, until

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


async def needs(redis: "Redis", version: str, what: str) -> None:
    """Skip the test on an older Redis (Valkey says 7.2.4)."""
    there, wanted = (
        tuple(map(int, each.split("."))) for each in ((await redis.info("server"))["redis_version"], version)
    )
    if there < wanted:
        pytest.skip(f"{what} since Redis {version}")


TOLD = "what was ever added to a stream is told"


async def all_once(db: psycopg.AsyncConnection[Any], redis: "Redis") -> None:
    """Every row is in the stream, once, under the id its row says."""
    rows = {str(row["event_id"]): row["stream_id"] for row in await read_table(db)}
    entries = [(entry["event_id"], entry["stream_id"]) for entry in await read_stream(redis)]
    assert len(entries) == len(rows)
    assert dict(entries) == rows


async def flush(redis: "Redis") -> None:
    await redis.flushall()


async def delete(redis: "Redis") -> None:
    await redis.delete(STREAM)


async def rename(redis: "Redis") -> None:
    await redis.rename(STREAM, "elsewhere")


async def set_the_id_lower(redis: "Redis") -> None:
    await redis.xtrim(STREAM, 0, approximate=False)
    await redis.execute_command("XSETID", STREAM, "1-1")  # type: ignore[no-untyped-call]


async def make_it_anew(redis: "Redis") -> None:
    """As a consumer does that creates its group again."""
    await redis.delete(STREAM)
    await redis.xgroup_create(STREAM, "group", id="0", mkstream=True)


@pytest.fixture(params=[flush, delete, rename, set_the_id_lower, make_it_anew], ids=lambda hurt: hurt.__name__)
def hurt(request: pytest.FixtureRequest) -> Callable[["Redis"], Awaitable[None]]:
    """What a person, or another program, does to the stream."""
    chosen: Callable[[Redis], Awaitable[None]] = request.param
    return chosen


@pytest.mark.parametrize("hurt", [flush, delete, rename, make_it_anew], ids=lambda hurt: hurt.__name__)
@pytest.mark.promise("redis-loss")
async def test_the_stream_loses_its_end_while_redis_runs_on(dispatcher: StartDispatcher, redis, db, hurt):
    if hurt is make_it_anew:  # and written to at once: its newest id is higher than the known one
        await needs(redis, "7.0", TOLD)
    async with dispatcher() as running:
        await insert_events(db, 300)
        await running.tap.add_up(Settled, sent=300)
        await hurt(redis)
        await insert_events(db, 1)
        lost = await running.tap.next(Republished)
        assert (lost.rows, lost.same_server, lost.why) == (300, True, stream_server.EMPTIED)
        await running.tap.add_up(Settled, sent=301)
        await all_once(db, redis)
        assert {row["attempts"] for row in await read_table(db)} == {0}
        [(life, rows, why)] = await (
            await db.execute("SELECT life, lost_rows, lost_why FROM messaging.stream_server")
        ).fetchall()
        assert (life, rows, why) == (1, 300, stream_server.EMPTIED)


async def test_it_is_noticed_while_nothing_is_published(dispatcher: StartDispatcher, redis, db, hurt, monkeypatch):
    monkeypatch.setattr(redis_loss, "NOTE_EVERY", 1)
    async with dispatcher() as running:
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)
        await noted(db)
        await hurt(redis)
        assert (await running.tap.next(Republished)).rows == 20
        await running.tap.add_up(Settled, sent=20)
        await all_once(db, redis)


async def noted(db: psycopg.AsyncConnection[Any]) -> None:
    """Wait until a dispatcher has noted the newest entry; from Redis 7 on it notes then how many had been added."""
    newest = max((row["stream_id"] for row in await read_table(db)), key=stream_order)

    async def look() -> Any:
        return (await (await db.execute("SELECT newest_id FROM messaging.stream_server")).fetchall())[0][0]

    await becomes(look, newest, "what is noted")


@pytest.mark.promise("redis-loss")
async def test_it_is_emptied_while_it_refuses_what_is_new(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    """Redis is full, and somebody flushes it. Until the end of a new stream was noted, a try that failed forgot it."""
    server = own_valkey(options={"maxmemory-policy": "noeviction"})
    async with (
        Redis.from_url(server.url, decode_responses=True) as redis,
        dispatcher(redis_url=server.url, tick_ms=100) as running,
    ):
        await insert_events(db, 20)
        await becomes(lambda: statuses(db), {"sent": 20})
        await redis.config_set("maxmemory", 1)
        await insert_events(db, 5)
        for _ in range(4):  # tries
            await running.tap.next(Ticked, lambda ticked: "OOM" in (ticked.error or ""))
        await redis.flushall()
        await redis.config_set("maxmemory", 0)
        await becomes(lambda: statuses(db), {"sent": 25})
        await all_once(db, redis)


@pytest.mark.promise("redis-loss")
async def test_an_older_copy_is_put_in_its_place(dispatcher: StartDispatcher, redis, redis_url, db):
    await needs(redis, "7.0", TOLD)
    async with dispatcher() as running, Redis.from_url(redis_url) as raw:
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)
        copy = await raw.dump(STREAM) or b""
        await insert_events(db, 30)
        await running.tap.add_up(Settled, sent=30)
        await noted(db)
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        await raw.restore(STREAM, 0, copy, replace=True)
        await insert_events(db, 40)
        assert (await running.tap.next(Republished)).rows == 35
        await becomes(lambda: statuses(db), {"sent": 95})
        await all_once(db, redis)


async def test_an_older_copy_of_large_entries_is_put_in_its_place(dispatcher: StartDispatcher, redis, redis_url, db):
    """It is read through on the connection that publishes, which must not end each time."""
    await needs(redis, "7.0", TOLD)
    async with dispatcher() as running, Redis.from_url(redis_url) as raw:
        for rows in (40, 20):
            copy = await raw.dump(STREAM) or b""
            await insert_events(db, rows, payload='{"text": "%s"}' % ("x" * 300_000))
            await running.tap.add_up(Settled, sent=rows)
        await noted(db)
        await raw.restore(STREAM, 0, copy, replace=True)
        await insert_events(db, 1)
        await raw.xadd(STREAM, {"by": "somebody else"})
        assert (await running.tap.next(Republished)).rows == 20
        await becomes(lambda: statuses(db), {"sent": 61})


@pytest.mark.promise("redis-loss")
async def test_it_is_emptied_under_load_with_two_dispatchers_and_made_by_others(dispatcher: StartDispatcher, redis, db):
    await needs(redis, "7.0", TOLD)
    async with dispatcher() as one, dispatcher() as two:
        await insert_events(db, 500)
        await becomes(lambda: statuses(db), {"sent": 500})
        await noted(db)
        await make_it_anew(redis)
        await insert_events(db, 3000)
        await until(lambda: [*one.tap.all(Republished), *two.tap.all(Republished)], "the loss is noticed")
        await becomes(lambda: statuses(db), {"sent": 3500})
        await until(lambda: has(redis, 3500), "the stream has all")
        await all_once(db, redis)
        assert sum(event.rows for event in [*one.tap.all(Republished), *two.tap.all(Republished)]) == 500


async def has(redis: "Redis", entries: int) -> bool:
    return bool(await redis.xlen(STREAM) == entries)


async def trim(redis: "Redis") -> None:
    await redis.xtrim(STREAM, 0, approximate=False)


async def delete_all_entries(redis: "Redis") -> None:
    await redis.xdel(STREAM, *[entry["stream_id"] for entry in await read_stream(redis)])


async def delete_the_newest(redis: "Redis") -> None:
    await redis.xdel(STREAM, (await read_stream(redis))[-1]["stream_id"])


async def set_the_id_higher(redis: "Redis") -> None:
    newest = (await read_stream(redis))[-1]["stream_id"]
    later = f"{int(newest.split('-')[0]) + 60_000}-0"
    await redis.execute_command("XSETID", STREAM, later)  # type: ignore[no-untyped-call]


async def trim_what_all_have_done(redis: "Redis") -> None:
    """Older entries stay that a group has not acknowledged."""
    groups: list[Any] = await redis.xinfo_groups(STREAM)
    if not groups:
        await redis.xgroup_create(STREAM, "group", id="0")
    reply: Any = await redis.xreadgroup("group", "one", {STREAM: ">"})
    [(_, read)] = reply
    await redis.xack(STREAM, "group", *[entry for entry, _ in read[0 if groups else 1 :]])
    await redis.execute_command("XTRIM", STREAM, "MAXLEN", 1, "ACKED")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "touch",
    [trim, delete_all_entries, delete_the_newest, set_the_id_higher, trim_what_all_have_done],
    ids=lambda touch: touch.__name__,
)
async def test_what_a_person_may_do_is_no_loss(dispatcher: StartDispatcher, redis, db, touch, monkeypatch):
    monkeypatch.setattr(redis_loss, "EVERY_S", 0.05)
    monkeypatch.setattr(redis_loss, "NOTE_EVERY", 1)
    if touch is trim_what_all_have_done:
        await needs(redis, "8.2", "XTRIM ACKED is known")
    async with dispatcher() as running:
        await insert_events(db, 20)
        await running.tap.add_up(Settled, sent=20)
        await noted(db)
        await touch(redis)
        await looked_again(db)
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        await noted(db)
        await touch(redis)
        await looked_again(db)
        assert running.tap.all(Republished) == []
        assert await statuses(db) == {"sent": 25}


async def looked_again(db: psycopg.AsyncConnection[Any]) -> None:
    """Wait until a dispatcher has looked at the stream and found nothing lost, twice from now on."""
    for _ in range(2):
        await db.execute("UPDATE messaging.stream_server SET mark_at = clock_timestamp() + interval '1 day'")

        async def look() -> bool:
            asked = await db.execute("SELECT mark_at < clock_timestamp() FROM messaging.stream_server")
            return bool((await asked.fetchall())[0][0])

        await until(look, "it was looked at")


async def test_a_settle_of_an_earlier_life_is_refused(dispatcher: StartDispatcher, redis, db):
    """Acknowledged before the stream was emptied, settled after the audit: its rows would be lost."""
    async with dispatcher() as running:
        await insert_events(db, 3)
        await running.tap.add_up(Settled, sent=3)
        await db.execute("UPDATE messaging.stream_server SET life = life + 1")
        await insert_events(db, 4)
        await running.tap.add_up(Settled, sent=4)
        await all_once(db, redis)


# The window.


@asynccontextmanager
async def a_clock_that_can_be_set(
    own_postgres: StartPostgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, Callable[[int], None]]]:
    """A migrated database on a Postgres whose clock can be set: its URL, and a function that takes seconds ahead."""
    if not FAKETIME.exists():  # noqa: ASYNC240
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    clock = Path("/tmp") / f"clock-{secrets.token_hex(4)}"  # noqa: S108 -- Postgres runs as another user
    clock.write_text("+0\n")
    clock.chmod(0o644)
    command = EmbeddedPostgres._command
    faked = ["/usr/bin/env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={clock}"]
    faked += ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]

    def with_another_clock(self: EmbeddedPostgres) -> Any:
        words, user = command(self)
        return [*faked, *words], user

    with monkeypatch.context() as changed:
        changed.setattr(EmbeddedPostgres, "_command", with_another_clock)
        server = await anyio.to_thread.run_sync(own_postgres)
    await migrate(server.url())
    try:
        yield server.url(), lambda seconds: _replace(clock, f"{seconds:+d}\n")
    finally:
        clock.unlink()


async def replicaof(redis: "Redis", *whose: str | int) -> None:
    await redis.execute_command("REPLICAOF", *whose)  # type: ignore[no-untyped-call]


def _replace(clock: Path, text: str) -> None:
    beside = clock.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(0o644)
    beside.rename(clock)


@pytest.mark.promise("redis-loss")
@pytest.mark.parametrize(("before_s", "after_s"), [(0, -90), (-90, 0), (0, -86_400), (-86_400, 0)])
@pytest.mark.parametrize("looks_between", [True, False])
async def test_the_clock_of_postgres_steps_before_redis_fails_over(
    dispatcher: StartDispatcher,
    own_postgres: StartPostgres,
    own_valkey: StartValkey,
    proxy: StartProxy,
    monkeypatch,
    before_s,
    after_s,
    looks_between,
):
    monkeypatch.setattr(redis_loss, "NOTE_EVERY", 1)
    async with a_clock_that_can_be_set(own_postgres, monkeypatch) as (url, set_clock):
        set_clock(before_s)
        primary, replica = own_valkey(), own_valkey()
        replication, address = await proxy(primary.url), await proxy(primary.url)
        async with (
            await psycopg.AsyncConnection.connect(url, autocommit=True) as db,
            Redis.from_url(primary.url, decode_responses=True) as first,
            Redis.from_url(replica.url, decode_responses=True) as second,
            dispatcher(database_url=url, redis_url=address.via(primary.url)) as running,
        ):
            await replicaof(second, "127.0.0.1", replication.port)
            await insert_events(db, 40)
            await running.tap.add_up(Settled, sent=40)
            await noted(db)
            monkeypatch.setattr(redis_loss, "NOTE_EVERY", 1 if looks_between else 1_000_000)
            set_clock(after_s)
            await insert_events(db, 80)
            await running.tap.add_up(Settled, sent=80)
            await until(lambda: has(second, 120), "the replica has the entries")
            replication.stall()
            await insert_events(db, 20)
            await running.tap.add_up(Settled, sent=20)
            if looks_between:
                await noted(db)
            elif after_s < before_s:
                set_clock(before_s)  # and forward again, as after an outage longer than the step
            assert await first.xlen(STREAM) == 140
            await replicaof(second, "NO", "ONE")
            address.upstream = ("127.0.0.1", replica.port)
            address.cut()
            await insert_events(db, 1)
            lost = await running.tap.next(Republished, lambda event: event.rows > 0)
            assert lost == Republished(20, "a replica was promoted")
            await becomes(lambda: statuses(db), {"sent": 141})
            await all_once(db, second)


async def test_the_window_moves_on_with_the_entries(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    """What is older than the window stays lost, by its entry id: no clock is asked."""
    valkey = own_valkey()
    async with (
        dispatcher(redis_url=valkey.url, audit_window_s=1.0) as running,
        Redis.from_url(valkey.url, decode_responses=True) as redis,
    ):
        await insert_events(db, 10)
        await running.tap.add_up(Settled, sent=10)
        newest = (await read_stream(redis))[-1]["stream_id"]

        async def window() -> Any:
            return (await (await db.execute("SELECT window_id FROM messaging.stream_server")).fetchall())[0][0]

        await becomes(window, newest, "the begin of the window")
        await insert_events(db, 5)
        await running.tap.add_up(Settled, sent=5)
        await db.execute("UPDATE messaging.message_outbox SET sent_at = sent_at + interval '1 hour'")
        await anyio.to_thread.run_sync(valkey.crash)
        await anyio.to_thread.run_sync(valkey.start)
        assert (await running.tap.next(Republished)).rows == 5


# A proxy that makes up run ids.


class Liar:
    """A TCP proxy that puts another run id into the answers of each connection."""

    def __init__(self, url: str) -> None:
        self._port = int(re.search(r":(\d+)", url.removeprefix("redis://"))[1])  # type: ignore[index]
        self.port = 0
        self.connections = 0

    async def serve(self, *, task_status: Any) -> None:
        """Until cancelled."""
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 -- not Django
            task_status.started()
            await listener.serve(self._carry)

    async def _carry(self, client: anyio.abc.SocketStream) -> None:
        self.connections += 1
        run_id = secrets.token_hex(20).encode()
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self._port) as server,
            anyio.create_task_group() as both,
        ):

            async def forth() -> None:
                async for data in client:
                    await server.send(data)
                both.cancel_scope.cancel()

            both.start_soon(forth)
            try:
                async for data in server:
                    await client.send(re.sub(rb"run_id:\w{40}", b"run_id:" + run_id, data))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            both.cancel_scope.cancel()


@pytest.fixture
async def liar(redis_url: str) -> AsyncIterator[Liar]:
    """A liar before the session's Redis."""
    liar = Liar(redis_url)
    async with anyio.create_task_group() as tasks:
        await tasks.start(liar.serve)
        yield liar
        tasks.cancel_scope.cancel()


@pytest.mark.promise("redis-loss")
async def test_a_proxy_that_makes_up_run_ids_is_recognised_and_nothing_is_audited(
    dispatcher: StartDispatcher, redis, redis_url, db, liar: Liar, command: RunCommand
):
    url = f"redis://127.0.0.1:{liar.port}/0"

    def lost_sight(running: Running) -> list[tuple[bool, str | None]]:
        return [(event.on, event.reason) for event in running.tap.all(AuditChanged)]

    async with dispatcher(redis_url=url) as one, dispatcher(redis_url=url) as two:
        for _ in range(5):
            await insert_events(db, 100)
            await becomes(lambda: statuses(db), {"sent": await count(db)})
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert [*one.tap.all(Republished), *two.tap.all(Republished)] == []
        assert {(False, redis_loss.PROXY)} <= {*lost_sight(one), *lost_sight(two)}
        assert max(lost_sight(each).count((False, redis_loss.PROXY)) for each in (one, two)) == 1
        assert len({entry["event_id"] for entry in await read_stream(redis)}) == 500
    assert "connections are told different run ids" in (await command("doctor", "--redis-url", url))[1]


async def count(db: psycopg.AsyncConnection[Any]) -> int:
    return (await (await db.execute("SELECT count(*) FROM messaging.message_outbox")).fetchall())[0][0]  # type: ignore[no-any-return]
