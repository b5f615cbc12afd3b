"""`dispatcher demo --cluster`: six Valkey processes, one of three primaries is killed half-way, and a verdict.

Events of the shards that lay on it are late until its replica is promoted; those of the others are not.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import anyio
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry
from rich.table import Table

from dispatcher.client.group import shard_keys
from dispatcher.core.counted import counted
from dispatcher.core.layout import DEFAULT_STREAM
from dispatcher.demo.cleanup import ending_in_order, leave_stopping_to_parent, scratch_folder
from dispatcher.demo.histogram import Histogram
from dispatcher.demo.measure import MeasurementHooks, measure
from dispatcher.demo.messages import ConsumerProgress, Ended, Ready, Stop
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.demo.producer import Load, connections_for
from dispatcher.demo.report import Report, latencies, latency_rows
from dispatcher.demo.run import DATABASE, DemoPlan, count_rows, until_settled
from dispatcher.demo.screen import Screen
from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import judge, late
from dispatcher.embedded import EmbeddedCluster, EmbeddedPostgres, free_port
from dispatcher.embedded.cluster import ClusterNode as Node
from dispatcher.embedded.ports import HOST, require_free
from dispatcher.infra.postgres.migrations import migrate

SHARDS = 8
REPORT_EVERY_S = 0.1
BLOCK_MS = 500
AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class ClusterReader:
    """Ports of the nodes to begin with."""

    ports: Sequence[int]


class KeptTally(Tally):
    """Keeps the moments of each event: its shard is asked for at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: dict[bytes, tuple[int, int]] = {}  # commit, receipt

    def _match(self, event_id: bytes, committed: int, received: int) -> None:
        super()._match(event_id, committed, received)
        self.moments[event_id] = (committed, received)


def run_cluster(plan: DemoPlan, screen: Screen) -> Report:
    """Raises Misconfigured (a wheel, a port, a folder) or another DispatcherError; nothing is left running then."""
    port = plan.http_port or free_port()
    require_free(port, "--http-port")
    with ending_in_order() as stack:
        stack.callback(screen.close)
        folder = stack.enter_context(scratch_folder("dispatcher-demo-"))
        cluster, database_url = _start(stack, folder, screen)
        settings = connected(database_url, cluster.url, port) | {"DISPATCH_STREAM_SHARDS": str(SHARDS)}
        dispatcher = stack.enter_context(DispatcherProcess(settings, folder / "dispatcher.log"))
        dispatcher.wait_ready()
        screen.step(f"dispatcher ready (pid {dispatcher.pid}): http://127.0.0.1:{port}/ is its console")
        screen.step(f"sending {plan.rate:g} events/s for {plan.seconds:g} s into {SHARDS} shards on three primaries")
        tally, kill = KeptTally(), _Kill(cluster, plan.seconds / 2, screen)

        def progress(now: Tally, elapsed_s: float) -> None:
            kill.when_due(elapsed_s)
            screen.progress(now, elapsed_s)

        measure(
            Load(database_url, plan.rate, plan.seconds, connections_for(plan.rate)),
            ClusterReader([node.port for node in cluster.nodes]),
            MeasurementHooks(progress, dispatcher.check, until_settled(database_url)),
            read=consume_cluster,
            tally=tally,
        )
        sent, _ = count_rows(database_url)
        code = dispatcher.stop()
        return _report(tally, kill, sent, code, database_url, cluster)


def _start(stack: ExitStack, folder: Path, screen: Screen) -> tuple[EmbeddedCluster, str]:
    screen.step(
        "starting Postgres 18 and a Valkey 9 Cluster, three primaries with a replica each, in a temporary folder"
    )
    postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
    cluster = stack.enter_context(EmbeddedCluster(folder / "cluster"))
    database_url = postgres.url(DATABASE)
    anyio.run(migrate, database_url)
    return cluster, database_url


class _Kill:
    """Kills a primary once. Written by the measuring thread."""

    def __init__(self, cluster: EmbeddedCluster, at_s: float, screen: Screen) -> None:
        self._cluster, self._at_s, self._screen = cluster, at_s, screen
        self.at_ns = 0
        self.shards: tuple[int, ...] = ()

    def when_due(self, elapsed_s: float) -> None:
        """Kill it when its time has come."""
        if self.at_ns or elapsed_s < self._at_s:
            return
        victim, self.shards = busiest(self._cluster)
        self._screen.step(
            f"killing the primary at port {victim.port}, with the shards {', '.join(map(str, self.shards))}"
        )
        self.at_ns = time.perf_counter_ns()
        victim.crash()


def busiest(cluster: EmbeddedCluster) -> tuple[Node, tuple[int, ...]]:
    """The primary that serves most shards, and which these are."""
    owners = {shard: cluster.owner(key_slot(f"{{{shard}}}".encode())) for shard in range(SHARDS)}
    victim = max(owners.values(), key=list(owners.values()).count)
    return victim, tuple(shard for shard, owner in owners.items() if owner is victim)


def shards_by_event(database_url: str) -> dict[bytes, int]:
    """The shard, from 0 on, by event_id as it stands in an entry. Raises psycopg.Error."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute("SELECT event_id::text, slot FROM messaging.message_outbox").fetchall()
    return {event_id.encode(): slot * SHARDS // 256 for event_id, slot in rows}


def _report(
    tally: KeptTally, kill: _Kill, sent: int, exit_code: int, database_url: str, cluster: EmbeddedCluster
) -> Report:
    """From the kill on, latencies are apart: of the shards that lay on it, and of the others."""
    shard_of = shards_by_event(database_url)
    before, there, elsewhere = parts = Histogram(), Histogram(), Histogram()
    for event_id, (committed, received) in tally.moments.items():
        part = before
        if kill.at_ns and committed >= kill.at_ns:
            part = there if shard_of.get(event_id) in kill.shards else elsewhere
        part.record(max(0, received - committed))
    doubled = count_doubled([node.port for node in cluster.nodes if node.running])
    counts = {"committed": tally.committed, "sent": sent, "lost": tally.lost, "doubled": doubled}
    table = Table(title="A primary was killed half-way", title_justify="left")
    table.add_column("from commit to consumer", style="bold")
    for name in ("before", f"then, on it: {', '.join(map(str, kill.shards))}", "then, the others"):
        table.add_column(name, justify="right")
    table.add_row("events", *(f"{part.count:,}" for part in parts))
    for row in latency_rows(*parts):
        table.add_row(*row)
    table.add_section()
    for name, count in counts.items():
        table.add_row("rows marked sent" if name == "sent" else name, f"{count:,}")
    names = ("before", "killed", "others")
    figures = {name: {"events": part.count, **latencies(part)} for name, part in zip(names, parts, strict=True)}
    again = f"{counted(doubled, 'entry')} came into the streams a second time"
    verdict = judge(tally, sent, exit_code, (doubled > 0, again), late(elsewhere, " of the other shards"))
    return Report(table, {**counts, "killed_shards": list(kill.shards), **figures}, verdict)


def count_doubled(ports: Sequence[int]) -> int:
    """How many entries of the streams are a second copy of an event."""
    with _client(ports) as client:
        found = [
            fields[b"event_id"]
            for key in shard_keys(DEFAULT_STREAM, SHARDS)
            for _, fields in client.xrange(key)
            if fields
        ]
    return len(found) - len(set(found))


def _client(ports: Sequence[int]) -> RedisCluster:
    return RedisCluster(
        startup_nodes=[ClusterNode(HOST, port) for port in ports],  # type: ignore[no-untyped-call]
        require_full_coverage=False,
        retry=Retry(NoBackoff(), 3),
        socket_timeout=5,
        protocol=2,
    )


def consume_cluster(reader: ClusterReader, pipe: Connection) -> None:
    """The body of the consumer's process: read each shard on a thread of its own, and report what came first."""
    leave_stopping_to_parent()
    seen: set[bytes] = set()
    reads: list[tuple[int, list[bytes]]] = []  # not yet reported

    def note(event_id: bytes) -> None:
        if event_id not in seen:  # one that the failover lost comes again, and a consumer has to expect it
            seen.add(event_id)
            reads.append((time.perf_counter_ns(), [event_id]))

    served = _Served(reader.ports)
    for key in shard_keys(DEFAULT_STREAM, SHARDS):
        threading.Thread(target=_read_shard, args=(served, key, note), daemon=True).start()
    pipe.send(Ready())
    stopping = False
    try:
        while not stopping:
            stopping = pipe.poll(REPORT_EVERY_S) and isinstance(pipe.recv(), Stop)
            taken = len(reads)
            pipe.send(ConsumerProgress(reads[:taken]))
            del reads[:taken]
        pipe.send(Ended())
    except (OSError, EOFError):
        return  # the parent is gone


class _Served:
    """Which node serves a key, for all threads of the consumer.

    Each of them by itself would keep the processor from those that read other shards, while a node is away.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._lock = threading.Lock()
        self._cluster: RedisCluster | None = None
        self._asked = float("-inf")  # monotonic seconds

    def port_of(self, key: str) -> int:
        """The port of its node. Raises RedisError or OSError; AttributeError: no node serves it."""
        with self._lock:
            if time.monotonic() - self._asked > AGAIN_S:
                old, self._cluster, self._asked = self._cluster, None, time.monotonic()
                if old is not None:
                    old.close()
                self._cluster = _client(self._ports)
            if self._cluster is None:
                raise redis.ConnectionError("no node answered a moment ago")
            return int(self._cluster.get_node_from_key(key).port)  # type: ignore[no-untyped-call]


def _read_shard(served: _Served, key: str, note: Callable[[bytes], None]) -> None:
    """Read one shard for ever, from whichever node serves it."""
    last: bytes | str = "0-0"
    while True:
        try:
            port = served.port_of(key)
            with redis.Redis(host=HOST, port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
                while True:
                    for _, entries in client.xread({key: last}, block=BLOCK_MS):
                        for entry_id, fields in entries:
                            note(fields[b"event_id"])
                            last = entry_id
        except (redis.RedisError, OSError, AttributeError):  # the last: no node serves it
            time.sleep(AGAIN_S)
