"""What a sample tells of the streams and of their groups, made of what was read of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.findings.condition import is_exempt
from dispatcher.core.process_state import StreamSample
from dispatcher.infra.redis.info import GroupInfo, StreamInfo, summed
from dispatcher.infra.redis.streams import SeenStreams


@dataclass(slots=True)
class StreamFigures:
    """What was read of the streams, as `Sample` has it. `length` None: of one nothing is known, and a sum of the others
    would look like all.
    """

    length: int | None = None
    each: list[StreamSample] = field(default_factory=list)
    group_lag: dict[str, int] = field(default_factory=dict)
    group_read_age_s: dict[str, float] = field(default_factory=dict)
    group_dead: Counter[str] = field(default_factory=Counter)
    group_reader: dict[str, str] = field(default_factory=dict)
    group_put_away: dict[str, LastPutAway] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: SeenStreams, exempt: Sequence[str], most_groups: int) -> "StreamFigures":
        """`exempt`: patterns of groups that may be left unread; `most_groups`: of each stream."""
        found = cls()
        for stream, info in seen.infos.items():
            found._add(stream, info, exempt, info.groups[:most_groups])
        for group in summed([*seen.infos.values()]).groups if seen.infos else ():
            if group.reader:
                found.group_reader[group.name] = group.reader
            if group.put_away:
                found.group_put_away[group.name] = group.put_away
        if seen.infos and not seen.missing:
            found.length = sum(info.length for info in seen.infos.values())
        return found

    def _add(self, stream: str, info: StreamInfo, exempt: Sequence[str], groups: Sequence[GroupInfo]) -> None:
        behind = {group.name: group.lag for group in groups}
        asked = [group for group in groups if not is_exempt(group.name, exempt)]
        since = {group.name: inf if (age := group.last_read_age_s) is None else age for group in asked}
        self.each.append(StreamSample(stream, info.length, behind, since, info.oldest))
        self.group_lag |= {group: max(lag, self.group_lag.get(group, 0)) for group, lag in behind.items()}
        self.group_read_age_s |= {
            group: max(age, self.group_read_age_s.get(group, 0.0)) for group, age in since.items()
        }
        self.group_dead.update({group.name: group.dead for group in groups if group.dead})
