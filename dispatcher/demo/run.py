"""The demo from end to end: servers, schema, dispatcher, events, verdict."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import psycopg
from rich.table import Table

from dispatcher.core.layout import DEFAULT_STREAM
from dispatcher.demo.cleanup import ending_in_order, scratch_folder
from dispatcher.demo.consumer import DemoReader
from dispatcher.demo.measure import MeasurementHooks, measure
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.demo.producer import Load, connections_for
from dispatcher.demo.program import program
from dispatcher.demo.report import Report, latency_rows
from dispatcher.demo.screen import Screen
from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import SLA_P95_MS, judge, late
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from dispatcher.embedded.ports import require_free
from dispatcher.infra.postgres.migrations import migrate

DATABASE = "postgres"
SETTLE_TIMEOUT_S = 10.0
NEXT = {
    "demo --stay": "the console, while you break things",
    "dev": "Postgres and Valkey to build against",
    "migrate": "the outbox in your DATABASE_URL",
    "run": "relay it to your REDIS_URL",
}


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The options of the demo."""

    rate: float
    seconds: float
    http_port: int = 0  # 0: any free one


def run(plan: DemoPlan, screen: Screen) -> Report:
    """Raises Misconfigured (a wheel, a port, a folder) or another DispatcherError; nothing is left running then."""
    port = plan.http_port or free_port()
    require_free(port, "--http-port")
    with ending_in_order() as stack:
        stack.callback(screen.close)
        folder = stack.enter_context(scratch_folder("dispatcher-demo-"))
        _, valkey, database_url = start_servers(stack, folder, screen.step)
        redis_url = valkey.url
        settings = connected(database_url, redis_url, port)
        dispatcher = stack.enter_context(DispatcherProcess(settings, folder / "dispatcher.log"))
        dispatcher.wait_ready()
        screen.step(f"dispatcher ready (pid {dispatcher.pid}): its console is http://127.0.0.1:{port}/")
        screen.step(f"sending {plan.rate:g} events/s for {plan.seconds:g} s, each in its own durable transaction")
        measured = measure(
            Load(database_url, plan.rate, plan.seconds, connections_for(plan.rate)),
            DemoReader(redis_url, DEFAULT_STREAM, group="demo"),
            MeasurementHooks(screen.progress, dispatcher.check, until_settled(database_url)),
        )
        sent, _ = count_rows(database_url)
        code = dispatcher.stop()
        rate = measured.done.events / max(measured.done.seconds, plan.seconds)
        return report(measured.tally, sent, code, rate)


def report(tally: Tally, sent: int, exit_code: int, rate: float) -> Report:
    """`sent`: rows that Postgres marks sent. `rate`: events a second, as reached."""
    table = Table(title="From commit to consumer", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("events committed", f"{tally.committed:,}")
    table.add_row("events a second", f"{rate:,.0f}")
    table.add_row("rows marked sent", f"{sent:,}")
    table.add_row("lost", f"{tally.lost:,}")
    table.add_row("duplicated", f"{tally.duplicated:,}", end_section=True)
    for row in latency_rows(tally.latency, decimals=2):
        table.add_row(*row)
    table.add_section()
    early = f"{tally.early:,} reached the consumer before their commit call had returned: counted as 0 ms."
    return Report(
        table,
        {**tally.summary(), "sent": sent, "events_per_second": round(rate, 1)},
        judge(tally, sent, exit_code, late(tally.latency)),
        f"SLA: p95 under {SLA_P95_MS / 1000:g} s, none lost or doubled",
        [
            *([early] if tally.early else []),
            "\nNext:",
            *(f"  {program()} {command:13}{what}" for command, what in NEXT.items()),
        ],
    )


def start_servers(
    stack: ExitStack, folder: Path, step: Callable[[str], None], *, appendonly: bool = False
) -> tuple[EmbeddedPostgres, EmbeddedValkey, str]:
    """Postgres with the schema, Valkey, and the URL of the database. `appendonly`: Valkey keeps its data on disk."""
    step("starting Postgres 18 and Valkey 9 in a temporary folder")
    postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
    valkey = stack.enter_context(EmbeddedValkey(folder / "valkey", appendonly=appendonly))
    database_url = postgres.url(DATABASE)
    anyio.run(migrate, database_url)
    step("schema and doorbell installed")
    return postgres, valkey, database_url


def count_rows(database_url: str) -> tuple[int, int]:
    """Rows of the outbox: (marked sent, not settled)."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        counted = connection.execute(
            "SELECT count(*) FILTER (WHERE status = 'sent'), count(*) FILTER (WHERE NOT settled)"
            " FROM messaging.message_outbox"
        ).fetchone()
    sent, unsettled = counted or (0, 0)
    return sent, unsettled


def until_settled(database_url: str) -> Callable[[], None]:
    """Waits until every row is settled, so that a second copy of an entry could not come later unseen."""

    def wait() -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while count_rows(database_url)[1] and time.monotonic() < deadline:
            time.sleep(0.1)

    return wait
