"""What a dispatcher says of itself in Postgres, for those who ask from outside: settings, and what it waits for.

A command must not guess them from its own environment. It is written with the acknowledgement of the pause, when it
changes and every few seconds.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from dispatcher.core.findings.troubles import TROUBLES, remedy, words
from dispatcher.core.known_groups import KnownGroup, read_known
from dispatcher.core.process_state import EndedDispatcher, PastTrouble, Trouble, TroubleKind
from dispatcher.core.timestamps import iso_of, seconds_of

NOTE_EVERY_S = 6.0  # each dispatcher writes it so often; pause_progress.sql takes one for alive that wrote within 15 s

_TOLD: dict[str, TroubleKind] = {kind: kind for kind, about in TROUBLES.items() if about.told}
_STOPS: dict[str, TroubleKind] = {kind: kind for kind, about in TROUBLES.items() if about.stops}


def holds_up(kind: str) -> bool:
    """Whether events, or some of them, do not go out because of a trouble that is told."""
    return kind in _TOLD and TROUBLES[_TOLD[kind]].holds_up


def is_exempt(group: str, patterns: Sequence[str]) -> bool:
    """Whether a consumer group holds nothing back: `DISPATCH_BACKPRESSURE_EXCEPT`, with * ? [abc] as in file names."""
    return any(fnmatchcase(group, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class ToldTrouble:
    """One trouble, as the dispatcher tells it. `since`: RFC 3339."""

    kind: str
    reason: str | None
    since: str

    @property
    def what(self) -> str:
        """In plain words. A kind that this release does not know keeps its name."""
        known = _TOLD.get(self.kind)
        return words(known, self.reason) if known else f"{self.kind}: {self.reason}"

    @property
    def do(self) -> str:
        known = _TOLD.get(self.kind)
        return remedy(known, self.reason) if known else "See the log of the dispatcher."

    @property
    def looked_up(self) -> bool:
        """Whether who asks from outside sees it anyway: then only since when it is there is new."""
        return self.kind in _TOLD and TROUBLES[_TOLD[self.kind]].looked_up


@dataclass(frozen=True, slots=True)
class Condition:
    """Settings of a dispatcher that matter to others, and its troubles, the first one first."""

    stream: str | None = None
    maxlen: int | None = None
    max_attempts: int | None = None
    exempt: tuple[str, ...] = ()  # patterns of consumer groups that hold nothing back
    told: tuple[ToldTrouble, ...] = ()
    past: PastTrouble | None = None  # the last outage or pause that ended
    ended: tuple[EndedDispatcher, ...] = ()  # that it took over from
    groups: tuple[KnownGroup, ...] = ()  # that it saw, and those that went with a loss
    sent: tuple[int, float | None] | None = None  # events since its start, seconds since the last; None: not told
    tick_s: float | None = None  # DISPATCH_TICK_MS: so often it looks for events that nobody rang for

    @property
    def stops(self) -> tuple[ToldTrouble, ...]:
        """Those because of which events do not go out."""
        return tuple(each for each in self.told if holds_up(each.kind))

    def with_troubles(
        self,
        troubles: Sequence[Trouble],
        past: PastTrouble | None = None,
        groups: Sequence[KnownGroup] = (),
        ended: Sequence[EndedDispatcher] = (),
    ) -> str:
        """As it is written: JSON."""
        said = [
            {"kind": each.kind, "reason": each.reason, "since": iso_of(each.since)}
            for each in sorted(troubles, key=lambda each: each.since)
            if each.kind in _TOLD
        ]
        return json.dumps(
            {
                "stream": self.stream,
                "maxlen": self.maxlen,
                "max_attempts": self.max_attempts,
                "tick_s": self.tick_s,
                "exempt": self.exempt,
                "waits": said,
                "past": past
                and {
                    "kind": past.kind,
                    "since": iso_of(past.since),
                    "until": iso_of(past.until),
                    "reason": past.reason,
                },
                "ended": [asdict(each) | {"at": iso_of(each.at)} for each in ended],
                "groups": [each.written() for each in groups],
            }
        )

    @classmethod
    def read(cls, said: Mapping[str, Any] | None, at: float = 0.0) -> "Condition":
        """As it was written, perhaps by another release: what is missing or not understood is left out.

        `at`: when, in Unix seconds.
        """
        if not isinstance(said, Mapping):
            return cls()
        told = tuple(
            ToldTrouble(str(each["kind"]), each.get("reason"), str(each.get("since")))
            for each in said.get("waits", ())
            if isinstance(each, Mapping) and "kind" in each
        )
        return cls(
            said.get("stream"),
            said.get("maxlen"),
            said.get("max_attempts"),
            tuple(said.get("exempt", ())),
            told,
            _past(said.get("past")),
            _ended(said.get("ended")),
            read_known(said.get("groups"), at),
            _sent(said.get("sent")),
            said.get("tick_s"),
        )


def _ended(said: Any) -> tuple[EndedDispatcher, ...]:
    found = []
    for each in said if isinstance(said, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            if (at := seconds_of(each["at"])) is not None:
                found.append(EndedDispatcher(str(each["name"]), at, int(each["rows"]), bool(each["died"])))
    return tuple(found)


def _sent(said: Any) -> tuple[int, float | None] | None:
    with suppress(KeyError, TypeError, ValueError):
        return int(said["events"]), None if said["quiet_s"] is None else float(said["quiet_s"])
    return None


def _past(said: Any) -> PastTrouble | None:
    with suppress(KeyError, TypeError, ValueError):
        kind = _STOPS[said["kind"]]
        since, until = seconds_of(said["since"]), seconds_of(said["until"])
        return None if since is None or until is None else PastTrouble(kind, since, until, said.get("reason"))
    return None
