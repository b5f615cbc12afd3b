"""Which finding is the cause of another, for console, `status` and `doctor`: one finding, as bad as both. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from dispatcher.core.findings.needs import Need, ranked, without_explained

LATE = ("late", "slow", "catching-up")
UNHEARD = ("listener", "doorbell", "notify-queue")  # with one of these events go out on the tick


def judged(found: Sequence[Need]) -> list[Need]:
    """Without what another finding explains, the cause with what comes of it, the worst first."""
    return ranked(_with_handlers(_with_unheard(_with_snapshot(without_explained(found)))))


def _with_snapshot(found: list[Need]) -> list[Need]:
    """Events that wait while somebody holds an old snapshot: that does not pass by itself, it grows."""
    cause = next((each for each in found if each.kind == "snapshot"), None)
    if cause is None:
        return found
    late = [each for each in found if each.kind in LATE and each.level != "note"]
    if not late:  # a transaction of seconds is no news
        return [each for each in found if each is not cause or each.level != "note"]
    both = replace(cause, level="bad", what=". ".join([cause.what, *(each.what for each in late)]))
    return [both if each is cause else each for each in found if each not in late]


def _with_handlers(found: list[Need]) -> list[Need]:
    """While too many are stuck nothing is tried again: that waits for somebody as the handlers do."""
    if not any(each.kind == "handlers" for each in found):
        return found
    return [replace(each, level="bad") if each.kind == "retrying" else each for each in found]


def _with_unheard(found: list[Need]) -> list[Need]:
    """Where writers cannot wake the dispatcher, that is why events are late."""
    slow = next((each for each in found if each.kind == "slow" and each.level == "bad"), None)
    cause = next((each for each in found if each.kind in UNHEARD and each.level != "note"), None)
    if slow is None or cause is None:
        return found
    both = replace(cause, level="bad", what=f"{cause.what}. {slow.what}")
    return [both if each is cause else each for each in found if each is not slow]
