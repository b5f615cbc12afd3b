"""After the turn: a lane waits for the replies to what its turn wrote, and settles for each sink (answers.py).

Rows that the shards of a Cluster took are settled by one statement for all shards that have answered: a statement for
each shard would cost many times as much. The slowest shard must not hold up the other shards or the lane. So the lane
goes on after a moment, and rows whose shard has not answered, or did not take them, are settled in the background, with
the session of the lane. That shard is left out of the claims until its rows are settled.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from anyio.abc import TaskGroup

from dispatcher.core.decide import Reply
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.stream.sinks import Sink
from dispatcher.stages.publish import WrittenBatch, replies_of

SLOWEST_S = 0.05  # how long a lane waits for the slowest shard of its batch
TOGETHER_S = 0.005  # how long shards that have answered wait for other shards, to be settled with them


class SinkBatch(NamedTuple):
    """What a turn wrote to one sink, and the rows that are isolated because they failed before.

    `began`: when the turn went on after its sleep, and after its wait for the sink, in monotonic seconds.
    """

    sink: Sink
    batch: Batch
    written: WrittenBatch
    began: float
    isolated: list[ClaimedRow]


class AfterTurn:
    """Settles what turns wrote.

    `lanes_finished(claim_id)` is called when no lane works on the claim any more, nor a task in the background; rows
    that are isolated or kept aside may be in flight still. `changed()` is called when a batch is done for which no lane
    waited, so that rows may be claimed for its sink again.
    """

    def __init__(self, lanes_finished: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._lanes_finished = lanes_finished
        self._changed = changed
        self._tasks_of = Counter[str]()  # by claim id: how many tasks work on it
        self.background: TaskGroup | None = None  # for what no lane waits for; written by the relay's run()

    async def run(self, postgres: ReconnectingSession, sink_batches: Sequence[SinkBatch]) -> None:
        """Wait for the replies and settle. Rows that may be poison go to the bisector of their sink."""
        claim_id = sink_batches[0].batch.claim_id
        self._tasks_of[claim_id] += 1
        try:
            if len(sink_batches) == 1 and not sink_batches[0].sink.slots:
                await self._wait_and_settle(postgres, sink_batches[0])
                return
            waiting = {sink_batch.written.replies: sink_batch for sink_batch in sink_batches}
            until = monotonic() + SLOWEST_S
            while answered := await _answered(waiting, until):
                await self._settle_together(postgres, [waiting.pop(each) for each in answered])
            for sink_batch in waiting.values():
                self._start_in_background(sink_batch, partial(self._wait_and_settle, postgres, sink_batch))
        finally:
            self._task_ended(claim_id)

    async def _settle_together(self, postgres: ReconnectingSession, sink_batches: Sequence[SinkBatch]) -> None:
        """Settle together the batches of which the sink took every row. Every other batch is settled beside, by itself.

        The rows of such a batch are searched for, or judged by a probe: this may have to wait for the node.
        """
        taken, replies = list[tuple[SinkBatch, BatchOutcomes]](), list[Reply]()
        for sink_batch in sink_batches:
            answered = await replies_of(sink_batch.written)  # does not wait: all replies have come
            if sink_batch.isolated or not all(type(each) is bytes for each in answered):  # bytes: an entry id
                self._start_in_background(sink_batch, partial(self._wait_and_settle, postgres, sink_batch))
                continue
            taken.append((sink_batch, sink_batch.sink.answers.decide(sink_batch.batch, sink_batch.written, answered)))
            replies += answered
        if not taken:
            return
        first = taken[0][0]
        whole = first.batch._replace(rows=[row for sink_batch, _ in taken for row in sink_batch.batch.rows])
        left = await first.sink.answers.settle_together(
            postgres, whole, replies, [outcomes for _, outcomes in taken], first.began
        )
        for sink_batch, outcomes in taken if left else ():
            if unsettled := [each for each in outcomes.each() if each[0] in left]:
                again = BatchOutcomes.of(unsettled, outcomes.incarnation, outcomes.streams)
                self._start_in_background(
                    sink_batch,
                    partial(sink_batch.sink.answers.settle, postgres, sink_batch.batch, again, tried_together=True),
                )

    def _start_in_background(self, sink_batch: SinkBatch, work: Callable[[], Awaitable[object]]) -> None:
        """Do the rest of the work on the batch of one sink, while no lane waits for it."""
        assert self.background is not None  # noqa: S101
        claim_id = sink_batch.batch.claim_id
        self._tasks_of[claim_id] += 1
        sink_batch.sink.in_background += 1

        async def run() -> None:
            try:
                await work()
            finally:
                self._task_ended(claim_id)
                sink_batch.sink.in_background -= 1
                self._changed()

        self.background.start_soon(run, name="batch of one sink")

    def _task_ended(self, claim_id: str) -> None:
        self._tasks_of[claim_id] -= 1
        if not self._tasks_of[claim_id]:
            del self._tasks_of[claim_id]
            self._lanes_finished(claim_id)

    @staticmethod
    async def _wait_and_settle(postgres: ReconnectingSession, sink_batch: SinkBatch) -> None:
        batch, sink = sink_batch.batch, sink_batch.sink
        waiting = [batch._replace(rows=sink_batch.isolated)]  # for the bisector: their leases are renewed meanwhile
        cut = await sink.answers.wait_and_settle(
            postgres, batch, sink_batch.written, sink_batch.began, renew_too=waiting
        )
        isolated = [*sink_batch.isolated, *cut]
        if isolated:
            await sink.bisector.add(postgres, batch._replace(rows=isolated))


async def _answered(
    waiting: Mapping[asyncio.Future[list[Any]], object], until: float
) -> set[asyncio.Future[list[Any]]]:
    """The futures that are done by `until` (monotonic seconds), or within TOGETHER_S of the first one that is done."""
    if not waiting:
        return set()
    left_s = max(0.0, until - monotonic())
    await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    answered, _ = await asyncio.wait(waiting, timeout=min(TOGETHER_S, left_s))
    return answered
