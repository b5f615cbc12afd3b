"""Events of what runs beside the relay: takeover, audits, gauges and retention."""

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent, TroubleChange
from dispatcher.core.process_state import Sample


@dataclass(frozen=True, slots=True)
class TakenOver(TelemetryEvent):
    """This dispatcher took over rows of a dispatcher that died (perhaps it had none) or froze.

    Emitted before the stream is searched for the rows: some turn out to be sent. Reconciled follows, with both numbers.
    """

    rows: int
    owner: str
    died: bool = False  # its lock was free: it ended without signing off

    def line(self) -> LogLine:
        text = "Rows of a dispatcher that died or froze were taken over"
        if not self.rows:
            text = "A dispatcher ended without signing off; it had no rows"
        return LogLine("WARNING", "claims_taken_over", text, {"rows": self.rows, "owner": self.owner})


@dataclass(frozen=True, slots=True)
class Reconciled(TelemetryEvent):
    """The stream was searched for rows of unknown outcome. `found`: sent after all; `missing`: released."""

    found: int
    missing: int

    def line(self) -> LogLine:
        text = "Rows whose reply was lost, or that were taken over, were looked for in the stream"
        return LogLine("INFO", "replies_reconciled", text, {"found": self.found, "missing": self.missing})


@dataclass(frozen=True, slots=True)
class Republished(TelemetryEvent):
    """The incarnation of Redis changed: rows whose entries it lost, perhaps none, were put back.

    `same_server`: it did not change, and the stream in it lost its end.
    """

    rows: int
    why: str
    same_server: bool = False

    def line(self) -> LogLine:
        fields: Fields = {"rows": self.rows, "why": self.why}
        if self.same_server:
            text = "Entries are gone from the stream though Redis ran on; their rows are published again"
            return LogLine("WARNING", "stream_audited", text, fields)
        if not self.rows:
            text = "Another incarnation of Redis holds the stream; it lost none"
            return LogLine("INFO", "stream_audited", text, {"why": self.why})
        text = "Another incarnation of Redis holds the stream; rows whose entries it lost are published again"
        return LogLine("WARNING", "stream_audited", text, fields)


@dataclass(frozen=True, slots=True)
class CrashAudited(TelemetryEvent):
    """Postgres crashed, failed over or was restored, and the stream was searched for rows that it had forgotten."""

    found: int
    looked_at: int  # entries

    def line(self) -> LogLine:
        text = "Postgres crashed, failed over or was restored; rows found in the stream are sent, claiming goes on"
        fields: Fields = {"found": self.found, "looked_at": self.looked_at}
        return LogLine("WARNING", "postgres_crash_audited", text, fields)


@dataclass(frozen=True, slots=True)
class AuditChanged(TelemetryEvent):
    """Whether a loss of entries in Redis can be noticed."""

    on: bool
    reason: str | None

    def line(self) -> LogLine:
        if self.on:
            return LogLine("INFO", "stream_audit_on", "Entries that Redis loses will be published again", {})
        text = "Entries that Redis loses will not be noticed"
        return LogLine("WARNING", "stream_audit_off", text, {"reason": self.reason})

    def trouble(self) -> TroubleChange:
        return TroubleChange("audit", self.reason, there=not self.on)


@dataclass(frozen=True, slots=True)
class Sampled(Sample, TelemetryEvent):
    """What Postgres and Redis hold now: read every few seconds. Who keeps it notes `at`."""

    detailed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Pruned(TelemetryEvent):
    """Retention deleted so many settled rows and dead-letter copies, perhaps none. `more`: another batch follows."""

    outbox: int
    dlq: int
    more: bool = False

    def line(self) -> LogLine:
        fields: Fields = {"message_outbox": self.outbox, "message_dlq": self.dlq}
        return LogLine("INFO", "outbox_pruned", "Deleted what was older than is kept", fields)


@dataclass(frozen=True, slots=True)
class PruneRefused(TelemetryEvent):
    """Postgres refused to prune: a right, a lock or a timeout. Emitted once for the same reason."""

    reason: str

    def line(self) -> LogLine:
        text = "Postgres refused to delete what is too old"
        return LogLine("WARNING", "prune_refused", text, {"reason": self.reason})
