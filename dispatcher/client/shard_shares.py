"""How many shards each consumer of a group reads: equally many, give or take one, with as few moves as that needs."""

import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping


def fair(holdings: Mapping[str, int], members: Iterable[str], shards: int, me: str) -> int:
    """How many shards are mine to read. Where it does not come out even, those who hold the most now have one more."""
    ranked = sorted(set(members), key=lambda name: (-holdings.get(name, 0), name))
    if me not in ranked:
        return 0
    each, more = divmod(shards, len(ranked))
    return each + (ranked.index(me) < more)


class Shares:
    """What the readers of one consumer know of the leases of all shards. From any thread.

    A reader in a Cluster asks for one shard only, so each learns of the others by this. What a node that is away holds
    is forgotten, and the rest is shared out.
    """

    def __init__(self, consumer: str, patience_s: float) -> None:
        # With more to it, because two processes may have been given one name. A lease whose taking was answered to
        # nobody, because the connection broke, is known by it as ours.
        self.me = f"{consumer}.{secrets.token_hex(4)}"
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._holders: dict[str, str] = {}  # by key; "": nobody
        self.members: dict[str, set[str]] = {}  # by the reader that asked
        self._leaving: set[str] = set()
        self._begun: dict[tuple[str, str], float] = {}  # entries in hand: since when

    def note(self, reader: str, members: set[str], holders: Mapping[str, str]) -> None:
        """Note what Redis answered to a reader: who takes part, and the holder of each key ('': nobody)."""
        with self._lock:
            self.members[reader] = members
            self._holders.update(holders)
            self._leaving &= {key for key, holder in self._holders.items() if holder == self.me}

    def forget(self, reader: str, keys: Iterable[str]) -> None:
        """Drop what a reader noted of these keys: Redis answers it no more, so it may be out of date."""
        with self._lock:
            self.members.pop(reader, None)
            for key in keys:
                self._holders.pop(key, None)

    def may_take(self, key: str) -> bool:
        """Whether this shard, which is free, is one for us. Then it counts as ours until the next note."""
        with self._lock:
            holdings, mine = self._count()
            if mine >= self._fair(holdings):
                return False
            self._holders[key] = self.me
            return True

    def must_leave(self, key: str) -> bool:
        """Whether we hold more than our share, and give up this shard. Then it counts as given up."""
        with self._lock:
            holdings, mine = self._count()
            if mine <= self._fair(holdings):
                return False
            self._leaving.add(key)
            return True

    def begin(self, ref: tuple[str, str], now: float) -> None:
        """Note that an entry is in hand, or still is and well."""
        with self._lock:
            self._begun[ref] = now

    def end(self, ref: tuple[str, str]) -> None:
        """Note that it is not in hand any more."""
        with self._lock:
            self._begun.pop(ref, None)

    def is_stuck(self, now: float) -> bool:
        """Whether a function has not ended in the time of a lease: then others share out what this consumer loses."""
        with self._lock:
            return any(now - began >= self._patience_s for began in self._begun.values())

    def _count(self) -> tuple[Counter[str], int]:
        holdings = Counter(holder for holder in self._holders.values() if holder)
        return holdings, holdings[self.me] - len(self._leaving)

    def _fair(self, holdings: Mapping[str, int]) -> int:
        return fair(holdings, set().union(*self.members.values()), len(self._holders), self.me)
