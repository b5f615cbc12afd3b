"""The sinks of a relay that publishes to the shards of a Cluster, each with its own gate.

A shard moves as a whole between the nodes of a Cluster. So each shard has a connection, a breaker and an audit of its
own: the connection follows the shard to whichever node serves it, and while that node is away the other shards go on.
Slots of a shard that is not ready (`Sink.ready`) are left out of the claims. A batch whose shard does not answer is
settled beside the lane that wrote it.
"""

from collections.abc import Callable, Sequence
from time import monotonic

import anyio
from anyio.abc import TaskGroup

from dispatcher.core.incarnation import stream_order
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.relay.stream.sinks import CATCH_UP_S, Allowance, NotNow, Sink


class ShardSinks:
    """All sinks of a Cluster. `sink_of`: the number of the sink of a row; `may_connect`: see Sink.keep_ready()."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        sink_of: Callable[[ClaimedRow], int],
        *,
        stopping: anyio.Event,
        wake: Callable[[], None],
        may_connect: Callable[[], bool],
    ) -> None:
        self.all = sinks
        self._may_connect = may_connect
        self._stopping = stopping
        self._sink_of = sink_of
        self._wake = wake
        self._changed = anyio.Event()  # replaced by wait_changed()
        self._whole = not any(sink.slots for sink in sinks)  # none can be left out of a claim: all wait for each

    def start(self, tasks: TaskGroup) -> None:
        for sink in self.all:
            tasks.start_soon(sink.keep_ready, self._stopping, self.note_change, self._may_connect, name="sink")

    def note_change(self) -> None:
        """A sink is open again, or has no batch in the background any more."""
        self._changed.set()
        self._wake()

    async def allow(self, most: Callable[[], int]) -> Allowance | NotNow:
        """How much may be claimed now. Sinks that are not open are tried again, beside the lanes."""
        began = monotonic()
        ready = {number: sink for number, sink in enumerate(self.all) if sink.ready}
        for number, sink in enumerate(self.all):
            if number not in ready or sink.flow.would_ask_redis():
                sink.check_again()
        if not ready or (self._whole and len(ready) < len(self.all)):
            return NotNow.WAIT_FIRST
        rows = min(most(), *(sink.flow.rows_left() for sink in ready.values()))
        if rows <= 0:
            return NotNow.WAIT_FIRST
        return Allowance(
            rows,
            False,
            began,
            {number: sink.gate.connection.epoch for number, sink in ready.items()},
            min((sink.gate.connection.floor for sink in ready.values()), key=stream_order),
            tuple(slot for number, sink in enumerate(self.all) if number not in ready for slot in sink.slots),
        )

    async def try_open(self) -> None:
        await self.allow(lambda: 1)

    async def wait_changed(self) -> None:
        self._changed = anyio.Event()
        with anyio.move_on_after(CATCH_UP_S):
            await self._changed.wait()

    def split(self, batch: Batch) -> dict[int, Batch]:
        parts: dict[int, list[ClaimedRow]] = {}
        for row in batch.rows:
            parts.setdefault(self._sink_of(row), []).append(row)
        return {number: batch._replace(rows=rows) for number, rows in parts.items()}
