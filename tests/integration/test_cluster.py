"""Redis Cluster: the node that serves a key is found, whoever is down; what is no Cluster is told in plain words."""

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from typing import Any

import anyio
import psycopg
import pytest
from redis.crc import key_slot

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.core.events import Republished, Sampled, Settled, Ticked
from dispatcher.core.layout import Layout
from dispatcher.embedded.cluster import ClusterNode, wait_until
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.cluster import ClusterTarget, Topology, read_topology
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.ops.doctor.cluster import look_at_all
from dispatcher.upkeep.gauges import sample_once
from tests.support.child import StartCli
from tests.support.command import HearCommand, RunCommand
from tests.support.proof import is_proven
from tests.support.redis import FAILS_OVER, StartCluster, StartSentinels, StartValkey
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.tls import Certificate, behind_tls
from tests.support.waiting import becomes, caught_up, until

PASSWORD = "s3cr3t-Wort"
SLOT = key_slot(STREAM.encode())


def connection(url: str, timeout_s: float = 30.0) -> RedisConnection:
    target = RedisTarget.parse(url)
    return RedisConnection(
        target, name="test", streams=(STREAM,), connect_timeout_s=timeout_s, on_lost=lambda why: None
    )


async def refusal(url: str, kind: type[DispatcherError] = Misconfigured) -> str:
    with pytest.raises(kind) as caught:
        await connection(url).connect()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def leads_to(url: str, node: ClusterNode, timeout_s: float = 30.0) -> bool:
    """Whether a new connection leads to this node, and takes an entry there."""
    made = connection(url, timeout_s)
    await made.connect()
    info, added = await made.send([("INFO", "server"), ("XADD", STREAM, "*", "a", "b")], 30.0)
    made.close()
    assert isinstance(added, bytes), added
    return int(info.partition(b"tcp_port:")[2].split()[0]) == node.port


async def test_the_node_of_the_key_is_found(own_cluster: StartCluster) -> None:
    cluster = await anyio.to_thread.run_sync(
        lambda: own_cluster(options={"requirepass": PASSWORD, "masterauth": PASSWORD})
    )
    owner = cluster.owner(SLOT)
    assert await leads_to(cluster.url, owner)
    held = connection(cluster.url)
    await held.connect()
    client = open_client(cluster.url, 30.0)
    assert await client.xlen(STREAM) == 1
    other = next(node for node in cluster.nodes[:3] if node is not owner)
    os.kill(other.pid, signal.SIGSTOP)  # one that says nothing holds up nobody
    with anyio.fail_after(50):
        assert await leads_to(cluster.url, owner, timeout_s=120)
    os.kill(other.pid, signal.SIGCONT)
    await anyio.to_thread.run_sync(cluster.wait_formed)

    joined = await anyio.to_thread.run_sync(cluster.add_primary)
    assert not await held.leads_elsewhere()
    await anyio.to_thread.run_sync(cluster.move_slot, SLOT, joined)
    assert await held.leads_elsewhere()
    assert await leads_to(cluster.url, joined)
    assert await client.xlen(STREAM) == 3
    await client.aclose()
    held.close()


@pytest.mark.parametrize("endpoint", ["hostname", "unknown-endpoint"])
async def test_nodes_that_tell_no_address_of_the_wanted_kind(own_cluster: StartCluster, endpoint: str) -> None:
    """A node without cluster-announce-hostname is told as "?", a name that nobody knows: no connection, for ever."""
    cluster = own_cluster(primaries=3, replicas=0)
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", endpoint)
    assert await leads_to(cluster.url, cluster.owner(SLOT))


async def test_who_asks_for_the_topology_at_the_same_time_shares_the_answer(own_cluster: StartCluster) -> None:
    """As the shards of a node do that went away: each of them by itself would ask every node."""
    cluster = await anyio.to_thread.run_sync(
        lambda: own_cluster(replicas=0, options={"requirepass": PASSWORD, "masterauth": PASSWORD})
    )
    target, refused = (
        RedisTarget.parse(url).cluster for url in (cluster.url, f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}")
    )
    assert target is not None
    assert refused is not None
    for node in cluster.nodes:
        node.ask("CONFIG", "RESETSTAT")
    found: list[Topology] = []
    errors: list[Misconfigured] = []

    async def ask(whom: ClusterTarget) -> None:
        try:
            found.append(await read_topology(whom, 30.0))
        except Misconfigured as error:
            errors.append(error)

    first = asyncio.create_task(ask(target))
    await caught_up()
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask, target)
            tasks.start_soon(ask, refused)
        await caught_up()
        first.cancel()  # the others ask anew
    assert (len(found), len(set(found)), found[0].uncovered) == (8, 1, 0)
    assert len({str(error) for error in errors}) == 1
    assert len(errors) == 8
    for node in cluster.nodes:
        stats = str(node.ask("INFO", "commandstats"))
        assert int(stats.partition("cmdstat_cluster|slots:calls=")[2].partition(",")[0] or 0) <= 2, stats


async def test_a_replica_was_promoted(own_cluster: StartCluster) -> None:
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(options=FAILS_OVER))
    old = cluster.owner(SLOT)
    old.crash()

    def promoted() -> None:
        wait_until(lambda: cluster.owner(SLOT) is not old, "a replica is promoted", within_s=90)

    await anyio.to_thread.run_sync(promoted)
    assert await leads_to(cluster.url, cluster.owner(SLOT))


async def test_what_a_person_has_to_mend(own_cluster: StartCluster, own_valkey: StartValkey) -> None:
    cluster = await anyio.to_thread.run_sync(
        lambda: own_cluster(options={"requirepass": PASSWORD, "masterauth": PASSWORD})
    )
    server = own_valkey()
    said = await refusal(f"redis+cluster://127.0.0.1:{server.port}")
    assert (
        said
        == f"Redis at 127.0.0.1:{server.port} has no cluster mode: write redis:// in REDIS_URL for redis+cluster://"
    )
    node = cluster.nodes[0]
    said = await refusal(f"redis://:{PASSWORD}@127.0.0.1:{node.port}/0")
    assert said.endswith("is a node of a Redis Cluster: write redis+cluster:// in REDIS_URL for redis://")
    assert "refused us: check the user" in await refusal(f"redis+cluster://:wrong@127.0.0.1:{node.port}")
    assert "refused us: check the user" in await refusal(f"redis+cluster://127.0.0.1:{node.port}")
    server.crash()
    said = await refusal(f"redis+cluster://127.0.0.1:{server.port}", Unreachable)
    assert said.startswith(f"none of the nodes at 127.0.0.1:{server.port} answers")


@pytest.mark.parametrize("shards", ["1", "8"])
async def test_the_wrong_kind_of_redis_is_one_clear_line_and_exit_code_2(
    shards: str,
    own_cluster: StartCluster,
    own_valkey: StartValkey,
    own_sentinels: StartSentinels,
    cli: StartCli,
    command: RunCommand,
    database_url: str,
) -> None:
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    watched = await anyio.to_thread.run_sync(lambda: own_sentinels(sentinels=1, quorum=1))
    server, sentinel = own_valkey(), watched.sentinels[0]
    wrong = {
        f"redis+cluster://127.0.0.1:{server.port}": "has no cluster mode: write redis:// in REDIS_URL",
        f"redis://127.0.0.1:{cluster.nodes[0].port}/0": "is a node of a Redis Cluster: write redis+cluster://",
        f"redis+sentinel://127.0.0.1:{sentinel.port}/payments": "know no service 'payments'",
        f"redis://127.0.0.1:{sentinel.port}/0": "is a sentinel: write redis+sentinel://",
    }
    for url, said in wrong.items():
        env = {"DATABASE_URL": database_url, "REDIS_URL": url, "DISPATCH_STREAM_SHARDS": shards}
        child = await cli("run", "--enabled", "--disable-http", env=env)
        assert await child.wait() == 2, child.output
        [line] = [line for line in child.lines if not line.startswith("{")]
        assert line.startswith("dispatcher: ")
        assert said in line
        for name in ("layout", "status", "groups"):
            code, told = await command(name, REDIS_URL=url, DISPATCH_STREAM_SHARDS=shards)
            assert (code, said in told) == (2, True), told
            if name != "status":  # which goes on to say what Postgres knows
                assert len(told.splitlines()) == 1


@pytest.mark.promise("layout")
async def test_the_outbox_moves_from_one_server_to_a_cluster(
    own_cluster: StartCluster, dispatcher: StartDispatcher, db: Any, redis_url: str, heard: HearCommand
) -> None:
    """As the page says: new dispatchers wait with the new URL, and the layout is set from where the old keys are."""
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    async with (
        dispatcher(tick_ms=20) as before,
        dispatcher(tick_ms=20, redis_url=cluster.url, stream_shards=8) as after,
    ):
        await insert_events(db, 100)
        await before.tap.add_up(Settled, sent=100)
        code, out, err = await heard("layout", "set", "--stream-shards", "8", "--yes", "--json", REDIS_URL=redis_url)
        assert (code, json.loads(out)["former"][STREAM]["length"]) == (0, 100), err
        await insert_events(db, 100)
        await after.tap.add_up(Settled, sent=100)
        assert after.tap.all(Republished) == []
    client = open_client(cluster.url, 30.0)
    pages: list[Any] = [await client.xrange(key) for key in Layout(STREAM, 8).keys]
    entries = [entry for page in pages for entry in page]
    await client.aclose()
    rows = await read_table(db)
    assert len(entries) == 100
    assert {fields[b"event_id"].decode() for _, fields in entries} == {str(row["event_id"]) for row in rows[100:]}
    assert {row["status"] for row in rows} == {"sent"}


async def test_doctor_says_what_a_cluster_lacks(own_cluster: StartCluster) -> None:
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(options=FAILS_OVER))
    keys = Layout(STREAM, 8).keys

    async def look(streams: tuple[str, ...]) -> dict[str, str]:
        findings, facts = await look_at_all(cluster.url, streams, 30.0, full_share=0.9, in_order=False)
        assert facts.keys() == set(streams)
        return {each.check: each.level for each in findings}

    checks = ("cluster-slots", "cluster-replicas", "cluster-coverage", "cluster-spread")

    async def levels_of(streams: tuple[str, ...]) -> list[str]:
        found = await look(streams)
        return [found[check] for check in checks]

    # A node tells others that it is a replica within half of the timeout of nodes.
    await becomes(lambda: levels_of(keys), ["ok", "ok", "ok", "ok"])
    strict = cluster.nodes[-1]  # a replica: once it is promoted its setting counts
    strict.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    findings, _ = await look_at_all(cluster.url, keys, 30.0, full_share=0.9, in_order=False)
    [said] = [each.found for each in findings if each.check == "cluster-coverage"]
    assert f"is yes on 127.0.0.1:{strict.port}: " in said
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    assert await levels_of(keys[:1]) == ["ok", "ok", "warning", "warning"]
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    for node in cluster.nodes:  # each forgets it: what most nodes say counts
        node.ask("CLUSTER", "DELSLOTS", "1")
    findings, _ = await look_at_all(cluster.url, keys, 30.0, full_share=0.9, in_order=False)
    assert any(each.check == "cluster-slots" and each.level == "bad" for each in findings)


async def test_doctor_names_no_remedy_of_a_single_server_for_a_node(own_cluster: StartCluster) -> None:
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    findings, _ = await look_at_all(cluster.url, Layout(STREAM, 8).keys, 30.0, full_share=0.9, in_order=False)
    remedies = {each.remedy for each in findings if each.check in ("cluster-replicas", "redis-replicas")}
    assert remedies == {"CLUSTER REPLICATE on a new node, for each of them", "see cluster-replicas"}


async def test_a_node_that_is_away_takes_nothing_from_what_is_shown(
    own_cluster: StartCluster, command: RunCommand, database_url: str
) -> None:
    cluster = await anyio.to_thread.run_sync(own_cluster)
    keys = Layout(STREAM, 8).keys
    client = open_client(cluster.url, 30.0)
    for key in keys:
        await client.xadd(key, {"a": "b"})
        await client.xgroup_create(key, "readers", "0")
    await client.aclose()
    owners = {key: cluster.owner(key_slot(key.encode())) for key in keys}
    victim = owners[keys[0]]
    there = [key for key in keys if owners[key] is victim]
    replica = cluster.nodes[cluster.nodes.index(victim) + cluster.primaries]
    for node in (victim, replica):  # or it is promoted
        os.kill(node.pid, signal.SIGSTOP)
    try:
        client = open_client(cluster.url, 0.5)
        samples: list[Sampled] = []
        living = [key for key in keys if key not in there]
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as db:

            async def fetch(statement: Any, parameters: Any = None) -> list[Any]:
                return await (await db.execute(statement, parameters)).fetchall()

            async def shown() -> list[str]:
                samples.clear()
                await sample_once(fetch, client, keys, samples.append)  # type: ignore[arg-type]
                return [each.name for each in samples[0].streams]

            await becomes(shown, living, "what is shown")  # a slow machine takes longer than the patience of one look
        await client.aclose()
        [sampled] = samples
        assert {each.group_lag["readers"] for each in sampled.streams} == {1}
        assert sampled.stream_length is None  # the sum of some would look like all
        assert sampled.redis_error is not None

        env = {"REDIS_URL": cluster.url, "DISPATCH_STREAM_SHARDS": "8", "DISPATCH_CONNECT_TIMEOUT_MS": "500"}

        async def status() -> tuple[int, bool, bool]:
            code, said = await command("status", **env)
            return code, f"{STREAM}, {len(living)} of 8 shards" in said, f"for {there[0]}" in said

        async def groups() -> tuple[int, int]:
            code, said = await command("groups", **env)
            return code, said.count(": 1 entry")

        await becomes(status, (1, True, True), "status")
        await becomes(groups, (1, len(living)), "groups")
    finally:
        for node in (victim, replica):
            os.kill(node.pid, signal.SIGCONT)


async def test_the_first_layout_is_set_before_any_shard_is_noted(
    own_cluster: StartCluster,
    dispatcher: StartDispatcher,
    db: psycopg.AsyncConnection[Any],
    database_url: str,
) -> None:
    """Else it would look as if another layout had published, and a first start with shards would publish nothing."""
    cluster = await anyio.to_thread.run_sync(own_cluster)
    async with await psycopg.AsyncConnection.connect(database_url) as slow:
        await slow.execute("LOCK TABLE messaging.pause")  # the layout is read together with the pause
        async with dispatcher(redis_url=cluster.url, stream_shards=8, tick_ms=10) as running:
            await until(lambda: len(running.tap.all(Ticked)) > 50, "lanes stand by")
            noted = await db.execute("SELECT FROM messaging.stream_server")
            assert noted.rowcount == 0
            await slow.rollback()
            await insert_events(db, 20)
            await becomes(lambda: statuses(db), {"sent": 20})


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("order", ["none", "aggregate"])
async def test_a_node_that_says_nothing_holds_up_its_own_shards_alone(
    own_cluster: StartCluster, dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], order: str
) -> None:
    """Its event waits for longer than the test does. One of another shard goes out meanwhile, and so does the next."""
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    layout = Layout(STREAM, 8)
    owners = [cluster.owner(key_slot(key.encode())) for key in layout.keys]
    slots = await db.execute("SELECT n::text, hashtextextended(n::text, 0) & 255 FROM generate_series(1, 64) AS n")
    owner_of = {name: owners[layout.shard_of(slot)] for name, slot in await slots.fetchall()}
    there = next(name for name, owner in owner_of.items() if owner is owners[0])
    elsewhere = next(name for name, owner in owner_of.items() if owner is not owners[0])
    settings = {"stream_shards": 8, "order": order, "publish_timeout_ms": 120_000, "lease_ms": 300_000}
    async with dispatcher(redis_url=cluster.url, **settings):
        for name in (there, elsewhere):
            await insert_events(db, aggregate_id=name)
        await becomes(lambda: statuses(db), {"sent": 2})
        os.kill(owners[0].pid, signal.SIGSTOP)
        try:
            await insert_events(db, aggregate_id=there)
            await becomes(lambda: statuses(db), {"sent": 2, "picked": 1})
            for sent in (3, 4):
                await insert_events(db, aggregate_id=elsewhere)
                await becomes(lambda: statuses(db), {"sent": sent, "picked": 1})
        finally:
            os.kill(owners[0].pid, signal.SIGCONT)
        await becomes(lambda: statuses(db), {"sent": 5})


@pytest.mark.promise("redis-outage")
@pytest.mark.parametrize("when", ["before the other is answered", "after it is settled"])
async def test_a_node_that_says_nothing_does_not_hold_up_one_whose_connection_was_cut(
    own_cluster: StartCluster, dispatcher: StartDispatcher, db: psycopg.AsyncConnection[Any], when: str
) -> None:
    """Both had events of one batch. In order the slots of the second wait until it is known what became of those."""
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    layout = Layout(STREAM, 8)
    owners = [cluster.owner(key_slot(key.encode())) for key in layout.keys]
    slots = await db.execute("SELECT n::text, hashtextextended(n::text, 0) & 255 FROM generate_series(1, 64) AS n")
    owner_of = {name: owners[layout.shard_of(slot)] for name, slot in await slots.fetchall()}
    silent, cut = [node for node in cluster.nodes if node in owners][:2]
    there, elsewhere = (next(name for name, owner in owner_of.items() if owner is node) for node in (silent, cut))
    settings = {"stream_shards": 8, "order": "aggregate", "publish_timeout_ms": 120_000, "lease_ms": 300_000}
    async with dispatcher(redis_url=cluster.url, **settings):
        async with db.transaction():
            for name in (there, elsewhere):
                await insert_events(db, aggregate_id=name)
        await becomes(lambda: statuses(db), {"sent": 2})
        stopped = [silent] if when == "after it is settled" else [silent, cut]
        for node in stopped:
            os.kill(node.pid, signal.SIGSTOP)
        try:
            async with db.transaction():
                for name in (there, elsewhere):
                    await insert_events(db, aggregate_id=name)
            if when == "after it is settled":
                await becomes(lambda: statuses(db), {"sent": 3, "picked": 1})
            else:
                await becomes(lambda: statuses(db), {"sent": 2, "picked": 2})
                os.kill(cut.pid, signal.SIGCONT)
            cut.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await becomes(lambda: statuses(db), {"sent": 3, "picked": 1})
            for sent in (4, 5):
                await insert_events(db, aggregate_id=elsewhere)
                await becomes(lambda: statuses(db), {"sent": sent, "picked": 1})
        finally:
            for node in stopped:
                os.kill(node.pid, signal.SIGCONT)
        await becomes(lambda: statuses(db), {"sent": 6})


async def test_prove_on_a_cluster(own_cluster: StartCluster, heard: HearCommand) -> None:
    cluster = await anyio.to_thread.run_sync(own_cluster)
    env = {"REDIS_URL": cluster.url, "DISPATCH_STREAM_SHARDS": "8"}
    code, out, err = await heard("prove", "--seconds", "2", "--json", **env)
    report = json.loads(out)
    assert is_proven(code, report["reasons"]), (report, err)
    assert report["left_behind"] == []


async def test_tls_to_each_node(own_cluster: StartCluster, certificate: Certificate) -> None:
    cluster = await anyio.to_thread.run_sync(lambda: own_cluster(replicas=0))
    keys = Layout(STREAM, 8).keys
    async with AsyncExitStack() as stack:
        ports = []
        for node in cluster.nodes:
            ports.append(await stack.enter_async_context(behind_tls(f"redis://127.0.0.1:{node.port}", certificate)))
            node.ask("CONFIG", "SET", "cluster-announce-port", str(ports[-1]))

        def announced() -> bool:
            said = [node.ask("CLUSTER", "SLOTS") for node in cluster.nodes]
            return all({each[2][1] for each in slots} == set(ports) for slots in said if isinstance(slots, list))

        await anyio.to_thread.run_sync(lambda: wait_until(announced, "all name the ports of TLS"))
        url = f"rediss+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}?ssl_ca_certs={certificate.authority}"
        for key in keys:
            made = RedisConnection(
                RedisTarget.parse(url), name="test", streams=(key,), connect_timeout_s=30.0, on_lost=lambda why: None
            )
            await made.connect()
            [added] = await made.send([("XADD", key, "*", "a", "b")], 30.0)
            made.close()
            assert isinstance(added, bytes), added
        client = open_client(url, 30.0)
        assert [await client.xlen(key) for key in keys] == [1] * 8
        await client.aclose()
        assert "TLS failed" in await refusal(f"rediss+cluster://127.0.0.1:{ports[0]}")
