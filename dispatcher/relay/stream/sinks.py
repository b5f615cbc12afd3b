"""The sinks of one relay, and how much may be claimed for them: one server here, a Cluster's in shard_sinks.py."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from time import monotonic
from typing import NamedTuple, Protocol

import anyio
from anyio.abc import TaskGroup

from dispatcher.core.row import Batch
from dispatcher.relay.policy import FlowControl
from dispatcher.relay.stream.answers import SinkAnswers
from dispatcher.relay.stream.bisect import PoisonBisector
from dispatcher.relay.stream.gate import SinkGate

CATCH_UP_S = 0.1  # between two checks of a consumer group that has to catch up


class NotNow(Enum):
    """Why a turn may claim nothing, and so what the lane does before its next turn."""

    ASK_AGAIN = auto()  # at once: allow() has waited for a sink that is not open, or a stop came
    WAIT_FIRST = auto()  # wait_changed() before the next turn: allow() has not waited


class Allowance(NamedTuple):
    """How many rows a turn may claim, at least one. `trial`: the row tries the sink out. `began`: monotonic seconds.

    `connection_epochs`: of each sink that takes rows now, see RedisConnection. `left_out`: slots of the other sinks.
    """

    rows: int
    trial: bool
    began: float
    connection_epochs: Mapping[int, int]
    floor: str
    left_out: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Sink:
    """One gate, and what works on the rows that go through it. `slots`: rows of these slots; empty: all rows."""

    gate: SinkGate
    flow: FlowControl
    answers: SinkAnswers
    bisector: PoisonBisector
    slots: Sequence[int] = ()
    in_background: int = 0  # batches that are settled in the background, while no lane waits for them
    _check_again: anyio.Event = field(default_factory=anyio.Event)  # replaced by keep_ready()

    @property
    def ready(self) -> bool:
        """Whether rows may be claimed for this sink now."""
        return not self.in_background and self.gate.ready and self.flow.rows_left() > 0

    def stop(self) -> None:
        """End every wait for this sink."""
        self.gate.stop()
        self.bisector.stop()
        self.check_again()

    def check_again(self) -> None:
        """Let keep_ready() connect, or ask what the consumer groups have to read."""
        self._check_again.set()

    async def keep_ready(
        self, stopping: anyio.Event, changed: Callable[[], None], may_connect: Callable[[], bool]
    ) -> None:
        """Connect, again when the sink was away, and ask what its consumer groups have to read; until stopped.

        `changed()` is called when rows may be claimed for the sink again; `may_connect()`: see PauseCheck.may_try_sink.
        Raises Misconfigured when a person has to act and the sink was never up.
        """
        while not stopping.is_set():
            self._check_again = anyio.Event()
            if not self.gate.ready:
                if not may_connect():
                    await self._check_again.wait()  # the relay says so when it may
                elif await self.gate.try_open():
                    await self.flow.allowance()
                    changed()
            elif self.flow.would_ask_redis():
                if await self.flow.allowance() > 0:
                    changed()
                else:
                    with anyio.move_on_after(CATCH_UP_S):
                        await stopping.wait()
            else:
                await self._check_again.wait()


class Sinks(Protocol):
    """All sinks of a relay. The number of a sink is its place in `all`."""

    all: Sequence[Sink]

    def start(self, tasks: TaskGroup) -> None:
        """Begin what runs beside the lanes."""
        ...

    async def allow(self, most: Callable[[], int]) -> Allowance | NotNow:
        """What may be claimed now, at most `most()` rows."""
        ...

    async def try_open(self) -> None:
        """Find out whether the sinks take rows, while nothing is claimed."""
        ...

    async def wait_changed(self) -> None:
        """Wait for a moment, or until more may be allowed."""
        ...

    def split(self, batch: Batch) -> Mapping[int, Batch]:
        """By number of the sink: its rows of the batch, in the order of the batch."""
        ...


class OneSink:
    """The sink of a relay that has one.

    `release_key()` is awaited before a wait for the sink: nobody claims meanwhile, so writers need not ring.
    """

    def __init__(self, sink: Sink, stopping: anyio.Event, release_key: Callable[[], Awaitable[None]]) -> None:
        self.all: Sequence[Sink] = (sink,)
        self._sink = sink
        self._stopping = stopping
        self._release_key = release_key

    def start(self, tasks: TaskGroup) -> None:
        """Nothing runs beside the lanes: allow() connects the sink."""

    async def allow(self, most: Callable[[], int]) -> Allowance | NotNow:
        gate = self._sink.gate
        if gate.is_shut():
            await self._release_key()
        if not await gate.wait_open():
            return NotNow.ASK_AGAIN
        epoch, trial, began = gate.connection.epoch, gate.begin_trial(), monotonic()
        rows = min(await self._sink.flow.allowance(), most())
        if rows <= 0:
            return NotNow.WAIT_FIRST
        return Allowance(1 if trial else rows, trial, began, {0: epoch}, gate.connection.floor)

    async def try_open(self) -> None:
        if await self._sink.gate.try_open():
            await self._sink.flow.allowance()

    async def wait_changed(self) -> None:
        with anyio.move_on_after(CATCH_UP_S):
            await self._stopping.wait()

    def split(self, batch: Batch) -> Mapping[int, Batch]:
        return {0: batch}
