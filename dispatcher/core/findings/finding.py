"""A finding of `dispatcher doctor`: one value a check, for people and for machines.

What `status` and the console say needs somebody is in `core/findings/needs.py`, which has levels of its own.
"""

from dataclasses import dataclass
from typing import Literal

from dispatcher.core.findings.needs import BY_LEVEL, When
from dispatcher.core.findings.troubles import Severity

Level = Literal["ok", "warning", "bad", "unknown"]
# The same thing has the same level and urgency in `status` and the console.
LEVEL_OF: dict[Severity, Level] = {"bad": "bad", "warn": "warning", "note": "ok", "fine": "ok"}
UNASKED: dict[Level, When] = {"unknown": "no"}
_BY_LEVEL: dict[Level, When] = {LEVEL_OF[level]: when for level, when in BY_LEVEL.items()} | UNASKED
# How servers are set up: at a cost that was accepted once, and that is the same tomorrow.
SETUP = frozenset(
    {"fsync", "redis-persistence", "redis-replicas", "cluster-replicas", "cluster-spread", "storage", "durability"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer. `found` is a fact in plain words; `remedy` what to do, None when there is nothing to do.
    `page`: of the runbook, where it is another one than that of the check.

    `level`: "warning": works, and will cost something; "bad": events are late, stopped or at risk; "unknown": could not
    be asked. `needs_somebody`: by the level, unless it is given.
    """

    check: str
    level: Level
    found: str
    remedy: str | None = None
    page: str | None = None
    needs_somebody: When | None = None

    def __post_init__(self) -> None:
        if self.needs_somebody is None:
            object.__setattr__(
                self,
                "needs_somebody",
                "no" if self.level == "warning" and self.check in SETUP else _BY_LEVEL[self.level],
            )


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "warning", found, remedy)


def bad(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "bad", found, remedy)


def unknown(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "unknown", found, remedy)
