"""After the turn: what a turn wrote is completed, one sink's part beside the other's.

Of a Cluster's shards the slowest must not hold its lane: after a moment the lane goes on, and the part is completed
beside it, with the lane's session. Its shard is left out of the claims until then.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.stream.sinks import Sink
from dispatcher.stages.publish import SentBatch

PATIENCE_S = 0.05  # how long a lane waits for the slowest shard of its batch


class WrittenPart(NamedTuple):
    """What a turn wrote to one sink, and the rows that are published apart because they failed before.

    `began`: the turn, in monotonic seconds.
    """

    sink: Sink
    batch: Batch
    sent: SentBatch
    began: float
    apart: list[ClaimedRow]


class Finisher:
    """Finishes what turns wrote.

    `finished(claim_id)` is called when nothing of the claim is worked on any more; `changed()` when a part is done for
    which no lane waited, so that rows may be claimed for its sink again.
    """

    def __init__(self, finished: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._finished = finished
        self._changed = changed
        self.beside: TaskGroup | None = None  # for parts that no lane waits for; written by the relay's run()

    async def finish(self, postgres: ReconnectingSession, parts: Sequence[WrittenPart]) -> None:
        """Wait for the replies, settle; what may be poison goes to the bisector of its sink."""
        if len(parts) == 1 and not parts[0].sink.slots:
            try:
                await self._complete(postgres, parts[0])
            finally:
                self._finished(parts[0].batch.claim_id)
            return
        assert self.beside is not None  # noqa: S101
        left, all_done = list(parts), anyio.Event()

        async def complete(part: WrittenPart) -> None:
            try:
                await self._complete(postgres, part)
            finally:
                left.remove(part)
                if not left:
                    self._finished(part.batch.claim_id)
                    all_done.set()
                if part in late:
                    part.sink.late -= 1
                    self._changed()

        late: list[WrittenPart] = []
        for part in parts:
            self.beside.start_soon(complete, part, name="part of a batch")
        with anyio.move_on_after(PATIENCE_S):
            await all_done.wait()
        for part in left:
            late.append(part)
            part.sink.late += 1

    @staticmethod
    async def _complete(postgres: ReconnectingSession, part: WrittenPart) -> None:
        batch, sink = part.batch, part.sink
        waiting = [batch._replace(rows=part.apart)]  # for the bisector
        apart = [
            *part.apart,
            *await sink.completer.complete(postgres, batch, part.sent, part.began, also=waiting),
        ]
        if apart:
            await sink.bisector.add(postgres, batch._replace(rows=apart))
