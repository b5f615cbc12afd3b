"""Events of the life of the process and of its workers."""

from dataclasses import dataclass

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent, TroubleChange


@dataclass(frozen=True, slots=True)
class Started(TelemetryEvent):
    """The service is up: everything is open that could be opened. `stream_maxlen`: as it was configured.

    `handlers`: the event types that go to a Python function.
    """

    name: str
    enabled: bool
    stream_maxlen: int | None = None
    handlers: tuple[str, ...] = ()

    def line(self) -> LogLine:
        text = "Started"
        fields: Fields = {"dispatcher": self.name, "enabled": self.enabled}
        if not self.enabled:
            text += "; takes no row: DISPATCHER_ENABLED is false; set it to true, or give --enabled"
        if self.handlers:
            fields["handlers"] = list(self.handlers)
        return LogLine("INFO", "dispatcher_started", text, fields)


@dataclass(frozen=True, slots=True)
class SidecarUp(TelemetryEvent):
    """Probes, metrics, API and console are served. `port`: the one that was bound, when 0 was asked for.

    `probe_port`: where probes are answered besides, when they have a port of their own.
    """

    host: str
    port: int
    probe_port: int | None = None

    def line(self) -> LogLine:
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        text = f"The sidecar listens: http://{address}/"
        fields: Fields = {"host": self.host, "port": self.port}
        if self.probe_port is not None:
            text += f"; probes also at port {self.probe_port}"
            fields["probe_port"] = self.probe_port
        return LogLine("INFO", "sidecar_up", text, fields)


@dataclass(frozen=True, slots=True)
class WorkerStarted(TelemetryEvent):
    """The supervisor started a worker. `running`: the number of workers now."""

    worker: str
    running: int

    def line(self) -> LogLine:
        return LogLine("INFO", "worker_started", "A worker was started", {"started": self.worker})


@dataclass(frozen=True, slots=True)
class WorkerEnded(TelemetryEvent):
    """A worker ended. `code`: its exit code, or minus a signal; `again_in_s`: until it is replaced, None: never."""

    worker: str
    code: int
    running: int
    again_in_s: float | None

    def line(self) -> LogLine:
        fields: Fields = {"ended": self.worker, "code": self.code}
        if self.again_in_s is None:
            return LogLine("INFO", "worker_ended", "A worker ended", fields)
        fields["again_in_s"] = round(self.again_in_s, 3)
        return LogLine("WARNING", "worker_ended", "A worker ended; another takes its place", fields)


@dataclass(frozen=True, slots=True)
class WorkerStuck(TelemetryEvent):
    """A worker that should report every second has been silent for so long that it is killed."""

    worker: str
    silent_s: float

    def line(self) -> LogLine:
        text = "A worker says nothing any more: its loop is stuck, or it is frozen; it is killed"
        return LogLine("ERROR", "worker_stuck", text, {"stuck": self.worker, "silent_s": round(self.silent_s, 1)})


@dataclass(frozen=True, slots=True)
class SpansDropped(TelemetryEvent):
    """Spans of traces that were not exported. `reason`: the class of the error, or words of ours."""

    spans: int
    reason: str

    def line(self) -> LogLine:
        text = "Spans were not exported; events go out as before"
        fields: Fields = {"spans": self.spans, "reason": self.reason}
        return LogLine("WARNING", "spans_dropped", text, fields, f"spans {self.reason}")


@dataclass(frozen=True, slots=True)
class Stopping(TelemetryEvent):
    """A stop began: nothing new is claimed. `reason`: the signal, or what asked for it."""

    reason: str

    def line(self) -> LogLine:
        return LogLine("INFO", "dispatcher_stopping", "Stopping: nothing new is taken", {"reason": self.reason})

    def trouble(self) -> TroubleChange:
        return TroubleChange("stopping", self.reason, there=True)


@dataclass(frozen=True, slots=True)
class Stopped(TelemetryEvent):
    """Everything is closed. `released`: rows claimed for handlers that were released at the end.

    `cut_short`: why it did not wait for what was in flight; None: nothing was.
    """

    released: int
    cut_short: str | None = None

    def line(self) -> LogLine:
        fields: Fields = {"given_back": self.released}
        if self.cut_short is None:
            return LogLine("INFO", "dispatcher_stopped", "Stopped", fields)
        text = "Ended at once, without signing off: another dispatcher takes over what was in flight"
        return LogLine("WARNING", "dispatcher_stopped", text, fields | {"reason": self.cut_short})
