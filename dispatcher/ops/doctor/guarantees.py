"""Which guarantees hold on these servers, and which finding takes one away.

The names are the anchors of docs/explanation/proofs.md. A guarantee rests on checks: what one of them finds is what
the guarantee loses here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dispatcher.core.findings.finding import Finding, Level

Holds = Literal["yes", "at a cost", "no", "not known"]
_HOLDS: dict[Level, Holds] = {"ok": "yes", "warning": "at a cost", "unknown": "not known", "bad": "no"}
_WORST_LAST: tuple[Holds, ...] = ("yes", "at a cost", "not known", "no")

_PUBLISHING = ("postgres", "primary", "tables", "rights", "layout", "redis", "redis-entries", "stream")
# Where no event goes to a stream, Redis is not checked and these guarantees are not given.
OF_THE_STREAM = frozenset({"one-entry", "redis-outage", "lost-reply", "redis-loss", "trimming"})


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What is promised, in one sentence, and the checks that it rests on."""

    name: str
    says: str
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JudgedGuarantee:
    """Whether a guarantee holds here. `because`: the checks that are not ok, or could not be made."""

    name: str
    says: str
    holds: Holds
    because: tuple[str, ...]


GUARANTEES = (
    Guarantee(
        "one-entry",
        "a committed event becomes one entry of the stream",
        (*_PUBLISHING, "try-insert", "try-claim", "try-settle-sent", "durability", "fsync"),
    ),
    Guarantee(
        "wake", "a commit wakes a sleeping dispatcher at once", ("postgres", "listen", "trigger", "notify-queue")
    ),
    Guarantee("due", "a delayed event and a retry go out when they are due", ("postgres", "tables", "indexes")),
    Guarantee(
        "own-failure",
        "an event that fails for its own sake becomes a dead letter",
        ("tables", "rights", "try-settle-retry", "try-bury"),
    ),
    Guarantee("redis-outage", "an outage of Redis costs no event an attempt", ("redis", "redis-memory")),
    Guarantee("lost-reply", "after a lost reply nothing is lost and nothing doubled", ("redis", "redis-rights")),
    Guarantee(
        "killed",
        "the rows of a dispatcher that died are finished by another",
        ("postgres", "listen", "try-take-over", "try-fence", "redis-rights"),
    ),
    Guarantee(
        "frozen", "a dispatcher that froze doubles nothing when it thaws", ("listen", "try-fence", "redis-rights")
    ),
    Guarantee(
        "postgres-crash",
        "after a crash of Postgres nothing is doubled",
        ("tables", "durability", "try-note-newest", "redis-rights"),
    ),
    Guarantee(
        "redis-loss",
        "what Redis acknowledged and lost is published again",
        (
            *("try-audit", "redis", "redis-version", "redis-rights"),
            *("redis-identity", "redis-memory", "redis-persistence", "redis-replicas"),
        ),
    ),
    Guarantee(
        "trimming",
        "no consumer group loses unread entries to trimming",
        ("redis", "redis-version", "redis-rights", "redis-memory", "groups"),
    ),
    Guarantee("one-owner", "each row is claimed by one dispatcher", ("tables", "rights", "home")),
    Guarantee(
        "retention", "old rows are deleted", ("tables", "rights", "try-prune", "autovacuum", "dead-rows", "snapshot")
    ),
)


def judge(findings: Iterable[Finding], *, stream: bool) -> list[JudgedGuarantee]:
    """Each guarantee, with what takes it away. `stream`: whether any event goes to the stream."""
    levels: dict[str, Level] = {}
    for finding in findings:  # of several findings of one check the worst counts
        known = levels.get(finding.check)
        if known is None or _worst(known, finding.level) == finding.level:
            levels[finding.check] = finding.level
    for server, first in (("postgres", "tables"), ("redis", "redis-entries")):
        if levels.get(server) == "bad" and first not in levels:  # it is away: nothing is known of what it keeps
            levels[server] = "unknown"
    wanted = (each for each in GUARANTEES if stream or each.name not in OF_THE_STREAM)
    return [_judged(each, levels, stream) for each in wanted]


def _judged(guarantee: Guarantee, levels: Mapping[str, Level], stream: bool) -> JudgedGuarantee:
    checks = [name for name in guarantee.checks if stream or not name.startswith("redis")]
    found = {name: _HOLDS[levels.get(name, "unknown")] for name in checks}  # not made: another check forbade it
    worst = max(found.values(), key=_WORST_LAST.index)
    because = tuple(name for name, holds in found.items() if holds != "yes")
    return JudgedGuarantee(guarantee.name, guarantee.says, worst, because)


def _worst(one: Level, other: Level) -> Level:
    return max(one, other, key=lambda level: _WORST_LAST.index(_HOLDS[level]))
