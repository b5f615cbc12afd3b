"""What the servers could do: the relay's claim and settle by pgbench without Redis, and XADD without Postgres.

Interleaved with the drain, so that its rate is also a share of what there is to have. pgbench runs the files in
sql/statements, on sessions with the dispatcher's settings; the claimed rows travel to it as to the dispatcher.
"""

import re
import socket
import subprocess
import sys
from itertools import islice
from random import Random
from statistics import median
from time import perf_counter
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import click
import hiredis
from psycopg.conninfo import make_conninfo

from bench.backlog import fill, work_off
from bench.charts import Chart
from bench.options import Where, common, rounds, rows
from bench.progress import Legs
from bench.report import Report, above, complete
from bench.servers import STREAM, Rig
from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.demo.payloads import COLUMNS, sample_events
from dispatcher.infra.postgres.target import PostgresTarget as Address
from dispatcher.infra.sqlfiles import load

BATCH, BURSTS = 512, 3  # the largest of the dispatcher: DISPATCH_BATCH_SIZE
SHARE = 0.75
CLIENTS = (1, 2, 3)
NAMES = {count: f"claim and settle, {count} session{'s' * (count > 1)}" for count in CLIENTS}
NOTE = (
    "Claim and settle: the same SQL by pgbench, no Redis, batches of 512. XADD: bursts of 512 packed beforehand, three "
    "under way. The drain's target is its share of one session: the relay claims with one session at a time."
)
ANSWER = """
    SELECT coalesce(array_agg(id), '{}') AS ids,
        array_fill('1700000000000-0'::text, ARRAY[count(*)::integer]) AS entries,
        coalesce(max(next_run_at), '-infinity') AS after_time, coalesce(max(id), 0) AS after_id,
        string_agg(concat_ws(' ', event_id, message_id, event_type, aggregate_type, aggregate_id, occurred_at, payload,
            headers, attempts, age), '') AS rows
    FROM claimed
    \\gset
"""
CLAIMED = (
    "id, next_run_at, event_id, message_id, event_type, aggregate_type, aggregate_id, occurred_at, payload, headers, "
    "attempts, age"
)


@click.command()
@rows(200_000)
@rounds(3)
@common
def ceiling(
    rows: int,
    rounds: int,
    where: Where,
) -> None:
    """The servers alone, by the same statements, and the drain's share of that."""
    legs_of_a_round = [*NAMES.values(), "XADD", "drain"]
    with where.rig() as servers, Legs(rounds * len(legs_of_a_round)) as legs:
        report = Report("ceiling", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        rates: dict[str, list[float]] = {name: [] for name in legs_of_a_round}
        lost = doubled = 0
        for turn in range(rounds):
            for name in legs_of_a_round if turn % 2 == 0 else legs_of_a_round[::-1]:
                legs.begin(name)
                if name == "drain":
                    found = work_off(servers, rows, legs)
                    rates[name].append(found.per_second)
                    lost, doubled = lost + found.lost, doubled + found.duplicated
                elif name == "XADD":
                    rates[name].append(_xadd(servers, rows))
                else:
                    clients = next(count for count, of in NAMES.items() if of == name)
                    rates[name].append(_claim_and_settle(servers, rows, clients, legs))
                legs.end(f"{name}: {rates[name][-1]:,.0f}/s")
        medians = {name: median(found) for name, found in rates.items()}
        report.rows = [
            {
                "alone": name,
                "median rows/s": f"{medians[name]:,.0f}",
                "lowest": f"{min(found):,.0f}",
                "highest": f"{max(found):,.0f}",
                "the drain's share": f"{medians['drain'] / medians[name]:.1%}",
            }
            for name, found in rates.items()
        ]
        report.raw = {"rates": rates, "shares": {name: medians["drain"] / medians[name] for name in medians}}
        share = medians["drain"] / medians[NAMES[1]]
        report.targets = [
            above("the drain's share of Postgres alone:", share, SHARE),
            complete("drains:", lost, doubled),
        ]
        bars: dict[str, Any] = {"rows/s": [(name.replace(", ", ",\n"), rate) for name, rate in medians.items()]}
        report.charts = [Chart("rate", "Servers alone, and the drain", "", "rows/s", bars, kind="bars")]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def script() -> str:
    """A pgbench script: a claim that keeps its cursor, and its settle."""
    claim = _plain(load("claim", split=True)).format(
        now="NULL",
        dispatcher="1",
        claim_id="md5(:token::text)::uuid",
        floor="'0-0'",
        mark="NULL",
        fresh_time=":after_time",
        fresh_id=":after_id::bigint",
        after_time="'-infinity'",
        after_id="0",
        fresh=str(BATCH),
        slots="256",
        limit=str(BATCH),
        most_bytes="1048576",
        layout="u.layout",
    )
    settle = _plain(load("settle_sent")).format(
        now="NULL",
        ids=":ids",
        stream_ids=":entries",
        claim_id="md5(:token::text)::uuid",
        run_id="NULL",
        stream="NULL",
        replid="NULL",
        life="NULL",
    )
    first = "\\set token random(1, 9000000000000000000)\n"
    return f"{first}WITH claimed ({CLAIMED}) AS ({claim}) {ANSWER.strip()}\n{settle};\n"


def _plain(statement: str) -> str:
    """A statement without comments, its parameters as {name}."""
    text = re.sub(r"--.*", "", statement).replace("{", "{{").replace("}", "}}").replace("%%", "%")
    return re.sub(r"%\((\w+)\)s", r"{\1}", text).strip()


def _claim_and_settle(servers: Rig, rows: int, clients: int, legs: Legs) -> float:
    """Rows a second by so many sessions."""
    servers.empty()
    fill(servers, rows, legs)
    file = servers.folder / "claim_and_settle.sql"
    file.write_text(script())
    address = Address(servers.database_url, "bench")
    settings = address.session_settings(server_version=140000).items()
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings)
    conninfo = make_conninfo(address.full_conninfo("ceiling"), options=options)
    each = -(-rows // (BATCH * clients))
    command = [str(servers.pgbench), "-n", "-M", "prepared", "-c", str(clients), "-j", str(clients), "-t", str(each)]
    command += ["-D", "after_time=-infinity", "-D", "after_id=0", "-f", str(file), conninfo]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^tps = ([\d.]+)", answer.stdout, re.MULTILINE)
    if answer.returncode or not found:
        raise DispatcherError(f"pgbench ended with exit code {answer.returncode}:\n{answer.stderr[-500:]}")
    if left := servers.backlog():
        raise DispatcherError(f"pgbench left {left:,} of {rows:,} rows unsettled: it did not do the relay's work")
    return rows / (each * clients / float(found[1]))


def _xadd(servers: Rig, rows: int) -> float:
    """Entries a second on one connection."""
    servers.empty()
    pack = cast("Any", hiredis.pack_command)
    bursts = [
        b"".join(
            pack(("XADD", STREAM, "MAXLEN", "~", "1000000", "*", *_fields(event)))
            for event in islice(sample_events(Random(number)), BATCH)
        )
        for number in range(16)
    ]
    wanted, sent, got = -(-rows // BATCH), 0, 0
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    with _connected(servers.redis_url) as connection:
        began = perf_counter()
        while got < wanted * BATCH:
            while sent < wanted and sent * BATCH - got < BURSTS * BATCH:
                connection.sendall(bursts[sent % len(bursts)])
                sent += 1
            reader.feed(connection.recv(1 << 18))
            while (reply := reader.gets()) is not Ellipsis:
                if isinstance(reply, hiredis.ReplyError):
                    raise DispatcherError(f"XADD was refused: {reply}")
                got += 1
        return got / (perf_counter() - began)


def _fields(event: list[bytes | None]) -> list[bytes]:
    fields = [item for pair in zip(COLUMNS, event, strict=True) if pair[1] for item in (pair[0].encode(), pair[1])]
    return [*fields, b"aggregate_type", b"message", b"occurred_at", b"2025-02-03T04:05:06.789012Z"]


def _connected(url: str) -> socket.socket:
    """A plain connection, logged in."""
    parts = urlsplit(url)
    if parts.scheme != "redis":
        raise Misconfigured("this scenario speaks to Redis without TLS: --redis-url must be a redis:// URL")
    connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    commands: list[tuple[str, ...]] = [("SELECT", parts.path.strip("/") or "0")]
    if parts.password:
        user = (unquote(parts.username),) if parts.username else ()
        commands.insert(0, ("AUTH", *user, unquote(parts.password)))
    for command in commands:
        connection.sendall(cast("Any", hiredis.pack_command)(command))
        if not connection.recv(1000).startswith(b"+OK"):
            raise Misconfigured(f"--redis-url: {command[0]} was refused")
    return connection
