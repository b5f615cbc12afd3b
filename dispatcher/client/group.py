"""The settings of a consumer of a group, checked once."""

import os
import secrets
import socket
import warnings
from dataclasses import InitVar, dataclass, field
from datetime import timedelta

from dispatcher.core import dead_stream
from dispatcher.core.durations import no_timedelta

SHARDS = tuple(2**power for power in range(9))


def shard_keys(stream: str, shards: int) -> tuple[str, ...]:
    """The keys in Redis of a stream with so many shards. The braces are a hash tag: a Cluster places a key by them."""
    return (stream,) if shards == 1 else tuple(f"{stream}:{{{shard}}}" for shard in range(shards))


def require_shards(stream: str, shards: int) -> None:
    """Raise ValueError for a number of shards that no dispatcher has, or a key where the stream's name should be."""
    if shards not in SHARDS:
        raise ValueError(f"shards is {shards!r}: it must be what DISPATCH_STREAM_SHARDS is, 1, 2, 4 ... 256")
    if shards > 1 and ("{" in stream or "}" in stream):
        raise ValueError("stream holds braces: name it without the {number} of a shard, which `shards` adds")


def duration(name: str, given: object, old: int | None) -> timedelta:
    """A setting that is a time, or what its old name in milliseconds says, with a warning. Called by an __init__ in two
    steps. Raises TypeError and ValueError.
    """
    if old is not None:
        warnings.warn(
            f"{name}_ms is {name} now: give {name}=timedelta(milliseconds={old})", DeprecationWarning, stacklevel=4
        )
        given = timedelta(milliseconds=old)
    if not isinstance(given, timedelta):
        raise TypeError(no_timedelta(name, given))
    if given < timedelta(milliseconds=1):
        raise ValueError(f"{name} must be a millisecond or more")
    return given


def millis(given: timedelta) -> int:
    """A count of whole milliseconds: a part of one is cut off, for Redis takes none."""
    return given // timedelta(milliseconds=1)


def _prefix() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def _new_name() -> str:
    """A unique name: two consumers with one name would take each other's entries for their own."""
    return _prefix() + secrets.token_hex(3)


def is_ours(consumer: str) -> bool:
    """Whether no other process can have this name: it was made here, and not before a fork."""
    return consumer.startswith(_prefix())


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A consumer group of a stream, and how this consumer takes part.

    `block_ms`, `claim_idle_ms` and `retry_ms` are the old names of `block`, `claim_idle` and `retry`, in milliseconds.
    They go with the next release.
    """

    stream: str
    group: str
    shards: int = 1  # DISPATCH_STREAM_SHARDS; with more than 1 the keys are <stream>:{0}, <stream>:{1} ...
    ordered: bool = False  # one consumer at a time reads a shard, and the events of an aggregate one after the other
    consumer: str = field(default_factory=_new_name)  # unique in the group
    start: str = "0"  # where a group begins at its first start: "0" the oldest entry, "$" after the newest
    count: int = 100  # entries of one read, at most: fewer where they are large, for about 4 MiB
    block: timedelta = timedelta(seconds=1)  # the longest wait for new entries; a stop waits for it
    claim_idle: timedelta = timedelta(minutes=1)  # then others may claim an entry: longer than your slowest function
    retry: timedelta = timedelta(seconds=1)  # the pause after a first failure; doubles with each, up to claim_idle
    max_deliveries: int = 10  # after that many an entry goes to dead_stream; with 1, that of a killed consumer after 2
    dead_stream: str = ""  # default: <stream>:<group>:dead; with shards one for each key, <key>:<group>:dead

    block_ms: InitVar[int | None] = None
    claim_idle_ms: InitVar[int | None] = None
    retry_ms: InitVar[int | None] = None

    def __post_init__(self, block_ms: int | None, claim_idle_ms: int | None, retry_ms: int | None) -> None:
        """Raises ValueError or TypeError, which names the setting."""
        for name, old in (("block", block_ms), ("claim_idle", claim_idle_ms), ("retry", retry_ms)):
            object.__setattr__(self, name, duration(name, getattr(self, name), old))
        for name in ("stream", "group", "consumer", "start"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name in ("count", "max_deliveries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        require_shards(self.stream, self.shards)
        if self.ordered and self.shards == 1 and ("{" in self.stream or "}" in self.stream):
            raise ValueError("ordered: the stream's name must not hold braces: its lease needs some of its own")
        if not self.dead_stream and self.shards == 1:
            object.__setattr__(self, "dead_stream", self.dead_stream_of(self.stream))

    @property
    def block_millis(self) -> int:
        """`block` in whole milliseconds, as BLOCK of XREADGROUP wants it."""
        return millis(self.block)

    @property
    def claim_idle_millis(self) -> int:
        """`claim_idle` in whole milliseconds, as the least idle time of XAUTOCLAIM."""
        return millis(self.claim_idle)

    @property
    def retry_millis(self) -> int:
        return millis(self.retry)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the stream in Redis: one, or one a shard."""
        return shard_keys(self.stream, self.shards)

    def dead_stream_of(self, key: str) -> str:
        """Where entries of this key are put away: with shards on the same node of a Cluster as the key."""
        return self.dead_stream or dead_stream.dead_stream_of(key, self.group)

    def delay_ms(self, deliveries: int) -> int:
        """Milliseconds until an event is delivered again after its n-th delivery failed."""
        return min(self.claim_idle_millis, self.retry_millis << min(deliveries - 1, 30))
