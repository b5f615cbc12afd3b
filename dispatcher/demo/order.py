"""`dispatcher demo --order`: events of 300 aggregates, three dispatchers that keep their order, and a verdict.

One dispatcher is killed, one is stopped and one joins while events go on. The stream is read at the end: each event is
there once, and behind every earlier event of its aggregate.
"""

import signal
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from rich.table import Table
from rich.text import Text

from dispatcher.core.counted import counted
from dispatcher.core.layout import DEFAULT_STREAM
from dispatcher.demo.cleanup import ending_in_order, scratch_folder
from dispatcher.demo.consumer import DemoReader
from dispatcher.demo.measure import MeasurementHooks, measure
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.demo.producer import Load
from dispatcher.demo.report import Report, latencies, latency_rows
from dispatcher.demo.run import DemoPlan, count_rows, start_servers, until_settled
from dispatcher.demo.screen import Screen
from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import judge
from dispatcher.embedded import free_port
from dispatcher.embedded.ports import require_free

AGGREGATES = 300
START_TIMEOUT_S = 90.0  # three processes start at once, on a machine that may be busy
PAGE = 5_000  # entries read at once
# One connection writes, so the events of an aggregate commit in the order of their ids. $4 is not wanted here.
INSERT = f"""INSERT INTO messaging.message_outbox (event_id, message_id, event_type, aggregate_id, payload, headers)
    SELECT $1::uuid, $2::uuid, $3::text, 'conversation-' || abs(hashtext($1::text)) % {AGGREGATES} || left($4::text, 0),
        $5::jsonb, $6::jsonb"""


@dataclass(slots=True)
class Cast:
    """The dispatchers, and what happens to them at which part of the run. Written by the measuring thread."""

    stack: ExitStack
    settings: dict[str, str]
    folder: Path
    seconds: float
    screen: Screen
    running: list[DispatcherProcess] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def start(self, port: int | None = None) -> DispatcherProcess:
        """Start one more."""
        number = len(self.changes) + len(self.running) + 1
        settings = self.settings | {"DISPATCH_HTTP_PORT": str(port or free_port())}
        started = self.stack.enter_context(DispatcherProcess(settings, self.folder / f"dispatcher-{number}.log"))
        self.running.append(started)
        return started

    def play(self, elapsed_s: float) -> None:
        """Do what is due: at each quarter of the run one thing."""
        steps = (self._kill, self._stop, self._join)
        if len(self.changes) < len(steps) and elapsed_s >= self.seconds * (len(self.changes) + 1) / 4:
            change = steps[len(self.changes)]()
            self.screen.step(change)
            self.changes.append(change)

    def check(self) -> None:
        """Raises DispatcherEndedError when one ended by itself."""
        for each in self.running:
            each.check()

    def _kill(self) -> str:
        victim = self.running.pop()
        victim.signal(signal.SIGKILL)
        return f"killed a dispatcher (pid {victim.pid}, kill -9)"

    def _stop(self) -> str:
        leaving = self.running.pop()
        leaving.signal(signal.SIGTERM)
        return f"stopped a dispatcher (pid {leaving.pid}, SIGTERM)"

    def _join(self) -> str:
        return f"a dispatcher joins (pid {self.start().pid})"


def run_order(plan: DemoPlan, screen: Screen) -> Report:
    """Raises Misconfigured (a wheel, a port, a folder) or another DispatcherError; nothing is left running then."""
    port = plan.http_port or free_port()
    require_free(port, "--http-port")
    with ending_in_order() as stack:
        stack.callback(screen.close)
        folder = stack.enter_context(scratch_folder("dispatcher-demo-"))
        _, valkey, database_url = start_servers(stack, folder, screen.step)
        settings = connected(database_url, valkey.url, port) | {"DISPATCH_ORDER": "aggregate"}
        cast = Cast(stack, settings, folder, plan.seconds, screen)
        for each in [cast.start(port), cast.start(), cast.start()]:
            each.wait_ready(START_TIMEOUT_S)
        screen.step(f"three dispatchers are ready: http://127.0.0.1:{port}/ is the console of the first")
        screen.step(f"sending {plan.rate:g} events/s of {AGGREGATES} aggregates for {plan.seconds:g} s")

        def progress(now: Tally, elapsed_s: float) -> None:
            cast.play(elapsed_s)
            screen.progress(now, elapsed_s)

        measured = measure(
            Load(database_url, plan.rate, plan.seconds, connections=1, statement=INSERT),
            DemoReader(valkey.url, DEFAULT_STREAM, group="demo"),
            MeasurementHooks(progress, cast.check, until_settled(database_url)),
        )
        sent, _ = count_rows(database_url)
        codes = [each.stop() for each in cast.running]
        return _report(measured.tally, sent, codes, cast.changes, database_url, valkey.url)


def _report(
    tally: Tally, sent: int, codes: Sequence[int], changes: Sequence[str], database_url: str, redis_url: str
) -> Report:
    with psycopg.connect(database_url, autocommit=True) as connection:
        positions = {
            event.encode(): (aggregate, number)
            for event, aggregate, number in connection.execute(
                "SELECT event_id::text, aggregate_id, id FROM messaging.message_outbox"
            )
        }
    entries = list(_entries(redis_url))
    doubled, overtaken = len(entries) - len(set(entries)), count_overtaken(entries, positions)
    aggregates = len({aggregate for aggregate, _ in positions.values()})
    table = Table(title="Order within each aggregate, DISPATCH_ORDER=aggregate", title_justify="left")
    table.add_column("events of", style="bold")
    table.add_column(f"{aggregates} aggregates", justify="right")
    table.add_row("committed", f"{tally.committed:,}")
    table.add_row("rows marked sent", f"{sent:,}")
    wrong = {"out_of_order": overtaken, "lost": tally.lost, "doubled": doubled}
    for name, count in wrong.items():
        table.add_row(name.replace("_", " "), Text(f"{count:,}", style="bold red" if count else "bold green"))
    for name, value in latency_rows(tally.latency):
        table.add_row("longest" if name == "max" else f"{name} from commit to consumer", value)
    table.add_section()
    figures = {"aggregates": aggregates, "committed": tally.committed, "sent": sent, **wrong}
    verdict = judge(
        tally,
        sent,
        max(codes, key=abs),
        (doubled > 0, f"{counted(doubled, 'entry')} came into the stream a second time"),
        (overtaken > 0, f"{counted(overtaken, 'event')} came after a later one of the same aggregate"),
        (len(changes) < 3, "the run was too short for a dispatcher to be killed, one to stop and one to join"),
    )
    return Report(table, {**figures, **latencies(tally.latency), "changes": list(changes)}, verdict)


def _entries(redis_url: str) -> Iterable[bytes]:
    """The event ids of the whole stream, in its order."""
    with redis.Redis.from_url(redis_url, socket_timeout=10) as client:
        start = "-"
        while page := client.xrange(DEFAULT_STREAM, start, count=PAGE):
            yield from (fields[b"event_id"] for _, fields in page)
            start = f"({page[-1][0].decode()}"


def count_overtaken(entries: Iterable[bytes], positions: dict[bytes, tuple[str, int]]) -> int:
    """How many first entries came after that of a later event of their aggregate. `positions`: aggregate and number."""
    newest: dict[str, int] = {}
    seen, overtaken = set[bytes](), 0
    for event in entries:
        if event in seen or event not in positions:
            continue
        seen.add(event)
        aggregate, number = positions[event]
        overtaken += number < newest.get(aggregate, number)
        newest[aggregate] = max(number, newest.get(aggregate, number))
    return overtaken
