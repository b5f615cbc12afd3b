"""What a worker tells its supervisor about once a second: everything that one sidecar for all needs to know of it."""

from dataclasses import dataclass

from dispatcher.core.process_state import ProcessState

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its series: name of the sample, labels, value."""

    name: str
    documentation: str
    type: str
    samples: tuple[tuple[str, Labels, float], ...]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One process at one moment. `not_ready`: the reason in words; None: it is ready."""

    not_ready: str | None
    reading: ProcessState
    families: tuple[Family, ...]
