"""What the shards of a Cluster took of one batch is settled by one statement, and none of them waits for another."""

import os
import signal
from collections import Counter
from typing import Any

import psycopg
import pytest
from redis.crc import key_slot

from dispatcher.core.events import Reconciled, StatementRefused
from dispatcher.core.layout import Layout
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.client import open_client
from dispatcher.relay.stream import after_turn
from tests.support.cluster import ChangingCluster
from tests.support.rows import insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes, until

Db = psycopg.AsyncConnection[Any]
SHARDS = 64
ROWS = 240  # of one batch: of nearly every shard a few


class Statements:
    """Those that settle what was sent, as they are run. `before`: SQL to run before the next of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, db: Db) -> None:
        self.outcomes: list[str] = []  # SQLSTATE; "": done
        self.before = ""
        execute = Session._execute

        async def noted(session: Session, cursor: Any, sql: str, params: Any, *, prepare: bool) -> Any:
            if not sql.startswith("-- settle_sent"):
                return await execute(session, cursor, sql, params, prepare=prepare)
            at = len(self.outcomes)
            self.outcomes.append("")
            before, self.before = self.before, ""
            if before:
                await db.execute(before.encode())
            try:
                return await execute(session, cursor, sql, params, prepare=prepare)
            except psycopg.Error as error:
                self.outcomes[at] = error.sqlstate or "?"
                raise

        monkeypatch.setattr(Session, "_execute", noted)


async def entries(cluster: ChangingCluster, layout: Layout) -> Counter[str]:
    """How often each event is in the streams, by event_id."""
    client = open_client(cluster.url, 30.0)
    found: Counter[str] = Counter()
    for key in layout.keys:
        page: Any = await client.xrange(key)
        found.update(fields[b"event_id"].decode() for _, fields in page)
    await client.aclose()
    return found


async def all_open(db: Db) -> None:
    """Wait until events of all shards were taken."""
    await insert_events(db, ROWS)
    await becomes(lambda: statuses(db), {"sent": ROWS})


async def each_once(cluster: ChangingCluster, layout: Layout, db: Db) -> bool:
    return await entries(cluster, layout) == Counter(str(row["event_id"]) for row in await read_table(db))


async def test_one_statement_for_all_shards_of_a_batch(
    dispatcher: StartDispatcher, client_cluster: ChangingCluster, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout("together", SHARDS)
    statements = Statements(monkeypatch, db)
    for patience in ("SLOWEST_S", "TOGETHER_S"):  # milliseconds: on a slow machine a node takes longer
        monkeypatch.setattr(after_turn, patience, 30.0)
    async with dispatcher(redis_url=client_cluster.url, stream_name="together", stream_shards=SHARDS):
        await all_open(db)
        statements.outcomes.clear()
        await insert_events(db, ROWS)
        await becomes(lambda: statuses(db), {"sent": 2 * ROWS})
    assert await each_once(client_cluster, layout, db)
    # One. By itself each of the shards has one.
    assert len(statements.outcomes) <= SHARDS / 8, statements.outcomes


async def test_a_frozen_node_holds_up_the_settles_of_no_other(
    dispatcher: StartDispatcher, client_cluster: ChangingCluster, db: Db
) -> None:
    layout = Layout("frozen", SHARDS)
    victim = client_cluster.owner(key_slot(b"{0}"))
    there = {shard for shard in range(SHARDS) if client_cluster.owner(key_slot(f"{{{shard}}}".encode())) is victim}
    async with dispatcher(
        redis_url=client_cluster.url, stream_name="frozen", stream_shards=SHARDS, publish_timeout_ms=60_000
    ):
        await all_open(db)
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            await insert_events(db, ROWS)

            async def unsent_shards() -> set[int]:
                return {row["slot"] * SHARDS // 256 for row in await read_table(db) if row["status"] != "sent"}

            async def others_sent() -> bool:
                return await unsent_shards() <= there

            await until(others_sent, "only its shards wait")
            assert await unsent_shards()
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        await becomes(lambda: statuses(db), {"sent": 2 * ROWS})
    assert await each_once(client_cluster, layout, db)


async def test_what_one_shard_may_have_lost_is_searched_for_and_the_others_are_settled(
    dispatcher: StartDispatcher, client_cluster: ChangingCluster, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another dispatcher notes another incarnation for one of them, between the answer of Redis and the settle."""
    layout = Layout("moved", SHARDS)
    another = f"UPDATE messaging.stream_server SET run_id = repeat('a', 40) WHERE stream = '{layout.keys[0]}'"
    statements = Statements(monkeypatch, db)
    async with dispatcher(redis_url=client_cluster.url, stream_name="moved", stream_shards=SHARDS) as running:
        await all_open(db)
        statements.outcomes.clear()
        statements.before = another
        await insert_events(db, ROWS)
        await becomes(lambda: statuses(db), {"sent": 2 * ROWS})
        searched = running.tap.all(Reconciled)
    assert "DS001" in statements.outcomes
    assert statements.outcomes.count("") >= SHARDS / 2, "the others, each by itself"
    assert sum(each.found for each in searched) > 0
    assert sum(each.missing for each in searched) == 0
    assert await each_once(client_cluster, layout, db)


async def test_what_a_trigger_undoes_of_one_shard_is_kept_aside_and_the_others_are_settled(
    dispatcher: StartDispatcher, client_cluster: ChangingCluster, db: Db
) -> None:
    layout = Layout("undone", SHARDS)
    async with dispatcher(
        redis_url=client_cluster.url, stream_name="undone", stream_shards=SHARDS, tick_ms=50
    ) as running:
        await db.execute(
            "CREATE FUNCTION public.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.status = 'sent' AND NEW.aggregate_id = 'a1' THEN NEW.status := OLD.status; END IF; RETURN NEW;"
            " END $$;"
            "CREATE TRIGGER undo BEFORE UPDATE ON messaging.message_outbox FOR EACH ROW EXECUTE FUNCTION public.undo()"
        )
        await insert_events(db, ROWS)
        told = await running.tap.next(StatementRefused, lambda event: event.what == "settle")
        assert "undo, which runs undo()" in (told.error or "")
        await becomes(lambda: statuses(db), {"sent": ROWS - 1, "picked": 1})
        await db.execute("DROP TRIGGER undo ON messaging.message_outbox")
        await becomes(lambda: statuses(db), {"sent": ROWS})
    assert await each_once(client_cluster, layout, db)
