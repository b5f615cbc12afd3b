"""Who reads a shard of a stream that is read in order: one consumer at a time, by a lease in Redis with a token.

A lease is a hash beside the key of its shard: `holder`, `token`, `until` in milliseconds of Redis's clock, and `lasts`,
for how many it was given, which bounds it when that clock goes back. The token rises each time the lease is taken. All
that a holder does to its shard it does by a script that compares holder and token first, reading included: a consumer
that was frozen for longer than its lease can take no entry and acknowledge none. The first lease of those that a reader
asks for also says which consumers there are (`c:<name>`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dispatcher.client.scripts import LEASES, run
from dispatcher.client.shard import Shard
from dispatcher.client.steps import Steps, text

Verb = Literal["look", "take", "keep", "drop"]


def lease_of(key: str, group: str) -> str:
    """The key of a lease: in a Cluster it has to lie where the stream lies."""
    before, _, after = key.partition("{")
    tagged = after.partition("}")[0] != "" and "}" in after
    return f"{key}:{group}:lease" if tagged else f"{{{before}}}:{group}:lease"


class LeasedShard(Shard):
    """A shard, and what is known of its lease. Only the steps of its reader write it."""

    token = 0  # 0: not ours
    highest = 0  # the highest token we had
    taken_at = 0.0  # on the reader's clock
    sure_until = 0.0  # on the reader's clock: so long another consumer cannot have begun anything of it
    leaving = False  # ours, to be given up as soon as nothing of it is in hand
    pending_from: str | None = "-"  # from where on to look for what is pending; None: all of that is known
    searches = 0  # how often that search has begun
    last = "0-0"  # the group has read to here
    free = False  # for us to take, at the last check
    full = False  # so much of it waits that it is read no further for now
    not_begun: Sequence[str] = ()  # entries that were read and not begun, to be released when it is given up

    @property
    def lease(self) -> str:
        """Its key in Redis."""
        return lease_of(self.key, self._group.group)

    def taken(self, token: int) -> None:
        """Note that it is ours now."""
        self.token = self.highest = token
        self.taken_at = self._clock()
        self.leaving = False
        self.not_begun = ()
        self.pending_from = "-"

    def lost(self) -> None:
        """Note that it is ours no more."""
        self.token = 0
        self.sure_until = 0.0
        self.leaving = False


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What Redis says of a lease. `holder`: "" when it is free. `is_mine`: also when it is over and nobody took it."""

    holder: str
    token: int
    is_mine: bool


def ask(me: str, verbs: Mapping[LeasedShard, Verb], lasts: Mapping[str, int], remembered_ms: int) -> Steps:
    """Look at leases, take, keep or give them up; (names of all consumers, what was found of each by its key).

    `lasts`: for how many milliseconds each is taken or kept.
    """
    arguments: list[object] = [me, remembered_ms]
    for shard, verb in verbs.items():
        arguments += [verb, shard.highest if verb == "take" else shard.token, lasts[shard.key]]
    names, *found = yield from run(LEASES, [shard.lease for shard in verbs], *arguments)
    return {text(name) for name in names}, dict(zip((shard.key for shard in verbs), map(_state_of, found), strict=True))


def _state_of(answer: Sequence[Any]) -> LeaseState:
    return LeaseState(text(answer[0]), int(answer[1]), bool(answer[2]))
