"""What Redis says of several streams. A node of a Cluster that does not answer takes nothing from the others."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from dispatcher.core.layout import keys_without
from dispatcher.infra.redis.info import REDIS_DEADLINE_S, StreamInfo, added_at, read_stream_info
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.redis.shapes import ODD_REPLY


@dataclass(slots=True)
class SeenStreams:
    """Those that were answered for, by key, in the order of the question; of the others the first, and why."""

    infos: dict[str, StreamInfo] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failure: BaseException | None = None  # RedisError, OSError or TimeoutError; NoPermissionError: no outage


async def read_streams(
    redis: Redis, keys: Sequence[str], positions: Mapping[str, StreamPositions] | None = None, *, readers: bool = False
) -> SeenStreams:
    """Ask for each key, as read_stream_info() does; once more of a server that did not answer nothing is asked."""
    seen, away = SeenStreams(), set[str]()
    for key in keys:
        try:
            node = await _node_of(redis, key)
            if node in away:
                seen.missing.append(key)
                continue
            try:
                known = positions[key] if positions is not None else None
                seen.infos[key] = await read_stream_info(redis, key, known, readers=readers)
            except ODD_REPLY as error:
                raise ResponseError(f"UNEXPECTED reply ({type(error).__name__})") from None
            except (RedisError, OSError, TimeoutError) as error:
                if not isinstance(error, ResponseError | NoPermissionError):
                    away.add(node)
                raise
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            seen.missing.append(key)
            if seen.failure is None or isinstance(seen.failure, NoPermissionError):
                seen.failure = error
    if readers:
        await _date_what_groups_leave(redis, seen, positions)
    return seen


async def _date_what_groups_leave(
    redis: Redis, seen: SeenStreams, positions: Mapping[str, StreamPositions] | None
) -> None:
    """Of shards that a group of the others is not on, or never read: when the oldest entry was added. Asked once."""
    groups = {
        key: [group.name for group in info.groups if group.last_read_age_s is not None or not group.lag]
        for key, info in seen.infos.items()
    }
    for key in dict.fromkeys(key for keys in keys_without(groups).values() for key in keys):
        known = positions[key] if positions is not None else None
        oldest = known.oldest if known is not None and seen.infos[key].length else None
        if oldest is None and seen.infos[key].length:
            with suppress(RedisError, RedisClusterException, OSError, TimeoutError):
                with anyio.fail_after(REDIS_DEADLINE_S):
                    found: Any = await redis.xrange(key, count=1)
                oldest = added_at(found[0][0]) if found else None
        if known is not None:
            known.oldest = oldest
        seen.infos[key] = replace(seen.infos[key], oldest=oldest)


async def _node_of(redis: Redis, key: str) -> str:
    """The node of the key; "" where there is one server."""
    client: object = redis  # open_client() gives either
    if not isinstance(client, RedisCluster):
        return ""
    await client.initialize()  # nothing, once it knows the nodes
    node = client.get_node_from_key(key)
    return "" if node is None else str(node.name)
