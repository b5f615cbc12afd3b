"""How long a claim takes with ever more settled rows behind: the work index holds none of them, so it stays flat."""

import asyncio
import sys
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import click

from bench.backlog import fill
from bench.charts import Chart
from bench.options import Where, common
from bench.progress import Legs
from bench.report import Report, below
from bench.servers import Rig
from bench.steady import quantile
from dispatcher.core.outcome import BatchOutcomes, Sent
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget as Address
from dispatcher.stages.claim import FROM_THE_START, claim, last_index_key, new_claim_id
from dispatcher.stages.settle import settle

FLAT = 1.2
BATCH = 256
HITS = (
    "SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read) FROM pg_statio_all_tables WHERE relid = "
)
NOTE = (
    "Batches of 256 claimed and settled by the dispatcher's own statements on a session like its own, no dispatcher "
    "running. Settled rows are small ones. Pages: of the table and its indexes that one claim and its settle touched, "
    "for each row; they do not depend on the machine."
)


@dataclass(frozen=True, slots=True)
class Grown:
    """Claims with so many settled rows behind."""

    settled: int
    claim_ns: list[int]
    settle_ns: list[int]
    pages_per_row: float


@click.command()
@click.option(
    "--settled",
    type=click.IntRange(0, 1_000_000_000),
    multiple=True,
    default=(10_000, 100_000, 1_000_000, 10_000_000),
    show_default=True,
    help="Settled rows behind. Given several times, in ascending order.",
)
@click.option("--claims", type=click.IntRange(5, 10_000), default=100, show_default=True, help="Claims timed at each.")
@common
def growth(
    settled: tuple[int, ...],
    claims: int,
    where: Where,
) -> None:
    """Claim and settle time from ten thousand to ten million settled rows behind."""
    sizes = sorted(settled)
    with where.rig() as servers, Legs(len(sizes)) as legs:
        report = Report("growth", {"settled": sizes, "claims": claims}, [], [], notes=[NOTE])
        servers.empty()
        found: list[Grown] = []
        there = 0
        for size in sizes:
            legs.begin(f"{size:,} settled rows")
            fill(servers, size - there, legs, settled=True, small=True)
            there = size + claims * BATCH
            servers.script("VACUUM (ANALYZE) messaging.message_outbox")
            fill(servers, claims * BATCH)
            servers.script("CHECKPOINT")
            found.append(asyncio.run(_claims(servers, size, claims)))
            legs.end(f"{size:,} settled: a claim {quantile(found[-1].claim_ns, 0.5) / 1e6:.2f} ms")
        report.rows = [_row(each) for each in found]
        report.raw = [
            {
                "settled": each.settled,
                "claim_ns": each.claim_ns,
                "settle_ns": each.settle_ns,
                "pages": each.pages_per_row,
            }
            for each in found
        ]
        first, last = found[0], found[-1]
        ratio = quantile(last.claim_ns, 0.5) / quantile(first.claim_ns, 0.5)
        report.targets = [below(f"claim time at {last.settled:,} against {first.settled:,} settled rows:", ratio, FLAT)]
        curves: dict[str, Any] = {
            "claim, p50": [(each.settled, quantile(each.claim_ns, 0.5) / 1e6) for each in found],
            "settle, p50": [(each.settled, quantile(each.settle_ns, 0.5) / 1e6) for each in found],
        }
        report.charts = [
            Chart("claim", "A batch of 256 with settled rows behind", "settled rows", "ms", curves, log_x=True)
        ]
        code = report.finish(servers, where.reports)
    sys.exit(code)


async def _claims(servers: Rig, settled: int, claims: int) -> Grown:
    """Claim and settle all there is, in batches, as the relay does in a backlog."""
    session = await connect(Address(servers.database_url, "bench"), "bench")
    claim_ns, settle_ns, rows, after = [], [], 0, FROM_THE_START
    before = _pages(servers)
    for _ in range(claims):
        began = perf_counter()
        batch = await claim(
            session, claim_id=new_claim_id(), dispatcher=None, limit=BATCH, fresh_limit=BATCH, fresh_after=after
        )
        claimed = perf_counter()
        outcomes = BatchOutcomes()
        for row in batch.rows:
            outcomes.add(row.id, Sent("1-1"))
        await settle(session, batch.claim_id, outcomes)
        settle_ns.append(round((perf_counter() - claimed) * 1e9))
        claim_ns.append(round((claimed - began) * 1e9))
        rows += len(batch.rows)
        after = last_index_key(batch)
    await session.close()
    return Grown(settled, claim_ns, settle_ns, (_pages(servers, session.backend_pid) - before) / rows)


def _pages(servers: Rig, session_pid: int = 0) -> int:
    while servers.value(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session_pid}"):
        sleep(0.01)  # it hands its counters in when it ends
    return int(servers.value(HITS + "'messaging.message_outbox'::regclass") or 0)


def _row(found: Grown) -> dict[str, str]:
    return {
        "settled rows behind": f"{found.settled:,}",
        "claim p50 ms": f"{quantile(found.claim_ns, 0.5) / 1e6:.2f}",
        "claim p95 ms": f"{quantile(found.claim_ns, 0.95) / 1e6:.2f}",
        "settle p50 ms": f"{quantile(found.settle_ns, 0.5) / 1e6:.2f}",
        "settle p95 ms": f"{quantile(found.settle_ns, 0.95) / 1e6:.2f}",
        "pages a row": f"{found.pages_per_row:.1f}",
    }
