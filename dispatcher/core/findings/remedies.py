"""The commands that a finding names for dead events and held aggregates: whole, so that they can be copied. Pure."""

import re
from collections.abc import Sequence
from shlex import quote

from dispatcher.core.process_state import DeadGroups

GIVE_RIGHTS = "as the owner run `dispatcher sql roles | psql OWNER_URL`; grant this role outbox_dispatcher"
TOO_LARGE = "bytes, DISPATCH_MAX_PAYLOAD_BYTES allows"
GIVEN_UP = "Dead:"  # how the error begins where a handler said that no retry can help
TRY_ONE = "If {} may be over already, try one first: `dispatcher dlq retry ID`"
LONGEST = 200  # characters of an option that is shown
RAISE = (
    "Retrying does not help until the limit is raised: set DISPATCH_MAX_PAYLOAD_BYTES above {}, "
    "restart the dispatchers, then"
)


def of_group(code: str | None) -> str | None:
    """The option of `dispatcher dlq` that chooses a group of errors; None: it is too long to be shown."""
    option = "--error ''" if code is None else f"--error-code {_quoted(code)}"
    return option if len(option) <= LONGEST and option.isprintable() and "`" not in option else None


def _quoted(text: str) -> str:
    """For a shell. In double quotes where single ones would be hard to read, and nothing in it is special there."""
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else quote(text)


def before_retry(code: str | None, figures: Sequence[Sequence[int]]) -> str:
    """What comes before the retry of a group of errors. `figures`: least and greatest of those that differ."""
    if code is not None and code.startswith(GIVEN_UP):
        return "Their handler said that no retry helps; if that is over,"
    if code is None or TOO_LARGE not in code:
        return "Mend the cause, then"
    return RAISE.format(str(figures[0][1]) if figures else "the size that its events say")


def dead_do(groups: DeadGroups | None) -> str:
    """What to do about dead events: about those of the largest group, when it is known."""
    which = (of_group(groups.code) if groups else None) or "ID"
    alike = groups is not None and groups.errors == 1
    retry = f"`dispatcher dlq retry {which}`"
    do = f"Mend the cause, then {retry}. {TRY_ONE.format('it')}."
    if groups is not None and (size := _too_large(groups.error)):
        do = f"{RAISE.format(groups.greatest or size)} {retry}."
    do += f" What nobody needs: `dispatcher dlq discard {which} --reason 'WHY'`."
    return do if alike else f"{do} Each error and its commands: `dispatcher dlq stats`."


def held_do(head: int, error: str | None) -> str:
    """What to do about the event that holds an aggregate."""
    size, retry = _too_large(error), f"`dispatcher held retry {head}`."
    do = f"{RAISE.format(size)} {retry}" if size else f"Mend the cause, then {retry}"
    return f"{do} Or `dispatcher held skip {head} --reason 'WHY'`, and the later ones go out without it."


def _too_large(error: str | None) -> str | None:
    """The size, where the error says that the event is larger than is allowed."""
    found = re.search(rf"(\d+) {TOO_LARGE}", error or "")
    return found and found[1]
