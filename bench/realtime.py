"""From the commit to the frame in a thousand browsers: dispatchers, and the gateway of examples/chat.

All browsers of a room get each of its events: 1,000 browsers in 100 rooms make 10 frames of an event.
"""

import resource
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.browsers import Browsers, RoomTally, browse
from bench.charts import Chart
from bench.options import Where, common
from bench.processes import cpu_seconds
from bench.progress import Legs
from bench.report import Report, below, complete
from bench.servers import Rig
from bench.steady import QUANTILES, by_second
from dispatcher.core.errors import DispatcherError
from dispatcher.demo.measure import Measurement, MeasurementHooks, measure
from dispatcher.demo.process import DispatcherProcess
from dispatcher.demo.producer import Load, connections_for
from dispatcher.embedded import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
P95_MS = 1_500.0
FAULTS = "a dispatcher killed, the gateway restarted"
START_S = 60.0
GRACE_S = 90.0  # after which a frame that has not come is missed
FILES = 65_536  # a socket is an open file, on both sides
# What the chat's transaction adds to the outbox; the room is drawn from the sample's conversation.
STATEMENT = """
INSERT INTO messaging.message_outbox (event_id, message_id, event_type, aggregate_type, aggregate_id, payload, headers)
SELECT $1::uuid, $2::uuid, 'message.posted', 'room', 'room-' || abs(hashtext($4::text) % {rooms}),
    jsonb_build_object('number', 0, 'key', $1::text, 'author', $3::text, 'body', left($5::text, 200)), $6::jsonb"""
NOTE = (
    "A frame: one event at one browser. p50 to max: milliseconds from the return of the commit to the frame in the "
    "browsers' process, over all frames. 'missed': frames that never came; 'twice': frames of an event that the same "
    "browser had already. 'latest': how far behind its due time the most belated event was begun. 'cores': what the "
    "processes used, of a core. The browsers are WebSockets of one process, which takes a frame in some microseconds."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    rate: float
    sockets: int
    rooms: int
    seconds: float
    warmup_s: float

    @property
    def total_s(self) -> float:
        return self.warmup_s + self.seconds

    @property
    def kill_s(self) -> float:
        return self.warmup_s + self.seconds / 3

    @property
    def restart_s(self) -> float:
        return self.warmup_s + 2 * self.seconds / 3


class Chat:
    """The gateway and two dispatchers, and what is done to them meanwhile."""

    def __init__(self, servers: Rig) -> None:
        self.servers = servers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.dispatchers = [servers.start_dispatcher() for _ in range(2)]
        self.gateway = self._launch()
        self.restarting = False
        deadline = time.monotonic() + START_S
        while not self._answers():
            self.gateway.check()
            if time.monotonic() > deadline:
                raise DispatcherError(f"the gateway does not answer:\n{self.gateway.last_lines()}")
            time.sleep(0.05)

    def _launch(self) -> DispatcherProcess:
        command = (sys.executable, "-m", "chat.app")
        return self.servers.launch_dispatcher(command, CHAT_PORT=str(self.port), PYTHONPATH=str(EXAMPLES))

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(self.url, timeout=2) as answer:  # noqa: S310 -- our own
            return bool(answer.status == 200)
        return False

    def check(self) -> None:
        """Raises DispatcherError when what should run does not."""
        for each in self.dispatchers if self.restarting else (*self.dispatchers, self.gateway):
            each.check()

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each part has used so far."""
        dispatchers = sum(cpu_seconds(each.pid) for each in self.dispatchers)
        return {"gateway": cpu_seconds(self.gateway.pid), "dispatchers": dispatchers}

    def kill_a_dispatcher(self) -> None:
        """kill -9; the other one takes over."""
        self.dispatchers.pop().signal(signal.SIGKILL)

    def stop_the_gateway(self) -> None:
        """SIGTERM, as a roll-out does."""
        self.restarting = True
        self.gateway.signal(signal.SIGTERM)

    def begin_again(self) -> None:
        """Start the gateway again once it has ended. Never waits: the pipes of the measurement must be read on."""
        if self.restarting and not self.gateway.runs:
            self.gateway.stop()
            self.gateway, self.restarting = self._launch(), False


@click.command()
@click.option("--rate", type=click.FloatRange(1, 50_000), default=500.0, show_default=True, help="Events a second.")
@click.option("--sockets", type=click.IntRange(1, 20_000), default=1_000, show_default=True, help="Browsers.")
@click.option("--rooms", type=click.IntRange(1, 20_000), default=100, show_default=True, help="Rooms they share.")
@click.option("--seconds", type=click.FloatRange(3, 3_600), default=20.0, show_default=True, help="Timed, each leg.")
@click.option("--warm-up", "warmup_s", type=click.FloatRange(0, 60), default=3.0, show_default=True, help="Untimed.")
@click.option("--faults-only", is_flag=True, help="Only the leg with the kill and the restart.")
@common
def realtime(
    rate: float, sockets: int, rooms: int, seconds: float, warmup_s: float, faults_only: bool, where: Where
) -> None:
    """Commit to the frame in 1,000 browsers, through a killed dispatcher and a restart of the gateway."""
    if sockets % rooms:
        raise click.UsageError("--sockets must be a multiple of --rooms: each room has as many browsers")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES)), hard))
    options = {"events/s": rate, "browsers": sockets, "rooms": rooms, "seconds": seconds, "warm-up": warmup_s}
    plan = Plan(rate, sockets, rooms, seconds, warmup_s)
    names = [FAULTS] if faults_only else ["nothing", FAULTS]
    with where.rig() as servers, Legs(len(names)) as legs:
        report = Report("realtime", options, [], [], notes=[NOTE])
        rows, found, targets, curves = [], [], [], dict[str, Any]()
        for name in names:
            legs.begin(f"{rate:g} events/s to {sockets} browsers, {name}")
            measured, cores = _leg(servers, plan, legs, disturbed=name == FAULTS)
            tally = measured.tally
            rows.append(_row(name, measured, cores))
            found.append({"happened": name, **tally.summary(), "cores": cores})
            targets.append(complete(f"{name}: frames", tally.lost, tally.duplicated))
            if name != FAULTS:  # no frame comes while there is no gateway
                targets.append(below(f"{name}: p95", tally.quantile_ms(0.95), P95_MS, " ms"))
            curves[name] = by_second(measured)
            legs.end(f"{name}: p50 {tally.quantile_ms(0.5):.1f} ms, p99 {tally.quantile_ms(0.99):.1f} ms")
        report.rows, report.raw, report.targets = rows, found, targets
        title = f"p95; a dispatcher killed at {plan.kill_s:.0f} s, the gateway restarted at {plan.restart_s:.0f} s"
        report.charts = [Chart("seconds", title, "s, by commit", "ms", curves, log_y=True)]
        code = report.finish(servers, where.reports)
    sys.exit(code)


def _leg(servers: Rig, plan: Plan, legs: Legs, *, disturbed: bool) -> tuple[Measurement, dict[str, float]]:
    """One run. Returns what was measured, and the cores that each part used; none of a part that was ended."""
    servers.empty()
    chat = Chat(servers)
    todo = [(plan.kill_s, chat.kill_a_dispatcher), (plan.restart_s, chat.stop_the_gateway)] if disturbed else []

    def progress(_tally: Any, elapsed_s: float) -> None:
        legs.within(elapsed_s / plan.total_s)
        if todo and elapsed_s >= todo[0][0]:
            todo.pop(0)[1]()
        chat.begin_again()

    statement = STATEMENT.format(rooms=plan.rooms)
    before = chat.cpu_seconds()
    measured = measure(
        Load(servers.database_url, plan.rate, plan.total_s, connections_for(plan.rate), statement=statement),
        Browsers(chat.url, plan.sockets, plan.rooms),
        MeasurementHooks(progress, chat.check, lambda: servers.wait_drained(chat.dispatchers[0])),
        warmup_s=plan.warmup_s,
        grace_s=GRACE_S,
        read=browse,
        tally=RoomTally(plan.sockets // plan.rooms),
    )
    after = chat.cpu_seconds()
    for process in (*chat.dispatchers, chat.gateway):
        process.stop()
    used = {} if disturbed else {name: (after[name] - before[name]) / measured.done.seconds for name in after}
    return measured, used


def _row(name: str, measured: Measurement, cores: dict[str, float]) -> dict[str, str]:
    tally, done = measured.tally, measured.done
    return {
        "what happened": name,
        "events/s": f"{done.events / done.seconds:,.0f}",
        "frames/s": f"{(tally.matched + tally.lost) / done.seconds:,.0f}",
        **{f"{label} ms": f"{tally.quantile_ms(q):.1f}" for label, q in QUANTILES.items() if label != "p99.9"},
        "max ms": f"{tally.latency.maximum / 1e6:,.0f}",
        "missed": f"{tally.lost:,}",
        "twice": f"{tally.duplicated:,}",
        "latest ms": f"{done.latest_s * 1e3:.1f}",
        **{f"{part}, cores": f"{cores[part]:.2f}" if part in cores else "" for part in ("gateway", "dispatchers")},
    }
