"""What happens, as typed values: production turns them into metrics and log lines, tests wait for them."""

from collections.abc import Callable

from dispatcher.core.events.guarding import (
    AuditChanged,
    BackpressureBlind,
    BackpressureChanged,
    BreakerChanged,
    CrashAudited,
    DatabaseChanged,
    ListenerChanged,
    NotificationQueueChanged,
    PauseChanged,
    Reconciled,
    Republished,
    TakenOver,
)
from dispatcher.core.events.relaying import (
    Buried,
    Claimed,
    ClosedConnection,
    DeadRetried,
    Handled,
    InHand,
    Published,
    Settled,
    Slept,
    StuckHandlers,
    Ticked,
    WakeCause,
    Woke,
)
from dispatcher.core.events.running import (
    Pruned,
    PruneRefused,
    Sampled,
    SidecarUp,
    Started,
    Stopped,
    Stopping,
    Surveyed,
    WorkerEnded,
    WorkerStarted,
    WorkerStuck,
)

__all__ = [
    "AuditChanged",
    "BackpressureBlind",
    "BackpressureChanged",
    "BreakerChanged",
    "Buried",
    "Claimed",
    "ClosedConnection",
    "CrashAudited",
    "DatabaseChanged",
    "DeadRetried",
    "Handled",
    "InHand",
    "ListenerChanged",
    "NotificationQueueChanged",
    "Observer",
    "PauseChanged",
    "PruneRefused",
    "Pruned",
    "Published",
    "Reconciled",
    "Republished",
    "Sampled",
    "Settled",
    "SidecarUp",
    "Slept",
    "Started",
    "Stopped",
    "Stopping",
    "StuckHandlers",
    "Surveyed",
    "TakenOver",
    "TelemetryEvent",
    "Ticked",
    "WakeCause",
    "Woke",
    "WorkerEnded",
    "WorkerStarted",
    "WorkerStuck",
    "fan_out",
]

TelemetryEvent = (
    Started
    | SidecarUp
    | Woke
    | Slept
    | Ticked
    | Claimed
    | Published
    | Handled
    | InHand
    | StuckHandlers
    | Settled
    | Buried
    | ClosedConnection
    | DeadRetried
    | TakenOver
    | Reconciled
    | Republished
    | CrashAudited
    | AuditChanged
    | BackpressureChanged
    | BackpressureBlind
    | PauseChanged
    | BreakerChanged
    | ListenerChanged
    | NotificationQueueChanged
    | DatabaseChanged
    | Sampled
    | Surveyed
    | Pruned
    | PruneRefused
    | WorkerStarted
    | WorkerEnded
    | WorkerStuck
    | Stopping
    | Stopped
)
Observer = Callable[[TelemetryEvent], None]


def fan_out(*observers: Observer) -> Observer:
    """One observer that passes each event to all of these, in order."""

    def observe(event: TelemetryEvent) -> None:
        for observer in observers:
            observer(event)

    return observe
