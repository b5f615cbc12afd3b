"""The delay when a dispatcher joins, stops or is killed: of the slots that change hands, and of the others."""

import signal
from typing import Any, Literal, NamedTuple

from bench.progress import Legs
from bench.report import Target
from bench.servers import STREAM, Rig
from dispatcher.demo.cluster import KeptTally
from dispatcher.demo.consumer import DemoReader
from dispatcher.demo.measure import MeasurementHooks, measure
from dispatcher.demo.process import DispatcherProcess
from dispatcher.demo.producer import Load
from dispatcher.demo.tally import Tally

Change = Literal["joins", "stops", "is killed"]
LIMITS_MS: dict[Change, float] = {"joins": 250.0, "stops": 250.0, "is killed": 1500.0}
CHANGES: tuple[Change, ...] = tuple(LIMITS_MS)
RATE, SECONDS, AT_S = 200.0, 12.0, 6.0


class Delayed(NamedTuple):
    """The longest waits of events committed since a second before the change; ms. `moved`: slots that changed hands."""

    change: Change
    moved: int
    of_moved_ms: float
    of_others_ms: float
    before_ms: float

    @property
    def sentence(self) -> str:
        """For the notes of the report."""
        return (
            f"At {RATE:g} events/s a dispatcher {self.change}, {self.moved} slots change hands: the longest wait of "
            f"their events is {self.of_moved_ms:,.0f} ms, of the others {self.of_others_ms:,.0f} ms; before it "
            f"{self.before_ms:,.0f} ms."
        )

    def target(self) -> Target:
        """What the longest wait may be."""
        limit = LIMITS_MS[self.change]
        said = f"a dispatcher {self.change}: longest wait {self.of_moved_ms:,.0f} ms, wanted at most {limit:,.0f} ms"
        return Target(said, self.of_moved_ms <= limit)


def delays(servers: Rig, change: Change, legs: Legs) -> Delayed:
    """Two dispatchers under load; half-way through one joins, stops or is killed."""
    legs.begin(f"a dispatcher {change}")
    running = [servers.start_dispatcher(DISPATCH_ORDER="aggregate") for _ in range(1 if change == "joins" else 2)]
    tally, change_ns = KeptTally(), 0
    owners: dict[int, Any] = {}

    def progress(now: Tally, elapsed_s: float) -> None:
        nonlocal change_ns
        legs.within(min(1.0, elapsed_s / SECONDS))
        if elapsed_s >= AT_S and not change_ns:
            owners.update(_owners(servers))
            change_ns = now.measure_from_ns + int(elapsed_s * 1e9)
            _make(servers, change, running)

    measured = measure(
        Load(servers.database_url, RATE, SECONDS, connections=4),
        DemoReader(servers.redis_url, STREAM),
        MeasurementHooks(progress, running[0].check, lambda: servers.wait_drained(running[0])),
        tally=tally,
    )
    moved = {slot for slot, owner in _owners(servers).items() if owner != owners.get(slot)}
    with servers.connect() as connection:
        rows = connection.execute("SELECT event_id::text, slot FROM messaging.message_outbox").fetchall()
    slots = {event.encode(): slot for event, slot in rows}
    waits: dict[str, float] = {"moved": 0.0, "others": 0.0, "before": 0.0}
    for event, (committed, received) in tally.moments.items():
        if committed < change_ns - 1e9:
            part = "before" if committed > measured.start_ns + 2e9 else ""
        else:
            part = "moved" if slots.get(event) in moved else "others"
        if part:
            waits[part] = max(waits[part], (received - committed) / 1e6)
    for each in running:
        each.stop()
    servers.empty()
    found = Delayed(change, len(moved), waits["moved"], waits["others"], waits["before"])
    legs.end(found.sentence)
    return found


def _make(servers: Rig, change: Change, running: list[DispatcherProcess]) -> None:
    if change == "joins":
        running.append(servers.launch_dispatcher(DISPATCH_ORDER="aggregate"))
    else:
        running[1].signal(signal.SIGTERM if change == "stops" else signal.SIGKILL)


def _owners(servers: Rig) -> dict[int, Any]:
    with servers.connect() as connection:
        rows = connection.execute("SELECT slot, owner FROM messaging.slot_owner").fetchall()
    return {slot: owner for slot, owner in rows}  # noqa: C416 -- its types are known so
