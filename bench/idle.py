"""What a dispatcher costs when there is nothing to do: processor time, statements, memory."""

import sys
import time
from collections import Counter

import click

from bench.options import Where, common
from bench.processes import cpu_seconds, memory_bytes
from bench.progress import Legs
from bench.report import Report, below
from bench.servers import Rig
from bench.statements import LOGGED, StatementLog, listed

CPU_PERCENT, STATEMENTS_A_SECOND = 1.0, 15.0  # ten a second look for rows; of the samples, twelve every 5 s
SETTLING_S = 3.0
COMMITS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
NOTE = (
    "Statements: as logged by a Postgres of our own; of a deployment the transactions in the database, of which each "
    "statement of the dispatcher is one, autovacuum's and everybody's among them."
)


@click.command()
@click.option("--seconds", type=click.FloatRange(5, 3_600), default=30.0, show_default=True, help="Watched.")
@common
def idle(
    seconds: float,
    where: Where,
) -> None:
    """Processor time, statements and memory with nothing to do."""
    with where.rig(postgres_settings=LOGGED) as servers, Legs(1) as legs:
        report = Report("idle", {"seconds": seconds}, [], [], notes=[NOTE])
        log = StatementLog(servers) if where.database_url is None else None
        dispatcher = servers.start_dispatcher()
        legs.begin("doing nothing")
        time.sleep(SETTLING_S)
        began, cpu, commits = time.monotonic(), cpu_seconds(dispatcher.pid), _commits(servers)
        if log is not None:
            log.forget()
        while (elapsed := time.monotonic() - began) < seconds:
            dispatcher.check()
            legs.within(elapsed / seconds)
            time.sleep(0.2)
        share = (cpu_seconds(dispatcher.pid) - cpu) / elapsed * 100
        by_name = log.new() if log is not None else Counter({"all": _commits(servers) - commits})
        statements = by_name.total() / elapsed
        memory = memory_bytes(dispatcher.pid) / 1e6
        legs.end(f"{share:.2f} % of a core, {statements:.1f} statements/s")
        report.rows = [
            {"CPU, % of a core": f"{share:.2f}", "statements/s": f"{statements:.1f}", "memory MB": f"{memory:.0f}"}
        ]
        report.raw = {
            "cpu_percent": share,
            "statements_per_second": statements,
            "memory_mb": memory,
            "statements": by_name,
        }
        report.notes = [NOTE, f"Statements by what runs them: {listed(by_name)}."]
        report.targets = [
            below("processor time", share, CPU_PERCENT, " %"),
            below("statements a second", statements, STATEMENTS_A_SECOND),
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _commits(servers: Rig) -> int:
    with servers.connect() as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        row = connection.execute(COMMITS.encode()).fetchone()
    return int(row[0]) if row else 0
