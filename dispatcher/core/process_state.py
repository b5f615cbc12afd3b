"""What one dispatcher process knows of itself at one moment, as a plain value: the sum of several is one of them too.

`telemetry/state.py` makes it of events, the sidecar draws and judges it. With several processes each makes its own and
`merged` adds them up: counts are summed, troubles stand side by side, the newest look at the servers counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dispatcher.core.latencies import Latencies, summed

TroubleKind = Literal[
    "starting", "stopping", "disabled", "paused", "database", "redis", "backpressure", "listener", "audit"
]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as usual. `since`: Unix seconds. `reason`: class and code, or a name; no payload."""

    kind: TroubleKind
    reason: str | None
    since: float
    of: int = 1  # so many processes have it


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the servers. `at`: Unix seconds. Ages in seconds; None: the server did not answer."""

    at: float
    backlog: int | None
    oldest_age_s: float | None
    stream_length: int | None
    group_lag: dict[str, int]
    dead: int = 0  # counted up to a bound, and when the newest died
    newest_dead_at: float | None = None


@dataclass(frozen=True, slots=True)
class RunningDispatcher:
    """A dispatcher that holds its lock in the registry. `started_at`: Unix seconds."""

    name: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: float


@dataclass(frozen=True, slots=True)
class DispatcherList:
    """Who runs, on all hosts. Looked up only while somebody watches. `at`: Unix seconds."""

    at: float
    dispatchers: tuple[RunningDispatcher, ...]


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Counts since the start and the state now, of one process or of several. Times are Unix seconds."""

    names: tuple[str, ...]
    started_at: float
    latency: Latencies
    published: int = 0
    failed: int = 0
    dead: int = 0
    ticks: int = 0
    tick_errors: int = 0
    buried_at: float | None = None  # when rows were buried last, and for what
    buried_error: str | None = None
    troubles: tuple[Trouble, ...] = ()
    sample: Sample | None = None
    survey: DispatcherList | None = None
    processes: int = 1


def merged(readings: Sequence[ProcessState]) -> ProcessState:
    """Several processes of one host as one; there must be one at least."""
    if len(readings) == 1:
        return readings[0]
    last_buried = max(readings, key=lambda one: one.buried_at or 0.0)
    samples = [one.sample for one in readings if one.sample is not None]
    surveys = [one.survey for one in readings if one.survey is not None]
    return ProcessState(
        names=tuple(name for one in readings for name in one.names),
        started_at=min(one.started_at for one in readings),
        latency=summed(one.latency for one in readings),
        published=sum(one.published for one in readings),
        failed=sum(one.failed for one in readings),
        dead=sum(one.dead for one in readings),
        ticks=sum(one.ticks for one in readings),
        tick_errors=sum(one.tick_errors for one in readings),
        buried_at=last_buried.buried_at,
        buried_error=last_buried.buried_error,
        troubles=_side_by_side(readings),
        sample=max(samples, key=lambda one: one.at, default=None),
        survey=max(surveys, key=lambda one: one.at, default=None),
        processes=sum(one.processes for one in readings),
    )


def _side_by_side(readings: Sequence[ProcessState]) -> tuple[Trouble, ...]:
    """One of each kind, since the first process had it, with the number of those that have it."""
    found: dict[TroubleKind, Trouble] = {}
    for trouble in sorted((each for one in readings for each in one.troubles), key=lambda each: each.since):
        first = found.get(trouble.kind)
        found[trouble.kind] = replace(first, of=first.of + trouble.of) if first else trouble
    return tuple(found.values())
