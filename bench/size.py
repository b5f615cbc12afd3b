"""What is left of so many events: WAL written, size of the table and of each index, and what vacuum takes.

Events are inserted, claimed and settled in turn, by the dispatcher's own statements on a session like its own, while no
dispatcher runs. Autovacuum is off and no full-page images are written, so that bytes do not depend on the machine.
"""

import asyncio
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import click

from bench.backlog import fill
from bench.options import Where, backlogs, common
from bench.progress import Legs
from bench.report import Report
from bench.servers import POSTGRES_SETTINGS, Rig
from dispatcher.core.outcome import BatchOutcomes, Sent
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget as Address
from dispatcher.stages.claim import FROM_THE_START, claim, last_index_key, new_claim_id
from dispatcher.stages.settle import settle

BATCH, TURN = 512, 50_000  # rows: of a claim; inserted before they are claimed
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
TABLE = "'messaging.message_outbox'::regclass"
INDEXES = f"SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index WHERE indrelid = {TABLE}"
NOTE = (
    "WAL: bytes an event, without full-page images. Claim and settle by batches of 512, by the dispatcher's own "
    "statements. Indexes: before VACUUM, which ran once at the end, without autovacuum before; its time is of the "
    "wall, its processor time that of all of Postgres meanwhile. MB: 10⁶ bytes."
)


class Left(NamedTuple):
    """What is left of `rows` events. Bytes; `wal`: of all events so far, by what wrote it."""

    rows: int
    wal: dict[str, float]
    table: int
    indexes: dict[str, int]
    vacuum_s: float
    vacuum_cpu_s: float
    vacuum_wal: float


@click.command()
@backlogs(1_000_000)
@common
def size(rows: tuple[int, ...], where: Where) -> None:
    """WAL, index sizes and vacuum time after a million events; ten with --rows 1000000 --rows 10000000."""
    sizes = sorted(rows)
    settings = POSTGRES_SETTINGS | {"autovacuum": "off", "full_page_writes": "off"}
    with where.rig(postgres_settings=settings) as servers, Legs(len(sizes)) as legs:
        report = Report("size", {"rows": sizes}, [], [])
        servers.empty()
        found = asyncio.run(_grow(servers, sizes, legs))
        report.rows = [_row(each) for each in found]
        report.notes = [NOTE] + [
            f"Indexes after {each.rows:,} events, MB: "
            + ", ".join(f"{name.rpartition('.')[2]} {taken / 1e6:.1f}" for name, taken in each.indexes.items())
            + "."
            for each in found
        ]
        report.raw = [each._asdict() for each in found]
        code = report.finish(servers, where.reports)
    sys.exit(code)


async def _grow(servers: Rig, sizes: Sequence[int], legs: Legs) -> list[Left]:
    session = await connect(Address(servers.database_url, "bench"), "bench")
    wal, there, found = {"insert": 0.0, "claim": 0.0, "settle": 0.0}, 0, list[Left]()
    for rows in sizes:
        legs.begin(f"{rows:,} events")
        while there < rows:
            turn = min(TURN, rows - there)
            before = float(servers.value(WAL))
            fill(servers, turn)
            wal["insert"] += float(servers.value(WAL)) - before
            await _work_off(session, wal)
            there += turn
            legs.within(there / rows)
        found.append(_left(servers, rows, dict(wal)))
        legs.end(f"{rows:,} events: {sum(wal.values()) / rows:,.0f} bytes of WAL each")
    await session.close()
    return found


async def _work_off(session: Any, wal: dict[str, float]) -> None:
    """Claim and settle all there is."""
    after = FROM_THE_START
    [(at,)] = await session.fetch(WAL)
    while True:
        batch = await claim(session, claim_id=new_claim_id(), dispatcher=None, limit=BATCH, after=after)
        [(claimed,)] = await session.fetch(WAL)
        wal["claim"] += float(claimed - at)
        if not batch.rows:
            return
        outcomes = BatchOutcomes()
        for row in batch.rows:
            outcomes.add(row.id, Sent("1790000000000-0"))
        await settle(session, batch.claim_id, outcomes)
        [(at,)] = await session.fetch(WAL)
        wal["settle"] += float(at - claimed)
        after = last_index_key(batch)


def _left(servers: Rig, rows: int, wal: dict[str, float]) -> Left:
    with servers.connect() as connection:
        indexes = {str(name): int(taken) for name, taken in connection.execute(INDEXES.encode()).fetchall()}
    table = int(servers.value(f"SELECT pg_table_size({TABLE})"))
    cpu, before, began = servers.server_cpu_seconds(), float(servers.value(WAL)), perf_counter()
    servers.script("VACUUM messaging.message_outbox")
    took = perf_counter() - began
    used = servers.server_cpu_seconds().get("postgres", 0.0) - cpu.get("postgres", 0.0)
    return Left(rows, wal, table, indexes, took, used, float(servers.value(WAL)) - before)


def _row(found: Left) -> dict[str, str]:
    each = {f"WAL of {what}": f"{written / found.rows:,.0f}" for what, written in found.wal.items()}
    return {
        "events": f"{found.rows:,}",
        **each,
        "WAL in all": f"{sum(found.wal.values()) / found.rows:,.0f}",
        "table MB": f"{found.table / 1e6:,.0f}",
        "indexes MB": f"{sum(found.indexes.values()) / 1e6:,.0f}",
        "VACUUM s": f"{found.vacuum_s:.2f}",
        "its CPU s": f"{found.vacuum_cpu_s:.2f}",
        "its WAL": f"{found.vacuum_wal / found.rows:,.0f}",
    }
