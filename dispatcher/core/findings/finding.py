"""A finding of `dispatcher doctor`: one value a check, for people and for machines.

What `status` and the console say needs somebody is in `core/findings/needs.py`, which has levels of its own.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer. `found` is a fact in plain words; `remedy` what to do, None when there is nothing to do.
    `page`: of the runbook, where it is another one than that of the check.

    `level`: "warning": works, and will cost something; "bad": events are late, stopped or at risk; "unknown": could not
    be asked.
    """

    check: str
    level: Level
    found: str
    remedy: str | None = None
    page: str | None = None


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "warning", found, remedy)


def bad(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "bad", found, remedy)


def unknown(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "unknown", found, remedy)
