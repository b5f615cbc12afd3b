"""Events of the life of the process and of its workers."""

from dataclasses import dataclass

from dispatcher.core.events.base import TelemetryEvent


@dataclass(frozen=True, slots=True)
class Started(TelemetryEvent):
    """The service is up: everything is open that could be opened. `stream_maxlen`: as it was configured.

    `handlers`: the event types that go to a Python function.
    """

    name: str
    enabled: bool
    stream_maxlen: int | None = None
    handlers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SidecarUp(TelemetryEvent):
    """Probes, metrics, API and console are served. `port`: the one that was bound, when 0 was asked for.

    `probe_port`: where probes are answered besides, when they have a port of their own.
    """

    host: str
    port: int
    probe_port: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerStarted(TelemetryEvent):
    """The supervisor started a worker. `running`: the number of workers now."""

    worker: str
    running: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(TelemetryEvent):
    """A worker ended. `code`: its exit code, or minus a signal; `again_in_s`: until it is replaced, None: never."""

    worker: str
    code: int
    running: int
    again_in_s: float | None


@dataclass(frozen=True, slots=True)
class WorkerStuck(TelemetryEvent):
    """A worker that should report every second has been silent for so long that it is killed."""

    worker: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class SpansDropped(TelemetryEvent):
    """Spans of traces that were not exported. `reason`: the class of the error, or words of ours."""

    spans: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stopping(TelemetryEvent):
    """A stop began: nothing new is claimed. `reason`: the signal, or what asked for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped(TelemetryEvent):
    """Everything is closed. `released`: rows claimed for handlers that were released at the end."""

    released: int
