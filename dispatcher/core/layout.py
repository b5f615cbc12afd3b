"""The layout: which stream an event goes to. Pure; the settings make it, and Postgres keeps it (messaging.layout).

An event goes to the stream of the first route whose pattern matches its type, else to the default stream. Each stream
has as many shards, each a key of its own; the shard is a range of slots, so shard k of every stream holds the same
aggregates. The number in braces is a hash tag: in a Redis Cluster the k-th shards of all streams lie on one node.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import sha256
from typing import Literal, NamedTuple, Protocol

SLOTS = 256
OrderMode = Literal["none", "aggregate"]
OnDead = Literal["continue", "hold"]
MOST_KEYS = 1024  # each is asked every second, and is a series in the metrics
DEFAULT_STREAM = "sanctum:messages"
REMEMBERED = 10_000  # event types whose stream is kept in memory; then all are forgotten


def stream_of_key(key: str) -> str:
    """The name of the stream that a key is a shard of; the key itself, where it is no shard."""
    name, at, shard = key.rpartition(":{")
    return name if at and shard[:-1].isdecimal() and shard.endswith("}") else key


class RowOfStream(Protocol):
    """What tells the stream of a row, and the row itself."""

    @property
    def id(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def event_type(self) -> str: ...
    @property
    def slot(self) -> int: ...


class Route(NamedTuple):
    """Events whose type matches `pattern`, as fnmatch does with case, go to `stream`."""

    pattern: str
    stream: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Shards of each stream: a power of two up to 256. The first route that matches counts.

    `order`: what is kept in order, see DISPATCH_ORDER. It is a part of the layout: one dispatcher that knows no order
    would break that of all others. `on_dead`: whether the later events of an aggregate go on when one is dead; without
    an order it is always "continue".
    """

    stream: str
    shards: int = 1
    routes: tuple[Route, ...] = ()
    order: OrderMode = "none"
    on_dead: OnDead = "continue"
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)  # the closed set, the default stream's first
    # Names the layout; "" of a plain one without order, which is what releases without layouts know.
    fingerprint: str = field(init=False, repr=False, compare=False, default="")
    _matches: tuple[tuple[re.Pattern[str], str], ...] = field(init=False, repr=False, compare=False)
    _known: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)  # by event type

    def __post_init__(self) -> None:
        keys = [key for name in self.streams for key in self.keys_of(name)]
        object.__setattr__(self, "keys", tuple(keys))
        if self.order == "none":
            object.__setattr__(self, "on_dead", "continue")
        if not self.plain or self.order != "none":
            spec = json.dumps(self.spec(), sort_keys=True)
            object.__setattr__(self, "fingerprint", sha256(spec.encode()).hexdigest()[:16])
        object.__setattr__(self, "_matches", tuple((re.compile(translate(p)), s) for p, s in self.routes))

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams by name, each once: the default one first, then as the routes name them."""
        return tuple(dict.fromkeys((self.stream, *(route.stream for route in self.routes))))

    @property
    def plain(self) -> bool:
        """Whether there is one key, the default stream's: nothing depends on the type or the slot of an event."""
        return self.shards == 1 and not self.routes

    def keys_of(self, stream: str) -> tuple[str, ...]:
        """The keys of one stream by its name."""
        if self.shards == 1:
            return (stream,)
        return tuple(f"{stream}:{{{shard}}}" for shard in range(self.shards))

    def stream_of(self, event_type: str) -> str:
        """The name of the stream that events of this type go to."""
        known = self._known.get(event_type)
        if known is None:
            known = next((stream for matches, stream in self._matches if matches.match(event_type)), self.stream)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[event_type] = known
        return known

    def key_of(self, event_type: str, slot: int) -> str:
        """The key that an event of this type and slot (0 to 255) goes to."""
        stream = self.stream_of(event_type) if self.routes else self.stream
        return stream if self.shards == 1 else f"{stream}:{{{self.shard_of(slot)}}}"

    def keys_by_row(self, rows: Iterable["RowOfStream"]) -> dict[int, str]:
        """The key of each row by the row's id; empty where there is one key only."""
        return {} if self.plain else {row.id: self.key_of(row.event_type, row.slot) for row in rows}

    def shard_of(self, slot: int) -> int:
        """The shard of a slot."""
        return slot * self.shards // SLOTS

    def slots_of(self, shard: int) -> range:
        """The slots of a shard: a range, the same for every stream."""
        width = SLOTS // self.shards
        return range(shard * width, (shard + 1) * width)

    def spec(self) -> dict[str, object]:
        """What Postgres keeps, as JSON."""
        spec: dict[str, object] = {
            "stream": self.stream,
            "shards": self.shards,
            "routes": [list(route) for route in self.routes],
        }
        if self.order != "none":  # layouts without order keep the fingerprint that they had before there was one
            spec["order"], spec["order_on_dead"] = self.order, self.on_dead
        return spec

    def columns(self) -> dict[str, object]:
        """What sql/statements/layout_set.sql writes of it."""
        return {"fingerprint": self.fingerprint, "spec": json.dumps(self.spec()), "keys": list(self.keys)}

    @classmethod
    def of_spec(cls, spec: dict[str, object]) -> "Layout":
        """The layout that `spec()` was made of. Raises ValueError, TypeError or KeyError when it is none."""
        routes = spec["routes"]
        if not isinstance(routes, Sequence):
            raise TypeError("routes is no list")
        order: OrderMode = "none" if spec.get("order", "none") == "none" else "aggregate"
        on_dead: OnDead = "hold" if spec.get("order_on_dead") == "hold" else "continue"
        found = tuple(Route(str(p), str(s)) for p, s in routes)
        return cls(str(spec["stream"]), int(str(spec["shards"])), found, order, on_dead)

    def __str__(self) -> str:
        said = f"{self.stream}, {self.shards} {'shard' if self.shards == 1 else 'shards'}"
        routes = " ".join(f"{pattern}={stream}" for pattern, stream in self.routes)
        said = f"{said}, routes {routes}" if routes else said
        if self.order == "none":
            return said
        return f"{said}, in order" + (", a dead event holds the later ones" if self.on_dead == "hold" else "")


def keys_without(groups: Mapping[str, Collection[str]]) -> dict[tuple[str, str], list[str]]:
    """By stream and consumer group: the shards that it is not on, of a group that is on others of them.

    `groups`: by key the names of its groups.
    """
    shards: dict[str, list[str]] = {}
    for key in groups:
        shards.setdefault(stream_of_key(key), []).append(key)
    found = {}
    for stream, keys in shards.items():
        for group in sorted({name for key in keys for name in groups[key]}):
            if without := [key for key in keys if group not in groups[key]]:
                found[stream, group] = without
    return found
