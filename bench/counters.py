"""Counters that do not depend on the machine: statements, pages, rows, WAL for each event. `make test` gates them.

On a quiet Postgres of our own: no autovacuum, no full-page images. Pages are with those of the insert. The baseline is
`baseline.json`; after a change that is meant, `python -m bench counters --renew` writes it anew, and the diff says what
the change costs or saves.
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from bench.backlog import work_off
from bench.progress import Legs
from bench.report import Report, Target
from bench.servers import Rig, rig
from bench.statements import LOGGED, StatementLog, listed
from bench.steady import steady
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.process import DispatcherProcess

BASELINE = Path(__file__).parent / "baseline.json"
QUIET = LOGGED | {
    "autovacuum": "off",
    "full_page_writes": "off",
    "fsync": "off",
}
RELAY = {"claim", "read_row", "settle_sent", "settle_retry", "settle_dead", "release", "doze", "due_check"}
ROWS, SINGLES, INSERTS = 10_240, 40, 1000
RATE, RATE_S = 500.0, 3.0
# WAL records that carry one entry of an index each.
ENTRY = r"^(?:Btree/(?:INSERT_LEAF|INSERT_POST|SPLIT_L|SPLIT_R)|Hash/INSERT)\s+(\d+)"
NEVER = "60000"  # ms: no tick adds a due check
ASLEEP_WITHIN_S = 30.0  # far longer than it takes; or a statement with another name would be waited for without end
TABLE = "'messaging.message_outbox'::regclass"
PLACE = "SELECT pg_current_wal_insert_lsn()::text"
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
STATS = f"""
    SELECT n_tup_upd, n_tup_hot_upd, idx_blks_hit + idx_blks_read, heap_blks_hit + heap_blks_read
    FROM pg_stat_user_tables AS t JOIN pg_statio_user_tables AS io USING (relid) WHERE t.relid = {TABLE}
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """How far a counter may be from its baseline, as a share of it, on the bad side.

    `most`: no more than that, whatever the baseline says: a busy machine finds less.
    """

    slack: float
    more_is_better: bool = False
    most: float | None = None


GATES = {
    "backlog: statements an event": Gate(0.1),
    "backlog: rows updated an event": Gate(0.01),
    "backlog: share of claims that are heap-only": Gate(0.01, more_is_better=True),
    "backlog: index pages an event": Gate(0.15),
    "backlog: table pages an event": Gate(0.15),
    "backlog: WAL bytes an event": Gate(0.15),
    "backlog: index entries an event, its insert too": Gate(0.05),
    "backlog: Redis commands an event": Gate(0.02),
    "one by one: statements an event": Gate(0.15),
    # A claim every 1.3 ms at the most, and a settle for each row at the most.
    "500 a second: statements an event": Gate(0.15, most=2.7),
    "insert: WAL bytes an event": Gate(0.05),
    "insert: index entries an event": Gate(0.05),
    "idle: statements a second": Gate(0.15),
}


@click.command()
@click.option("--renew", is_flag=True, help="Write what was found to baseline.json instead of comparing.")
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "reports",
    help="Where the report goes.  [default: bench/reports]",
)
def counters(renew: bool, reports: Path) -> None:
    """Statements, rows, pages and WAL for each event against the committed baseline."""
    with Legs(4) as legs, quiet_rig() as servers:
        report = Report("counters", {"rows": ROWS, "one by one": SINGLES}, [], [])
        found, by_name = measure(servers, legs)
        if renew:
            BASELINE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
        report.rows = [
            {"counter": name, "found": f"{value:,.4g}", "baseline": f"{baseline[name]:,.4g}"}
            for name, value in found.items()
        ]
        report.notes = [f"{phase}, statements: {listed(names)}" for phase, names in by_name.items()]
        report.raw = {"counters": found, "statements": by_name}
        report.targets = compare(found, baseline)
        code = report.finish(servers, reports)
    sys.exit(code)


def quiet_rig() -> contextlib.AbstractContextManager[Rig]:
    """Servers of our own on which nothing else happens."""
    return rig(None, None, (), postgres_settings=QUIET)


def compare(found: Mapping[str, float], baseline: Mapping[str, float]) -> list[Target]:
    """A target for each counter."""
    targets = []
    for name, gate in GATES.items():
        was, value = baseline[name], found[name]
        if gate.more_is_better:
            limit, sign = was * (1 - gate.slack), "≥"
            met = value >= limit
        else:
            limit, sign = gate.most or was * (1 + gate.slack), "≤"
            met = value <= limit
        targets.append(Target(f"{name}: {value:,.4g}, wanted {sign} {limit:,.4g} (baseline {was:,.4g})", met))
    return targets


def measure(servers: Rig, legs: Legs) -> tuple[dict[str, float], dict[str, Counter[str]]]:
    """All counters by name, and the statements behind them by phase and name."""
    log = StatementLog(servers)
    inserted = _inserts(servers)
    backlog, by_backlog = _backlog(servers, log, legs)
    dispatcher = servers.start_dispatcher(DISPATCH_TICK_MS=NEVER)
    by_single = _one_by_one(servers, dispatcher, log, legs)
    by_rate = _at_a_rate(servers, dispatcher, log, legs)
    dispatcher.stop()
    per_second, by_idle = _idle(servers, log, legs)
    found = (
        inserted
        | backlog
        | {
            "one by one: statements an event": sum(by_single.values()) / SINGLES,
            "500 a second: statements an event": sum(by_rate.values()) / (RATE * RATE_S),
            "idle: statements a second": per_second,
        }
    )
    return {name: round(found[name], 4) for name in GATES}, {
        "backlog": by_backlog,
        "one by one": by_single,
        "500 a second": by_rate,
        "idle": by_idle,
    }


def _backlog(servers: Rig, log: StatementLog, legs: Legs) -> tuple[dict[str, float], Counter[str]]:
    legs.begin(f"{ROWS:,} rows")
    servers.script("SELECT pg_stat_reset()")
    with contextlib.closing(servers.redis()) as redis:
        redis.config_resetstat()
        log.forget()
        since = servers.value(PLACE)
        worked = work_off(servers, ROWS, legs, settings={"DISPATCH_TICK_MS": NEVER})
        entries = _entries(servers, since)
        commands = int(redis.info("commandstats")["cmdstat_xadd"]["calls"])
    if worked.lost or worked.duplicated:
        raise DispatcherError(f"{worked.lost} events were lost and {worked.duplicated} doubled: nothing to compare")
    statements = Counter({name: n for name, n in log.new().items() if name in RELAY})
    with servers.connect() as connection:
        row = connection.execute(STATS.encode()).fetchone()
    updated, heap_only, index_pages, table_pages = row if row else (0,) * 4
    legs.end(f"{statements.total()} statements for {ROWS:,} rows")
    return {
        "backlog: statements an event": statements.total() / ROWS,
        "backlog: rows updated an event": updated / ROWS,
        "backlog: share of claims that are heap-only": heap_only / ROWS,
        "backlog: index pages an event": index_pages / ROWS,
        "backlog: table pages an event": table_pages / ROWS,
        "backlog: WAL bytes an event": worked.wal_bytes_per_1000 / 1000,
        "backlog: index entries an event, its insert too": entries / ROWS,
        "backlog: Redis commands an event": commands / ROWS,
    }, statements


def _inserts(servers: Rig) -> dict[str, float]:
    """Each a transaction of its own, while no dispatcher runs."""
    with servers.connect() as connection:
        insert = b"INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('e', 'a', '{}')"
        connection.execute(insert)
        since, wal = servers.value(PLACE), servers.value(WAL)
        for _ in range(INSERTS):
            connection.execute(insert)
        wal = servers.value(WAL) - wal
    return {
        "insert: WAL bytes an event": float(wal) / INSERTS,
        "insert: index entries an event": _entries(servers, since) / INSERTS,
    }


def _entries(servers: Rig, since: str) -> int:
    """Entries that were written to indexes since a place in the WAL. Those of BRIN are of pages, and not counted."""
    servers.value("SELECT pg_switch_wal()::text")  # or the last records are not on disk yet
    command = [str(servers.pgbench.with_name("pg_waldump")), "--stats=record", "--start", since]
    command += ["--end", servers.value("SELECT pg_current_wal_flush_lsn()::text")]
    command += ["--path", f"{servers.value('SHOW data_directory')}/pg_wal"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(match[1]) for match in re.finditer(ENTRY, said, re.MULTILINE))


def _one_by_one(servers: Rig, dispatcher: DispatcherProcess, log: StatementLog, legs: Legs) -> Counter[str]:
    """Each event when the one before is settled and the dispatcher asleep again."""
    legs.begin("one event at a time")
    servers.empty()
    with servers.connect() as connection:
        _until_asleep(servers, dispatcher)
        log.forget()
        for number in range(SINGLES):
            connection.execute(
                "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('e', 'a', '{}')"
            )
            servers.wait_drained(dispatcher)
            _until_asleep(servers, dispatcher)
            legs.within(number / SINGLES)
    statements = Counter({name: n for name, n in log.new().items() if name in {*RELAY, "other"}})
    legs.end(f"{statements.total() / SINGLES:.1f} statements an event")
    return statements


def _at_a_rate(servers: Rig, dispatcher: DispatcherProcess, log: StatementLog, legs: Legs) -> Counter[str]:
    """Events that come so fast that the relay polls, and so slowly that each is claimed on its own."""
    legs.begin(f"{RATE:g} events/s")
    servers.empty()
    log.forget()
    measured = steady(servers, [dispatcher], RATE, RATE_S, 0.0, legs)
    statements = Counter({name: n for name, n in log.new().items() if name in {*RELAY, "other"}})
    if measured.tally.lost or measured.tally.duplicated:
        raise DispatcherError(f"{measured.tally.lost} events were lost and {measured.tally.duplicated} doubled")
    legs.end(f"{statements.total() / (RATE * RATE_S):.1f} statements an event")
    return statements


def _until_asleep(servers: Rig, dispatcher: DispatcherProcess) -> None:
    """Returns when the control session has checked, found nothing due, and waits for a ring."""
    asleep = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name LIKE 'dispatcher control %' AND state = 'idle'
        AND query ~ '^-- (doze|due_check):'
            AND clock_timestamp() - state_change > interval '20 ms'
    """
    ends = time.monotonic() + ASLEEP_WITHIN_S
    while not servers.value(asleep):
        dispatcher.check()
        if time.monotonic() > ends:
            raise DispatcherError(f"the dispatcher was not asleep within {ASLEEP_WITHIN_S:g} s")
        time.sleep(0.01)


def _idle(servers: Rig, log: StatementLog, legs: Legs, seconds: float = 5.0) -> tuple[float, Counter[str]]:
    legs.begin("doing nothing")
    servers.empty()
    dispatcher = servers.start_dispatcher()
    _until_asleep(servers, dispatcher)
    log.forget()
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        dispatcher.check()
        legs.within(elapsed / seconds)
        time.sleep(0.1)
    statements = log.new()
    dispatcher.stop()
    legs.end(f"{statements.total() / elapsed:.1f} statements a second")
    return statements.total() / elapsed, statements
