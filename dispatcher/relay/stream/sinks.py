"""The sinks of one relay: one server, or the shards of a Cluster, each with its own gate.

A shard is what moves as a whole between the nodes of a Cluster, so each has a connection, a breaker and an audit of its
own: it is followed to whichever node serves it, and while that one is away the others go on. What is not open is left
out of the claims, and a batch whose shard does not answer is completed beside the lane that wrote it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from dispatcher.core.incarnation import stream_order
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.relay.policy import FlowControl
from dispatcher.relay.stream.bisect import PoisonBisector
from dispatcher.relay.stream.complete import BatchCompleter
from dispatcher.relay.stream.gate import SinkGate

CATCH_UP_S = 0.1  # between two looks at a consumer group that has to catch up
PATIENCE_S = 0.05  # how long a lane waits for the slowest shard of its batch


class Survey(NamedTuple):
    """Which sinks may be published to. `epochs`: of their connections, by number; `closed`: slots of the others."""

    epochs: Mapping[int, int]
    closed: tuple[int, ...]
    rows: int
    floor: str


@dataclass(slots=True, eq=False)
class Sink:
    """One gate, and what is done with the rows that go through it. `slots`: whose rows these are."""

    gate: SinkGate
    flow: FlowControl
    completer: BatchCompleter
    bisector: PoisonBisector
    slots: Sequence[int] = ()
    late: int = 0  # batches that are not answered or not completed, and that no lane waits for
    _kicked: anyio.Event = field(default_factory=anyio.Event)  # replaced by keep()

    @property
    def ready(self) -> bool:
        """Whether rows may be claimed for it now."""
        return not self.late and self.gate.ready and self.flow.left() > 0

    def stop(self) -> None:
        """End every wait of it."""
        self.gate.stop()
        self.bisector.stop()
        self.kick()

    def kick(self) -> None:
        """Look at it again."""
        self._kicked.set()

    async def keep(self, stopping: anyio.Event, changed: Callable[[], None]) -> None:
        """Connect it, find out when it is back, ask what its groups have to read; until stopped.

        Raises Misconfigured when a person has to act and it was never up.
        """
        while not stopping.is_set():
            self._kicked = anyio.Event()
            if not self.gate.ready:
                if await self.gate.look():
                    await self.flow.allowance()
                    changed()
            elif self.flow.due():
                if await self.flow.allowance() > 0:
                    changed()
                else:
                    with anyio.move_on_after(CATCH_UP_S):
                        await stopping.wait()
            else:
                await self._kicked.wait()


class ShardSinks:
    """All sinks of a Cluster. `sink_of`: the number of the sink that a row goes to; None: by its slot."""

    def __init__(self, sinks: Sequence[Sink], sink_of: Callable[[ClaimedRow], int], wake: Callable[[], None]) -> None:
        self.sinks = sinks
        self._sink_of = sink_of
        self._wake = wake
        self._changed = anyio.Event()  # replaced by wait_changed()
        self._whole = not any(sink.slots for sink in sinks)  # none can be left out of a claim: all wait for each

    def note_change(self) -> None:
        """A sink is open again, or not late any more."""
        self._changed.set()
        self._wake()

    def survey(self, most: int) -> Survey | None:
        """What may be claimed, at most so many rows; None: nothing now. Others are looked at again."""
        ready = {number for number, sink in enumerate(self.sinks) if sink.ready}
        for number, sink in enumerate(self.sinks):
            if number not in ready or sink.flow.due():
                sink.kick()
        if not ready or (self._whole and len(ready) < len(self.sinks)):
            return None
        closed = tuple(slot for number, sink in enumerate(self.sinks) if number not in ready for slot in sink.slots)
        open_ones = [self.sinks[number] for number in ready]
        return Survey(
            {number: self.sinks[number].gate.connection.epoch for number in ready},
            closed,
            min(most, *(sink.flow.left() for sink in open_ones)),
            min((sink.gate.connection.floor for sink in open_ones), key=stream_order),
        )

    async def wait_changed(self) -> None:
        """Wait for a moment, or until one is open again."""
        self._changed = anyio.Event()
        with anyio.move_on_after(CATCH_UP_S):
            await self._changed.wait()

    def split(self, batch: Batch) -> dict[int, Batch]:
        """The batch by sink, each part in the order of the batch."""
        parts: dict[int, list[ClaimedRow]] = {}
        for row in batch.rows:
            parts.setdefault(self._sink_of(row), []).append(row)
        return {number: batch._replace(rows=rows) for number, rows in parts.items()}
