"""The dead stream of a consumer group: the entries that its consumers have put away."""


def dead_stream_of(key: str, group: str) -> str:
    """Beside each key of the stream one for each group: with shards on the same node of a Cluster as the key."""
    return f"{key}:{group}:dead"
