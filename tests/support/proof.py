"""The verdict of `dispatcher prove` on a busy machine: its latency alone may be against it."""

from collections.abc import Sequence


def is_proven(code: int, reasons: Sequence[str]) -> bool:
    """Whether nothing is against it but its latency, if anything is, and the exit code says so."""
    return code == (1 if reasons else 0) and all(reason.startswith("p95 is ") for reason in reasons)
