"""A Redis that lost what it had acknowledged is noticed, and what it lost is published again before anything else."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.errors import IncarnationChanged, Unreachable
from dispatcher.core.events import AuditChanged, Reconciled, Republished, Settled
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.embedded import EmbeddedValkey
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay.stream.answers import SinkAnswers
from dispatcher.stages.claim import claim, new_claim_id
from dispatcher.stages.settle import settle
from dispatcher.upkeep.redis_loss import RedisLossAudit
from tests.support.proxy import Proxy, StartProxy
from tests.support.redis import StartValkey
from tests.support.rows import STREAM, insert_events, read_stream, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.tap import Tap
from tests.support.waiting import becomes, until

SENT = """
INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload, status, attempts, sent_at, stream_id)
SELECT 'order.created', 'a', '{}', 'sent', 3, clock_timestamp() - %s * interval '1 second', %s
"""


def cut_tail(valkey: EmbeddedValkey, keep: int) -> None:
    """Keep that many entries of its append-only file, as a power loss between two fsyncs does."""
    folder = Path(valkey.data_dir)
    [path] = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]  # the second before Redis 7
    parts = path.read_bytes().split(b"$4\r\nXADD\r\n")
    assert len(parts) > keep + 1
    last = parts[keep]
    kept = b"$4\r\nXADD\r\n".join(parts[: keep + 1])
    # What follows the last entry begins with the head of the next command.
    os.truncate(path, len(kept) - (len(last) - last.rindex(b"\r\n*") - 2))


def client(valkey: EmbeddedValkey) -> Any:
    return Redis.from_url(valkey.url, decode_responses=True)


async def wait_sent(tap: Tap, rows: int) -> None:
    """Wait until so many rows were settled as sent since the last wait."""
    await tap.add_up(Settled, sent=rows)


async def has(redis: Any, entries: int) -> bool:
    return bool(await redis.xlen(STREAM) == entries)


async def all_sent(db: psycopg.AsyncConnection[Any], rows: int) -> None:
    await becomes(lambda: statuses(db), {"sent": rows})


async def all_once(db: psycopg.AsyncConnection[Any], redis: Any) -> None:
    """Every row is in the stream, once, under the id its row says."""
    rows = {str(row["event_id"]): row["stream_id"] for row in await read_table(db)}
    entries = [(entry["event_id"], entry["stream_id"]) for entry in await read_stream(redis)]
    assert len(entries) == len(rows)
    assert dict(entries) == rows


@pytest.mark.promise("redis-loss")
async def test_the_tail_of_the_aof_is_lost(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    valkey = own_valkey(appendonly=True)
    async with dispatcher(redis_url=valkey.url) as running, client(valkey) as redis:
        await insert_events(db, 50)
        await wait_sent(running.tap, 50)
        await insert_events(db, 50)
        await wait_sent(running.tap, 50)
        await anyio.to_thread.run_sync(valkey.crash)
        cut_tail(valkey, 60)
        await insert_events(db, 10)  # what waits must not be published before the audit
        await anyio.to_thread.run_sync(valkey.start)
        assert (await running.tap.next(Republished)).rows == 40
        await wait_sent(running.tap, 50)
        await all_once(db, redis)
        assert {row["attempts"] for row in await read_table(db)} == {0}


async def test_all_is_lost(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    valkey = own_valkey()
    async with dispatcher(redis_url=valkey.url) as running, client(valkey) as redis:
        await insert_events(db, 30)
        await wait_sent(running.tap, 30)
        await anyio.to_thread.run_sync(valkey.crash)
        await anyio.to_thread.run_sync(valkey.start)
        assert (await running.tap.next(Republished)).rows == 30  # also though nobody writes anything new
        await wait_sent(running.tap, 30)
        await all_once(db, redis)


@pytest.mark.promise("redis-loss")
async def test_a_clean_restart_is_no_alarm(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    valkey = own_valkey(appendonly=True)
    async with dispatcher(redis_url=valkey.url) as running, client(valkey) as redis:
        await insert_events(db, 30)
        await wait_sent(running.tap, 30)
        await anyio.to_thread.run_sync(valkey.crash)
        await insert_events(db, 1)
        await anyio.to_thread.run_sync(valkey.start)
        assert (await running.tap.next(Republished)).rows == 0
        await wait_sent(running.tap, 1)
        await all_once(db, redis)


async def test_a_plain_reconnect_is_no_other_run(dispatcher: StartDispatcher, redis_url, redis, db, proxy: StartProxy):
    between = await proxy(redis_url)
    async with dispatcher(redis_url=between.via(redis_url)) as running:
        await insert_events(db, 5)
        await wait_sent(running.tap, 5)
        between.cut()
        await insert_events(db, 5)
        await wait_sent(running.tap, 5)
        assert running.tap.all(Republished) == []
        await all_once(db, redis)


async def replicate(replica: EmbeddedValkey, between: Proxy) -> None:
    """Make it a replica through the proxy, and wait until it is in step."""
    async with client(replica) as redis:
        await redis.execute_command("REPLICAOF", "127.0.0.1", between.port)

        async def in_step() -> bool:
            return bool((await redis.info("replication"))["master_link_status"] == "up")

        await until(in_step, "the replica is in step")


@pytest.mark.promise("redis-loss")
async def test_a_failover_to_a_replica_that_missed_entries(
    dispatcher: StartDispatcher, own_valkey: StartValkey, proxy: StartProxy, db
):
    primary, replica = own_valkey(), own_valkey()
    replication, address = await proxy(primary.url), await proxy(primary.url)
    await replicate(replica, replication)
    async with dispatcher(redis_url=address.via(primary.url)) as running, client(replica) as redis:
        await insert_events(db, 20)
        await wait_sent(running.tap, 20)
        await until(lambda: has(redis, 20), "the replica has the entries")
        replication.stall()
        await insert_events(db, 15)
        await wait_sent(running.tap, 15)
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        address.upstream = ("127.0.0.1", replica.port)
        address.cut()
        await insert_events(db, 5)
        event = await running.tap.next(Republished, lambda event: event.rows > 0)
        assert event == Republished(15, "a replica was promoted")
        await wait_sent(running.tap, 20)
        await all_once(db, redis)


@pytest.mark.promise("redis-loss")
async def test_two_dispatchers_make_one_audit(dispatcher: StartDispatcher, own_valkey: StartValkey, db):
    valkey = own_valkey(appendonly=True)
    async with (
        dispatcher(redis_url=valkey.url) as one,
        dispatcher(redis_url=valkey.url) as two,
        client(valkey) as redis,
    ):
        await insert_events(db, 100)
        await all_sent(db, 100)
        await anyio.to_thread.run_sync(valkey.crash)
        cut_tail(valkey, 70)
        await insert_events(db, 20)
        await anyio.to_thread.run_sync(valkey.start)
        await until(lambda: has(redis, 120), "the stream has all")
        await all_sent(db, 120)
        await all_once(db, redis)
        assert [event.rows for event in (*one.tap.all(Republished), *two.tap.all(Republished))] == [30]


@pytest.mark.promise("redis-loss")
async def test_a_dispatcher_left_on_the_old_primary(
    dispatcher: StartDispatcher, own_valkey: StartValkey, proxy: StartProxy, db, monkeypatch
):
    """It publishes to the old primary and settles after the audit: that is refused, and the rows go to the new one."""
    old, new = own_valkey(), own_valkey()
    address = await proxy(old.url)
    held = anyio.Event()
    settled = SinkAnswers.settle

    async def late(
        self: SinkAnswers, link: ReconnectingSession, batch: Any, outcomes: BatchOutcomes, **options: Any
    ) -> Any:
        if outcomes.sent_ids and address.upstream[1] == old.port:
            address.upstream = ("127.0.0.1", new.port)
            held.set()
            await moved.wait()
            address.cut()
        return await settled(self, link, batch, outcomes, **options)

    moved = anyio.Event()
    async with dispatcher(redis_url=address.via(old.url)) as running, client(new) as redis:
        await insert_events(db, 3)
        await wait_sent(running.tap, 3)
        monkeypatch.setattr(SinkAnswers, "settle", late)
        await insert_events(db, 4)
        await held.wait()
        async with dispatcher(redis_url=new.url) as other:
            await insert_events(db, 1)
            await other.tap.next(Republished)
            moved.set()
            await until(lambda: has(redis, 8), "the new primary has all")
            await all_sent(db, 8)
        # More when it also took rows that the audit put back, while it was still connected to the old primary.
        assert sum(event.missing for event in running.tap.all(Reconciled)) >= 4
        await all_once(db, redis)


# The statement and the class by themselves.


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "upkeep")
    yield session
    await session.close()


@pytest.fixture
def chunk() -> int:
    """How many rows one statement puts back."""
    return 20_000


@pytest.fixture
async def audit(database_url: str, tap: Tap, chunk: int) -> AsyncIterator[RedisLossAudit]:
    link = ReconnectingSession(PostgresTarget(database_url, "test"), "upkeep", rng=Random(1))
    async with anyio.create_task_group() as tasks:
        await tasks.start(link.keep)
        yield RedisLossAudit((STREAM,), link, window_s=60, deadline_s=30.0, wake=lambda: None, observe=tap, chunk=chunk)
        tasks.cancel_scope.cancel()


@pytest.fixture
async def redis_connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    redis_connection = RedisConnection(
        RedisTarget.parse(redis_url), name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda _: None
    )
    await redis_connection.connect()
    yield redis_connection
    redis_connection.close()


async def remember(db: psycopg.AsyncConnection[Any], seconds_ago: float = 0) -> None:
    """Another run of Redis held the stream and answered last then."""
    await db.execute(
        "INSERT INTO messaging.stream_server (stream, run_id, replid, last_id, seen_at) "
        "VALUES (%s, 'old', 'old', '0-0', clock_timestamp() - %s * interval '1 second')",
        (STREAM, seconds_ago),
    )


@pytest.mark.promise("redis-loss")
async def test_ids_are_numbers_and_only_the_window_is_audited(audit, redis_connection, redis, db, tap):
    await remember(db, 3600)  # an outage of an hour: the window ends before it, not now
    await redis.xadd(STREAM, {"a": "b"}, id="1000-9")
    kept = [(3600, "1000-9"), (3600, "999-100"), (3600, "1000-8"), (3700, "1000-10"), (3600, None), (3600, "by hand")]
    lost = [(3600, "1000-10"), (3659, "1001-0"), (10, "10000-0"), (0, f"{2**64 - 1}-{2**64 - 1}")]
    for seconds_ago, stream_id in kept + lost:
        await db.execute(SENT, (seconds_ago, stream_id))
    assert (await audit.verify(redis_connection)).known
    rows = await read_table(db)
    assert [row["stream_id"] for row in rows if row["status"] == "sent"] == [stream_id for _, stream_id in kept]
    back = [row for row in rows if row["status"] == "pending"]
    assert len(back) == len(lost)
    assert [(row["attempts"], row["sent_at"], row["stream_id"], row["claim_id"]) for row in back] == [
        (3, None, None, None)
    ] * len(lost)
    assert tap.all(Republished) == [Republished(len(lost), "it is another incarnation")]
    assert await audit.verify(redis_connection)
    assert len(tap.all(Republished)) == 1


async def test_the_first_run_that_is_seen_is_believed(audit, redis_connection, db, tap):
    await db.execute(SENT, (0, "1-1"))
    assert (await audit.verify(redis_connection)).known
    assert tap.seen == [AuditChanged(True, None)]
    assert await statuses(db) == {"sent": 1}


@pytest.mark.parametrize("chunk", [10])
async def test_many_rows_are_put_back_in_chunks(audit, redis_connection, db, tap):
    await remember(db)
    for _ in range(25):
        await db.execute(SENT, (0, "5-5"))
    await audit.verify(redis_connection)
    assert await statuses(db) == {"pending": 25}
    assert [event.rows for event in tap.all(Republished)] == [10, 10, 5]


async def test_a_replica_is_not_audited(audit, redis_connection, redis, db):
    await remember(db)
    await db.execute(SENT, (0, "5-5"))
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(Unreachable, match="replica"):
            await audit.verify(redis_connection)
        assert await statuses(db) == {"sent": 1}
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")


async def test_without_the_right_to_ask_it_says_so_once(audit, redis_url, redis, db, tap):
    await remember(db)
    await db.execute(SENT, (0, "5-5"))
    await redis.execute_command("ACL", "SETUSER", "noinfo", "on", ">x", "~*", "+@all", "-info")
    url = redis_url.replace("redis://", "redis://noinfo:x@")
    redis_connection = RedisConnection(
        RedisTarget.parse(url), name="test", streams=(STREAM,), connect_timeout_s=30.0, on_lost=lambda _: None
    )
    try:
        await redis_connection.connect()
        assert not (await audit.verify(redis_connection)).known
        await audit.verify(redis_connection)
        assert [event.on for event in tap.all(AuditChanged)] == [False]
        assert await statuses(db) == {"sent": 1}
    finally:
        redis_connection.close()
        await redis.execute_command("ACL", "DELUSER", "noinfo")


async def test_a_demotion_and_promotion_in_place_is_noticed(dispatcher, own_valkey, db):
    """No connection is cut, and nothing is published in between."""
    valkey, other = own_valkey(), own_valkey()
    async with dispatcher(redis_url=valkey.url) as running, client(valkey) as redis:
        await insert_events(db, 5)
        await wait_sent(running.tap, 5)
        await redis.execute_command("REPLICAOF", "127.0.0.1", other.port)  # drops what it has
        await until(lambda: has(redis, 0), "the entries are dropped")
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        assert (await running.tap.next(Republished)).rows == 5
        await wait_sent(running.tap, 5)
        await all_once(db, redis)


async def an_audit_waits(db: psycopg.AsyncConnection[Any]) -> None:
    """Wait until an audit waits for its lock."""
    waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4 AND mode LIKE 'Exclusive%' AND NOT granted"

    async def waiting() -> bool:
        return bool(await (await db.execute(waits)).fetchall())

    await until(waiting, "an audit waits")


async def test_a_settle_after_another_run_took_over_is_refused(session, db):
    [row] = await insert_events(db)
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=10)
    await remember(db)
    outcomes = BatchOutcomes([row], ["5-5"], incarnation=RedisIncarnation("older", "old", ((STREAM, 0),)))
    with pytest.raises(IncarnationChanged):
        await settle(session, batch.claim_id, outcomes)
    assert await statuses(db) == {"picked": 1}
    outcomes.incarnation = RedisIncarnation("old", "old", ((STREAM, 0),))
    assert (await settle(session, batch.claim_id, outcomes)).sent == 1


@pytest.mark.promise("redis-loss")
async def test_an_audit_waits_for_a_settle_that_has_begun(session, db, database_url, audit, redis_connection, tap):
    """The settle's transaction is open; the audit that begins now must see its row as sent."""
    [row] = await insert_events(db)
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=10)
    await remember(db)
    await session.script("BEGIN")
    await settle(
        session,
        batch.claim_id,
        BatchOutcomes([row], ["5-5"], incarnation=RedisIncarnation("old", "old", ((STREAM, 0),))),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(audit.verify, redis_connection)
        await an_audit_waits(db)
        assert tap.all(Republished) == []
        await session.script("COMMIT")
    assert tap.all(Republished) == [Republished(1, "it is another incarnation")]
    assert await statuses(db) == {"pending": 1}


async def test_while_postgres_cannot_be_asked_nothing_is_published(
    dispatcher: StartDispatcher, own_valkey: StartValkey, db
):
    valkey = own_valkey()
    async with dispatcher(redis_url=valkey.url, query_timeout_ms=2000) as running, client(valkey) as redis:
        await insert_events(db, 5)
        await wait_sent(running.tap, 5)
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock(1869968482, 4)")
            await anyio.to_thread.run_sync(valkey.crash)
            await anyio.to_thread.run_sync(valkey.start)
            await an_audit_waits(db)
            assert await has(redis, 0)
        assert (await running.tap.next(Republished)).rows == 5
        await wait_sent(running.tap, 5)
        await all_once(db, redis)


async def test_what_was_known_before_is_no_floor_on_another_data_set(audit, redis_connection, redis):
    """Made a replica and a primary again on the same connection: its clock may be behind, and new entries with it."""
    await redis.xadd(STREAM, {"a": "b"}, id="900-0")
    redis_connection.known_entries.floor = "5000-0"
    await audit.verify(redis_connection)
    assert redis_connection.floor == "900-0"


@pytest.mark.promise("redis-loss")
async def test_what_is_published_and_settled_by_who_does_not_know_yet(
    audit, redis_connection, redis, db, tap, database_url
):
    """Between the question for the newest entry and the audit: it is in the stream, and must not be published again."""
    await remember(db)
    await insert_events(db)
    session = await connect(PostgresTarget(database_url, "another"), "lane")
    batch = await claim(session, claim_id=new_claim_id(), dispatcher=7, limit=9)
    real = audit._ask_server

    async def then_publish(asked: RedisConnection) -> Any:
        answer = await real(asked)
        if not tap.seen or not isinstance(tap.seen[-1], Settled):
            entry = str(await redis.xadd(STREAM, {"event_id": batch.rows[0].event_id}))
            outcomes = BatchOutcomes(
                sent_ids=[batch.rows[0].id],
                stream_ids=[entry],
                incarnation=RedisIncarnation("old", "old", ((STREAM, 0),)),
            )
            await settle(session, batch.claim_id, outcomes)
            tap(Settled(1, 0, 0, 0, 0, 0))
        return answer

    audit._ask_server = then_publish
    await audit.verify(redis_connection)
    assert [event.rows for event in tap.all(Republished)] == [0]
    assert await statuses(db) == {"sent": 1}
    await session.close()
