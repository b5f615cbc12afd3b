"""Which consumer groups were there when Redis lost data: one that is gone since then reads nothing, and nobody says so.

A group that was destroyed on purpose is forgotten. Pure; times are Unix seconds.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from dispatcher.core.timestamps import iso_of, seconds_of

KEPT_S = 86_400.0  # a group that went, and a loss, are said for so long
TOGETHER_S = 60.0  # an audit and a sample of the groups are of the same loss: the clocks differ
MOST = 64  # groups that are remembered


@dataclass(frozen=True, slots=True)
class Loss:
    """What audits found lost last, of all streams: when, and how many rows were put back."""

    at: float
    rows: int


@dataclass(frozen=True, slots=True)
class KnownGroup:
    """A consumer group, and a key that it read. `gone`: when it was first missed after a loss; None: it is there."""

    name: str
    stream: str
    seen: float
    gone: float | None = None

    def written(self) -> dict[str, str | None]:
        """As a note has it. Of a group that is there the time of the note says when it was seen."""
        return {"name": self.name, "stream": self.stream, "gone": None if self.gone is None else iso_of(self.gone)}


def read_known(said: Any, at: float) -> tuple[KnownGroup, ...]:
    """As it was written, `at`: when. What is not understood is left out."""
    found = []
    for each in said if isinstance(said, list) else ():
        with suppress(KeyError, TypeError):
            gone = None if each["gone"] is None else seconds_of(each["gone"])
            found.append(KnownGroup(str(each["name"]), str(each["stream"]), gone or at, gone))
    return tuple(found)


def latest_loss(losses: Iterable[tuple[float, int]]) -> Loss | None:
    """Of the last loss of each stream (when, rows) those that were found together with the newest."""
    found = list(losses)
    if not found:
        return None
    at = max(each for each, _ in found)
    return Loss(at, sum(rows for when, rows in found if at - when < TOGETHER_S))


def gone_groups(known: Iterable[KnownGroup], there: Collection[str], now: float) -> list[KnownGroup]:
    """Those that went with a loss within a day and are not back, each once."""
    found = {each.name: each for each in known if each.gone is not None and now - each.gone < KEPT_S}
    return [found[name] for name in sorted(found.keys() - set(there))]


class GroupWatch:
    """What one process saw, sample after sample. `known`: what others wrote before it."""

    def __init__(self, known: Iterable[KnownGroup] = ()) -> None:
        self._known: dict[str, KnownGroup] = {}  # all written by note_seen()
        self._missed: dict[str, tuple[float, bool]] = {}  # since when, and whether the stream was emptied then
        self._length: int | None = None
        for each in sorted(known, key=lambda each: each.seen):
            self._known[each.name] = each

    def note_seen(self, there: Mapping[str, str], length: int, loss: Loss | None, now: float) -> tuple[KnownGroup, ...]:
        """`there`: a key of each group by its name; `length`: entries of all streams; `loss`: the last one."""
        emptied = self._length is not None and length < self._length / 2
        self._length = length
        for name, each in list(self._known.items()):
            if name in there:
                self._missed.pop(name, None)
            elif each.gone is not None:
                if now - each.gone >= KEPT_S:
                    del self._known[name]
            else:
                since, with_stream = self._missed.setdefault(name, (now, emptied))
                lost = loss is not None and each.seen - TOGETHER_S <= loss.at <= since + TOGETHER_S
                if with_stream or lost:
                    self._known[name] = replace(each, gone=since)
                elif now - since >= TOGETHER_S:  # destroyed by a person
                    del self._known[name], self._missed[name]
        for name in sorted(there):
            if name in self._known or len(self._known) < MOST:
                self._known[name] = KnownGroup(name, there[name], now)
        return tuple(each for name, each in self._known.items() if each.gone is not None or name not in self._missed)
