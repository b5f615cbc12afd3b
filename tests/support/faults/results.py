"""What each fault measured, kept as JSON lines, so that a table can be made of it."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measured:
    """One fault. Times in seconds after its heal (or after the kill)."""

    fault: str
    test: str
    committed: int
    missing: int
    doubled: int
    dead: int
    first_s: float | None  # until the first entry
    caught_up_s: float | None  # until the last event committed before the heal was in the stream
    recovered_s: float | None  # until new events were at p95 < 1.5 s again, for good
    p95_s: float | None  # of the events committed after that
    held_s: float  # the longest a claim was held after the heal
    disordered: int | None = None  # events behind a later one of their aggregate; None: no order is kept

    def line(self) -> str:
        """For the terminal."""
        return (
            f"{self.fault}: {self.committed} events, {self.missing} missing, {self.doubled} doubled, {self.dead} dead, "
            f"out of order: {'-' if self.disordered is None else self.disordered}; "
            f"first entry after {_s(self.first_s)}, caught up after {_s(self.caught_up_s)}, "
            f"p95 < 1.5 s after {_s(self.recovered_s)} (p95 then {_s(self.p95_s)}), longest claim {_s(self.held_s)}"
        )

    def cells(self) -> tuple[str, ...]:
        """For the table of docs/explanation/faults.md."""
        times = _s(self.first_s), _s(self.caught_up_s), _s(self.recovered_s)
        disordered = "-" if self.disordered is None else str(self.disordered)
        return f"{self.committed:,}", str(self.missing), str(self.doubled), disordered, *times


def results_file() -> Path:
    """Where they are kept: FAULTS_RESULTS, or a file in the folder for temporary files."""
    return Path(os.environ.get("FAULTS_RESULTS") or Path(tempfile.gettempdir()) / "dispatcher-faults.jsonl")


def keep(measured: Measured) -> None:
    """Add one."""
    with results_file().open("a") as file:
        file.write(json.dumps(asdict(measured)) + "\n")


def read() -> list[Measured]:
    """The latest of each fault."""
    latest: dict[str, Measured] = {}
    if results_file().exists():
        for line in results_file().read_text().splitlines():
            measured = Measured(**json.loads(line))
            latest[measured.fault] = measured
    return list(latest.values())


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
