"""What waking the dispatcher costs the writers: durable inserts a second with no trigger, the doorbell, a plain NOTIFY.

A dispatcher runs in every leg. Legs are interleaved and their order turns each round, so that a machine that slows
down does not favour one of them.
"""

import re
import subprocess
import sys
import time
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
NAMES = {"absent": "no trigger", "doorbell": "doorbell", "notify": "statement-level NOTIFY"}


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
    """One insert a durable transaction from many writers, with and without the doorbell."""
    with where.rig() as servers, Legs(len(clients) * rounds * len(NAMES)) as legs:
        report = Report("writers", {"clients": clients, "seconds a leg": seconds, "rounds": rounds}, [], [])
        dispatcher = servers.start_dispatcher()
        rates: Rates = {(count, leg): [] for count in clients for leg in NAMES}
        raw: list[dict[str, Any]] = []
        for turn in range(rounds):
            order = list(NAMES)
            for count in clients:
                for leg in order[turn % 3 :] + order[: turn % 3]:
                    found = _leg(servers, dispatcher, leg, count, seconds, legs)
                    rates[count, leg].append(found["tps"])
                    raw.append({"round": turn + 1, "clients": count, "leg": leg, **found})
        report.raw = raw
        _judge(report, rates)
        _install(servers, "doorbell")
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(
    servers: Rig, dispatcher: DispatcherProcess, leg: str, clients: int, seconds: int, legs: Legs
) -> dict[str, Any]:
    """One run of pgbench: its rate, and the rows the dispatcher had left when it ended."""
    legs.begin(f"{clients} clients, {NAMES[leg]}")
    _install(servers, leg)
    servers.empty()
    cpu = cpu_seconds(dispatcher.pid)
    command = [str(servers.pgbench), "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds)]
    command += ["-f", str(HERE / "sql" / "insert.sql"), servers.database_url]
    output = servers.folder / "pgbench.log"
    with output.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            began = time.monotonic()
            while process.poll() is None:
                dispatcher.check()
                legs.within((time.monotonic() - began) / seconds)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    tps = _rate(output.read_text(), process.returncode)
    left = servers.backlog()
    used = cpu_seconds(dispatcher.pid) - cpu
    servers.wait_drained(dispatcher)
    legs.end(f"{clients} clients, {NAMES[leg]}: {tps:,.0f} inserts/s, {left:,} rows not yet relayed at the end")
    return {"tps": tps, "left": left, "dispatcher_cpu_s": round(used, 2)}


def _install(servers: Rig, leg: str) -> None:
    servers.script("DROP TRIGGER IF EXISTS bench_notify ON messaging.message_outbox")
    servers.script("DROP FUNCTION IF EXISTS messaging.bench_notify()")
    servers.script(sqlfiles.trigger_down())
    if leg == "doorbell":
        servers.script(sqlfiles.trigger())
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
            "of no trigger": f"{medians[count, leg] / medians[count, 'absent']:.1%}",
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
    bars: dict[str, Any] = {
        NAMES[leg]: [(f"{count} writers", medians[count, leg]) for count in counts] for leg in NAMES
    }
    report.charts = [Chart("rate", "Durable inserts, one a transaction", "", "inserts/s", bars, kind="bars")]
