"""What a process and its descendants have used: processor time and memory, from /proc (Linux)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """The process and its living descendants."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            yield pid
            for task in tasks:
                waiting.extend(map(int, (task / "children").read_text().split()))


def cpu_seconds(pid: int) -> float:
    """Processor time of the family so far, of members that ended too."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # user, system, and the same of children that were waited for
    return total / _TICKS


def memory_bytes(pid: int, *, peak: bool = False) -> int:
    """Resident memory of the largest member of the family, now or at its peak."""
    name = "VmHWM:" if peak else "VmRSS:"
    sizes = [0]
    for member in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
            sizes += [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]
    return max(sizes)
