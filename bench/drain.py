"""How fast a backlog is worked off, and what it costs: events a second, processor time and WAL for each thousand."""

import contextlib
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import click
import psycopg

from bench.options import common
from bench.progress import Legs
from bench.report import Report, Target
from bench.servers import STREAM, Rig, rig
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.child import DispatcherProcess
from dispatcher.demo.messages import COLUMNS, sample_events

STALLED_S = 60.0
NOTE = (
    "events/s: from the first entry's stream id to the last one's. Processor time is the dispatcher's own (not "
    "Postgres's or Redis's), less what an idle start costs. WAL: all Postgres wrote from the start to the last settle."
)


@click.command()
@click.option("--rows", type=click.IntRange(1_000, 900_000), default=100_000, show_default=True, help="The backlog.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Times it is worked off.")
@common
def drain(
    rows: int,
    rounds: int,
    database_url: str | None,
    redis_url: str | None,
    settings: tuple[str, ...],
    reports: Path,
) -> None:
    """A backlog written while the dispatcher was stopped, then the dispatcher."""
    with rig(database_url, redis_url, settings) as servers, Legs(rounds) as legs:
        report = Report("drain", {"rows": rows, "rounds": rounds}, [], [], notes=[NOTE])
        legs.begin("an idle start")
        idle = servers.start_dispatcher()
        startup_cpu_s = idle.cpu_seconds()
        idle.stop()
        raw = [_leg(servers, rows, startup_cpu_s, legs) for _ in range(rounds)]
        report.raw = raw
        report.rows = [
            {
                "round": str(number),
                "events/s": f"{found['per_second']:,.0f}",
                "CPU s / 1,000": f"{found['cpu_s_per_1000']:.4f}",
                "WAL kB / 1,000": f"{found['wal_bytes_per_1000'] / 1000:,.0f}",
                "lost": f"{found['lost']:,}",
                "doubled": f"{found['duplicated']:,}",
            }
            for number, found in enumerate(raw, 1)
        ]
        lost, doubled = sum(found["lost"] for found in raw), sum(found["duplicated"] for found in raw)
        report.targets = [Target(f"{lost:,} lost, {doubled:,} doubled, wanted none", not lost + doubled)]
        code = report.finish(servers, reports)
    sys.exit(code)


def _leg(servers: Rig, rows: int, startup_cpu_s: float, legs: Legs) -> dict[str, Any]:
    """One backlog: written, worked off, checked."""
    legs.begin("writing the backlog")
    servers.empty()
    expected = _fill(servers, rows)
    wal = int(servers.value("SELECT pg_current_wal_insert_lsn() - '0/0'"))
    legs.begin("working it off")
    dispatcher = servers.start_dispatcher()
    _until_published(servers, dispatcher, rows, legs)
    servers.wait_drained(dispatcher)
    cpu_s = dispatcher.cpu_seconds() - startup_cpu_s
    wal = int(servers.value("SELECT pg_current_wal_insert_lsn() - '0/0'")) - wal
    dispatcher.stop()
    found = _look(servers, expected) | {
        "cpu_s_per_1000": cpu_s / rows * 1000,
        "wal_bytes_per_1000": wal / rows * 1000,
    }
    legs.end(f"{found['per_second']:,.0f} events/s")
    return found


def _fill(servers: Rig, rows: int) -> set[bytes]:
    """COPY the backlog in one transaction. Returns its event_ids."""
    events = sample_events(Random(rows))
    expected: set[bytes] = set()
    statement = f"COPY messaging.message_outbox ({', '.join(COLUMNS)}) FROM STDIN".encode()
    with psycopg.connect(servers.database_url, connect_timeout=10) as connection:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for _ in range(rows):
                event = next(events)
                expected.add(event[0] or b"")
                copy.write_row([None if value is None else value.decode() for value in event])
        connection.commit()
    return expected


def _until_published(servers: Rig, dispatcher: DispatcherProcess, rows: int, legs: Legs) -> None:
    """Watch the stream's length: the cheapest look there is. Raises DispatcherError when it stops growing."""
    length, grown_at = -1, time.monotonic()
    with contextlib.closing(servers.redis()) as client:
        while length < rows:
            dispatcher.check()
            now: Any = client.xlen(STREAM)
            if now != length:
                length, grown_at = int(now), time.monotonic()
            elif time.monotonic() - grown_at > STALLED_S:
                raise DispatcherError(
                    f"{length:,} of {rows:,} entries, none new for {STALLED_S:.0f} s:\n{dispatcher.last_lines()}"
                )
            legs.within(length / rows)
            time.sleep(0.05)


def _look(servers: Rig, expected: set[bytes]) -> dict[str, Any]:
    """Read the whole stream: the rate from its ids, what is missing and what is there twice."""
    seen: set[bytes] = set()
    entries, start, last = 0, "-", b""
    first = b""
    with contextlib.closing(servers.redis()) as client:
        while page := _page(client, start):
            first = first or page[0][0]
            last = page[-1][0]
            start = f"({last.decode()}"
            entries += len(page)
            seen.update(fields[b"event_id"] for _, fields in page)
    seconds = max(1, int(last.split(b"-")[0]) - int(first.split(b"-")[0])) / 1000
    return {
        "per_second": entries / seconds,
        "seconds": seconds,
        "lost": len(expected - seen),
        "duplicated": entries - len(seen),
    }


def _page(client: Any, start: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    page: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(STREAM, min=start, count=5000)
    return page
