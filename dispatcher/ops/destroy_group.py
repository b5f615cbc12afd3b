"""Removes an abandoned consumer group, so that it holds publishing back no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dispatcher.core.errors import DispatcherError
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.replies import text_of
from dispatcher.infra.redis.target import RedisTarget
from dispatcher.ops.groups import try_to_connect
from dispatcher.ops.redis_errors import explained

READ_S = 60.0  # a consumer that asked for entries in this time may live


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A group as one key has it. `read_to`: the id of the last entry that it has read: XGROUP CREATE makes it again
    from there. `consumers`: each with the seconds since it asked for entries last.
    """

    stream: str
    pending: int
    read_to: str
    consumers: tuple[tuple[str, float], ...] = ()


async def find_abandoned(url: str, keys: Sequence[str], group: str, timeout_s: float) -> list[Abandoned]:
    """What would be removed, of each key that has the group. Raises DispatcherError: none has, or somebody reads it."""
    where = f"Redis at {RedisTarget.parse(url).address()}"
    await try_to_connect(url, (), timeout_s)
    client: Any = open_client(url, timeout_s)
    found = []
    try:
        for key in keys:
            with explained(where, key, "+exists +xinfo"):
                groups = await client.xinfo_groups(key) if await client.exists(key) else ()
                for each in groups:
                    if text_of(each["name"]) == group:
                        readers = await client.xinfo_consumers(key, group)
                        _refuse_readers(key, group, readers)
                        idle = tuple((text_of(one["name"]), int(one["idle"]) / 1000) for one in readers)
                        found.append(Abandoned(key, int(each["pending"]), text_of(each["last-delivered-id"]), idle))
    finally:
        await client.aclose()
    if not found:
        raise DispatcherError(f"no stream has a group {group} ({', '.join(keys[:3])}): `dispatcher groups` lists them")
    return found


async def destroy(url: str, keys: Sequence[str], group: str, timeout_s: float) -> None:
    """Remove it, unless somebody reads it by now. Raises DispatcherError."""
    found = await find_abandoned(url, keys, group, timeout_s)
    where = f"Redis at {RedisTarget.parse(url).address()}"
    client: Any = open_client(url, timeout_s)
    try:
        for each in found:
            with explained(where, each.stream, "+xgroup|destroy"):
                await client.xgroup_destroy(each.stream, group)
    finally:
        await client.aclose()


def _refuse_readers(key: str, group: str, consumers: Sequence[dict[str, Any]]) -> None:
    for each in consumers:
        if (idle_s := int(each["idle"]) / 1000) < READ_S:
            raise DispatcherError(
                f"the consumer {text_of(each['name'])} of the group {group} asked {key} for entries {idle_s:.0f} s "
                f"ago: stop it first; of one that was killed wait until that was {READ_S:.0f} s ago"
            )
