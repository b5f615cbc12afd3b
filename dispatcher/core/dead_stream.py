"""The dead stream of a consumer group: the entries that its consumers have put away."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LastPutAway:
    """The entry that was put away last: when, in Unix seconds by Redis's clock, and which error with its place."""

    at: float
    error: str | None


def dead_stream_of(key: str, group: str) -> str:
    """Beside each key of the stream one for each group: with shards on the same node of a Cluster as the key."""
    return f"{key}:{group}:dead"
