"""What the outbox costs the writers: durable inserts a second with no trigger, the doorbell, a plain NOTIFY.

A dispatcher runs in these legs. Two more run without one: the outbox as it is, and a plain table of the same columns
with a primary key only. Legs are interleaved and their order turns each round, so that a machine that slows down does
not favour one of them.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.charts import Chart
from bench.options import Where, common, rounds
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, Target
from bench.servers import Rig
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.process import DispatcherProcess
from dispatcher.infra import sqlfiles

Rates = dict[tuple[int, str], list[float]]  # by clients and leg

HERE = Path(__file__).parent
CLIENTS = (1, 8, 32, 64)
PROMISED_CLIENTS, KEPT = 32, 0.95  # share of the rate without a trigger that the doorbell must leave the writers
RELAYED = {"absent": "no trigger", "doorbell": "doorbell", "notify": "statement-level NOTIFY"}
UNRELAYED = {"alone": "doorbell, no dispatcher", "plain": "plain table, no dispatcher"}
NAMES = RELAYED | UNRELAYED
OF_PLAIN = {"alone": 0.8, "doorbell": 0.6}  # share of the plain table's rate that the writers must keep
OUTBOX, PLAIN = "messaging.message_outbox", "public.outbox_bench_plain"
# LIKE copies neither checks, triggers and indexes nor storage; what a trigger or an expression fills stays NULL here.
PLAIN_TABLE = f"""
    DROP TABLE IF EXISTS {PLAIN};
    CREATE TABLE {PLAIN} (LIKE {OUTBOX} INCLUDING DEFAULTS INCLUDING IDENTITY, PRIMARY KEY (id));
    ALTER TABLE {PLAIN} ALTER COLUMN settled DROP NOT NULL, ALTER COLUMN slot DROP NOT NULL
"""


@click.command()
@click.option(
    "--clients",
    type=click.IntRange(1, 150),
    multiple=True,
    default=CLIENTS,
    show_default=True,
    help="Concurrent writers. May be given several times.",
)
@click.option("--time", "seconds", type=click.IntRange(1, 600), default=5, show_default=True, help="Seconds a leg.")
@rounds(3)
@common
def writers(
    clients: tuple[int, ...],
    seconds: int,
    rounds: int,
    where: Where,
) -> None:
    """One insert a durable transaction from many writers: with and without the doorbell, and into a plain table."""
    with where.rig() as servers, Legs(len(clients) * rounds * len(NAMES)) as legs:
        report = Report("writers", {"clients": clients, "seconds a leg": seconds, "rounds": rounds}, [], [])
        rates: Rates = {(count, leg): [] for count in clients for leg in NAMES}
        raw: list[dict[str, Any]] = []
        servers.script(PLAIN_TABLE)
        for turn in range(rounds):
            for count in clients:
                dispatcher = servers.start_dispatcher()
                for leg in _in_turn(RELAYED, turn):
                    found = _leg(servers, dispatcher, leg, count, seconds, legs)
                    rates[count, leg].append(found["tps"])
                    raw.append({"round": turn + 1, "clients": count, "leg": leg, **found})
                dispatcher.stop()
                for leg in _in_turn(UNRELAYED, turn):
                    found = _leg(servers, None, leg, count, seconds, legs)
                    rates[count, leg].append(found["tps"])
                    raw.append({"round": turn + 1, "clients": count, "leg": leg, **found})
        servers.script(f"DROP TABLE {PLAIN}")
        report.raw = raw
        _judge(report, rates)
        _install(servers, "doorbell")
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _in_turn(legs: Iterable[str], turn: int) -> list[str]:
    order = list(legs)
    first = turn % len(order)
    return order[first:] + order[:first]


def _leg(
    servers: Rig, dispatcher: DispatcherProcess | None, leg: str, clients: int, seconds: int, legs: Legs
) -> dict[str, Any]:
    """One run of pgbench: its rate, and the rows the dispatcher had left when it ended."""
    legs.begin(f"{clients} clients, {NAMES[leg]}")
    _install(servers, leg)
    servers.empty()
    cpu = cpu_seconds(dispatcher.pid) if dispatcher else 0.0
    tps = _pgbench(servers, dispatcher, leg, clients, seconds, legs)
    if dispatcher is None:
        legs.end(f"{clients} clients, {NAMES[leg]}: {tps:,.0f} inserts/s")
        return {"tps": tps}
    left = servers.backlog()
    used = cpu_seconds(dispatcher.pid) - cpu
    servers.wait_drained(dispatcher)
    legs.end(f"{clients} clients, {NAMES[leg]}: {tps:,.0f} inserts/s, {left:,} rows not yet relayed at the end")
    return {"tps": tps, "left": left, "dispatcher_cpu_s": round(used, 2)}


def _pgbench(
    servers: Rig, dispatcher: DispatcherProcess | None, leg: str, clients: int, seconds: int, legs: Legs
) -> float:
    """Inserts a second."""
    statement = servers.folder / "insert.sql"  # a prepared statement takes no name of a table as a parameter
    text = (HERE / "sql" / "insert.sql").read_text(encoding="utf-8")
    statement.write_text(text.replace(OUTBOX, PLAIN) if leg == "plain" else text, encoding="utf-8")
    command = [str(servers.pgbench), "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds)]
    command += ["-f", str(statement), servers.database_url]
    output = servers.folder / "pgbench.log"
    with output.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            began = time.monotonic()
            while process.poll() is None:
                if dispatcher:
                    dispatcher.check()
                legs.within((time.monotonic() - began) / seconds)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return _rate(output.read_text(), process.returncode)


def _install(servers: Rig, leg: str) -> None:
    servers.script("DROP TRIGGER IF EXISTS bench_notify ON messaging.message_outbox")
    servers.script("DROP FUNCTION IF EXISTS messaging.bench_notify()")
    servers.script(sqlfiles.trigger_down())
    if leg in ("doorbell", *UNRELAYED):
        servers.script(sqlfiles.trigger())
    if leg == "plain":
        servers.script(f"TRUNCATE {PLAIN}")
    if leg == "notify":
        servers.script((HERE / "sql" / "statement_notify.sql").read_text())


def _rate(output: str, code: int) -> float:
    found = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    if code or not found:
        raise DispatcherError(f"pgbench ended with exit code {code}:\n{output[-500:]}")
    return float(found[1])


def _judge(report: Report, rates: Rates) -> None:
    medians = {key: median(found) for key, found in rates.items()}
    counts = sorted({count for count, _ in rates})
    report.rows = [
        {
            "clients": f"{count}",
            "trigger": NAMES[leg],
            "median inserts/s": f"{medians[count, leg]:,.0f}",
            "lowest": f"{min(rates[count, leg]):,.0f}",
            "highest": f"{max(rates[count, leg]):,.0f}",
            "of no trigger": "" if leg in UNRELAYED else f"{medians[count, leg] / medians[count, 'absent']:.1%}",
            "of the plain table": f"{medians[count, leg] / medians[count, 'plain']:.1%}",
        }
        for count in counts
        for leg in NAMES
    ]
    report.notes = [
        f"{count} clients, doorbell against no trigger, round by round: "
        + ", ".join(
            f"{rung / silent:.1%}"
            for rung, silent in zip(rates[count, "doorbell"], rates[count, "absent"], strict=True)
        )
        + "."
        for count in counts
    ]
    promised = PROMISED_CLIENTS if PROMISED_CLIENTS in counts else counts[-1]
    kept = medians[promised, "doorbell"] / medians[promised, "absent"]
    report.targets = [
        Target(f"the doorbell keeps {kept:.1%} of the rate of {promised} writers, wanted {KEPT:.0%}", kept >= KEPT)
    ]
    for leg, share in OF_PLAIN.items():
        kept = medians[promised, leg] / medians[promised, "plain"]
        how = "with a dispatcher" if leg in RELAYED else "without one"
        said = f"{promised} writers keep {kept:.1%} of a plain table's rate {how}, wanted {share:.0%}"
        report.targets.append(Target(said, kept >= share))
    bars: dict[str, Any] = {
        NAMES[leg]: [(f"{count} writers", medians[count, leg]) for count in counts] for leg in NAMES
    }
    report.charts = [Chart("rate", "Durable inserts, one a transaction", "", "inserts/s", bars, kind="bars")]
