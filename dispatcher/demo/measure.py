"""One measurement: a producer process, a consumer process, and the tally of what passed between them."""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from dispatcher.core.errors import DispatcherError
from dispatcher.demo.cleanup import signals_held_back
from dispatcher.demo.consumer import consume
from dispatcher.demo.messages import (
    CannotGoOn,
    Committed,
    ConsumerProgress,
    DemoMessage,
    Ended,
    ProducerDone,
    Ready,
    Start,
    Stop,
)
from dispatcher.demo.producer import Load, produce
from dispatcher.demo.tally import Tally

START_TIMEOUT_S = 30.0
LEAD_NS = 200_000_000  # from "everyone is ready" to the first event
TURN_S = 0.1


class MeasurementFailedError(DispatcherError):
    """The producer or the consumer could not go on. The message says which, and why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What producer and consumer counted in one run."""

    tally: Tally
    done: ProducerDone
    start_ns: int = 0  # the monotonic clock when the first event was due


@dataclass(frozen=True, slots=True)
class MeasurementHooks:
    """Calls into the caller during the measurement. Each may raise to end it."""

    progress: Callable[[Tally, float], None] = lambda _tally, _elapsed_s: None  # a few times a second
    check: Callable[[], None] = lambda: None  # as often: is what we measure still alive?
    before_end: Callable[[], None] = lambda: None  # all is received: wait here until nothing more can be sent


@contextlib.contextmanager
def _process(body: Callable[[Any, Connection], None], plan: object) -> Iterator[Connection]:
    """Start a child process, yield our end of its pipe, and end the process with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=body, args=(plan, theirs), daemon=True)
    try:
        with signals_held_back():  # cut half-way, the child would be there and nobody would know it
            process.start()
        theirs.close()  # or the end of the child would never show as the end of the pipe
        yield ours
    finally:
        ours.close()
        if process.pid is not None:
            process.join(0.5)
            if process.is_alive():
                process.kill()  # it holds nothing but its connections
                process.join()
            process.close()


def measure(
    load: Load,
    reader: object,
    hooks: MeasurementHooks,
    *,
    warmup_s: float = 0.0,
    grace_s: float = 10.0,
    trace: bool = False,
    read: Callable[[Any, Connection], None] = consume,
    tally: Tally | None = None,
) -> Measurement:
    """Produce, consume, match. `trace`: keep the moments of every timed event. `read`: the body of the consumer's
    process, which is given `reader`; `tally`: what counts.

    Events of the first `warmup_s` seconds are counted but not timed. After the last commit it waits for what is
    missing, until nothing has arrived for `grace_s` seconds: what is missing then is lost.
    Raises MeasurementFailedError, and whatever a hook raises.
    """
    with _process(read, reader) as consumer, _process(produce, load) as producer:
        return _Run(producer, consumer, hooks, tally or Tally(trace=trace)).run(warmup_s, grace_s)


class _Run:
    """The state of one measurement, written by one thread of the parent."""

    def __init__(self, producer: Connection, consumer: Connection, hooks: MeasurementHooks, tally: Tally) -> None:
        self.producer = producer
        self.consumer = consumer
        self.hooks = hooks
        self.tally = tally
        self.start_ns = 0
        self.ready = 0
        self.done: ProducerDone | None = None
        self.ended = False

    def run(self, warmup_s: float, grace_s: float) -> Measurement:
        self._until(lambda: self.ready == 2, START_TIMEOUT_S, "the producer and the consumer did not start")
        self.start_ns = time.perf_counter_ns() + LEAD_NS
        self.tally.measure_from_ns = self.start_ns + int(warmup_s * 1e9)
        self.producer.send(Start(self.start_ns))
        done = self._until_done()
        matched, quiet_since = self.tally.matched, time.monotonic()
        while self.tally.lost and time.monotonic() - quiet_since < grace_s:
            self._turn()
            if self.tally.matched != matched:
                matched, quiet_since = self.tally.matched, time.monotonic()
        self.hooks.before_end()
        self.consumer.send(Stop())
        self._until(lambda: self.ended, START_TIMEOUT_S, "the consumer did not reach the end of the stream")
        self.hooks.progress(self.tally, self._elapsed_s())
        return Measurement(self.tally, done, self.start_ns)

    def _elapsed_s(self) -> float:
        return max(0.0, (time.perf_counter_ns() - self.start_ns) / 1e9) if self.start_ns else 0.0

    def _until_done(self) -> ProducerDone:
        while self.done is None:
            self._turn()
        return self.done

    def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise MeasurementFailedError(f"{otherwise} within {timeout_s:.0f} s")
            self._turn()

    def _turn(self) -> None:
        """Take the children's messages, then call the hooks."""
        pipes = [self.consumer] if self.done else [self.producer, self.consumer]
        if self.ended:
            pipes.remove(self.consumer)
        for pipe in wait(pipes, TURN_S):
            if not isinstance(pipe, Connection):
                continue
            try:
                self._take(pipe.recv())
            except EOFError:
                name = "producer" if pipe is self.producer else "consumer"
                raise MeasurementFailedError(f"the {name} process ended before its time") from None
        self.hooks.check()
        self.hooks.progress(self.tally, self._elapsed_s())

    def _take(self, message: DemoMessage) -> None:
        match message:
            case Committed(events):
                self.tally.add_committed(events)
            case ConsumerProgress(reads):
                self.tally.add_received(reads)
            case Ready():
                self.ready += 1
            case ProducerDone():
                self.done = message
            case Ended():
                self.ended = True
            case CannotGoOn(reason):
                raise MeasurementFailedError(reason)
