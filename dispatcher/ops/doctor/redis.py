"""The Redis server: version, role, memory, persistence, replicas, and whether it would accept an entry from this user.

Uses one connection and the commands of a dispatcher: INFO, XLEN, PTTL, XINFO, XRANGE, CLIENT, with an order MULTI and
EXEC, and an XADD that is always refused. CONFIG GET, which needs another right, is used where it is granted.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dispatcher.core.decide import NoReply, NotApplied, Refused
from dispatcher.core.errors import DispatcherError
from dispatcher.core.findings.finding import Finding, bad, ok, unknown, warning
from dispatcher.core.findings.redis_refusals import remedy_of
from dispatcher.core.outages import in_short, is_unavailable, tells_nothing, without_abort
from dispatcher.core.redis_url import Address
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.info import COUNTED, fields_of
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.redis.replies import info_fields
from dispatcher.infra.redis.stream_end import ask_elsewhere
from dispatcher.ops.doctor import redis_durability

DEADLINE_S = 5.0
NOBODY = str(2**62)  # an id that no client has: CLIENT LIST and CLIENT KILL test the right, and find nobody
NEVER = "9999999999999-0"  # an entry id of the year 2286: XRANGE tests the right, and reads nothing
RIGHTS = {
    "XRANGE": "after a lost reply there is no look at the stream: events are doubled",
    "XINFO": "a slow group is not seen, and lost entries are not noticed",
    "CLIENT KILL": "an entry of a dead dispatcher may still arrive: events are doubled",
    "CLIENT LIST": "the connection of a dead dispatcher is not found: events are doubled",
    "INFO": "lost entries are not noticed",
    "MULTI": "with an order nothing is published",
    "EXEC": "with an order nothing is published",
}


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """The replies of Redis. `info`: the fields of INFO. `replies`: by the name of the command, see _ask()."""

    info: dict[str, str]
    replies: dict[str, Any]
    ahead_s: float | None  # how far its clock is ahead of this machine's
    groups: tuple[tuple[dict[str, Any], int], ...] = ()  # the fields of each group, and what it has to read


async def look_at_redis(
    url: str, streams: Sequence[str], timeout_s: float, *, full_share: float, in_order: bool, at: Address | None = None
) -> tuple[list[Finding], dict[str, RedisFacts]]:
    """The findings about the server, and the replies about each stream (none: the server did not answer).

    `at`: the node of a Cluster that serves these streams. `in_order`: whether an order is kept.
    """
    target = RedisTarget.parse(url)
    if at is not None:
        target = target.at(at)
    # Without the stream's name: a key of another type is a finding of its own.
    connection = RedisConnection(target, name="doctor", streams=(), connect_timeout_s=timeout_s, on_lost=lambda _: None)
    try:
        await connection.connect()
    except DispatcherError as error:
        remedy = "start Redis, or correct what the message names; nothing else was checked"
        return [bad("redis", str(error), remedy)], {}
    try:
        by_stream = dict[str, RedisFacts]()
        for stream in streams:
            facts = await _ask(connection, stream, in_order)
            by_stream[stream] = replace(facts, groups=await _groups(connection, facts, stream))
        facts = by_stream[streams[0]]
        told = await ask_elsewhere(connection, facts.info.get("run_id", ""))
    finally:
        connection.close()
    if any(isinstance(reply, NoReply | NotApplied) for each in by_stream.values() for reply in each.replies.values()):
        return [
            bad(
                "redis",
                f"the connection to Redis at {target.address()} broke",
                "run it again; look at the log of Redis",
            )
        ], {}
    refusing = next((key for key, each in by_stream.items() if _entries(each, key).level != "ok"), streams[0])
    return [
        *_version(facts, target),
        redis_durability.memory(facts.info, full_share, full_now=_refusal(by_stream[refusing]).startswith("OOM")),
        redis_durability.persistence(facts.info, _setting(facts, "appendfsync"), _setting(facts, "save")),
        redis_durability.replicas(facts.info),
        _entries(by_stream[refusing], refusing),
        _rights(by_stream[refusing], refusing),
        _identity(told),
    ], by_stream


def _identity(told: str) -> Finding:
    """Check that every connection leads to the same incarnation of Redis."""
    if told == "same":
        return ok("redis-identity", "every connection is told the same run id")
    if not told:
        return unknown("redis-identity", "the run id could not be asked for", "allow this user +info; run it again")
    said = "connections are told different run ids: a loss of entries behind it is not noticed"
    remedy = "point REDIS_URL at Redis itself, not at a proxy; with a failover under way, run it again"
    return warning("redis-identity", said, remedy)


async def _groups(
    connection: RedisConnection, facts: RedisFacts, stream: str
) -> tuple[tuple[dict[str, Any], int], ...]:
    """Each consumer group and what it has to read; counted, within bounds, where Redis does not tell."""

    async def read(begin: str, end: str, count: int) -> list[tuple[Any, Any]] | None:
        [page] = await connection.send([("XRANGE", stream, begin, end, "COUNT", str(count))], DEADLINE_S)
        return page if isinstance(page, list) else None

    found, about = facts.replies["XINFO"], facts.replies["XINFO STREAM"]
    if not isinstance(found, list) or not isinstance(about, list):
        return ()
    positions, of_stream = StreamPositions(), fields_of(about)
    return tuple(
        [
            (group, await positions.unread(group, of_stream, read, matters=0, most=COUNTED))
            for group in map(fields_of, found)
        ]
    )


async def _ask(connection: RedisConnection, stream: str, in_order: bool) -> RedisFacts:
    commands: dict[str, tuple[str, ...]] = {
        "INFO": ("INFO",),
        "appendfsync": ("CONFIG", "GET", "appendfsync"),
        "save": ("CONFIG", "GET", "save"),
        "XADD": ("XADD", stream, "0-0", "doctor", ""),  # the id 0-0 is refused after all other checks
        "XRANGE": ("XRANGE", stream, NEVER, NEVER, "COUNT", "1"),
        "XLEN": ("XLEN", stream),
        "PTTL": ("PTTL", stream),
        "XINFO": ("XINFO", "GROUPS", stream),
        "XINFO STREAM": ("XINFO", "STREAM", stream),
        "CLIENT LIST": ("CLIENT", "LIST", "ID", NOBODY),
        "CLIENT KILL": ("CLIENT", "KILL", "ID", NOBODY),
    }
    if in_order:
        commands |= {"MULTI": ("MULTI",), "EXEC": ("EXEC",)}
    before = time.time()
    replies = await connection.send(list(commands.values()), DEADLINE_S)
    between = (before + time.time()) / 2
    by_name = dict(zip(commands, replies, strict=True))
    info = by_name["INFO"]
    fields = info_fields(info) if isinstance(info, bytes) else {}
    theirs = fields.get("server_time_usec")
    return RedisFacts(fields, by_name, int(theirs) / 1e6 - between if theirs else None)


def _setting(facts: RedisFacts, name: str) -> str | None:
    """A setting of the server; None where this user lacks the right to read it."""
    reply = facts.replies[name]
    return reply[1].decode(errors="replace") if isinstance(reply, list) and len(reply) == 2 else None


def _version(facts: RedisFacts, target: RedisTarget) -> list[Finding]:
    if not facts.info:
        why = _why_not(facts, "INFO") if isinstance(facts.replies["INFO"], Refused) else "not answered"
        said = f"answers at {target.address()}; INFO is {why}"
        return [unknown("redis", said, "allow this user +info, without a proxy")]
    name = "Valkey" if "valkey_version" in facts.info else "Redis"
    version = facts.info.get("valkey_version") or facts.info.get("redis_version", "")
    said = f"{name} {version} at {target.address()}"
    speaks = tuple(int(part) for part in re.findall(r"\d+", facts.info.get("redis_version", ""))[:2])
    if facts.info.get("cluster_enabled") == "1":
        said += ", cluster mode"
    return [ok("redis", said), _age(speaks)]


def _age(speaks: tuple[int, ...]) -> Finding:
    """What a Redis of this version lacks."""
    if speaks >= (7, 0):
        return ok("redis-version", "it tells what each group has read")
    lacks = "it does not tell what a group has read: each dispatcher reads all new entries once more to count them; "
    lacks += "nor what was ever added: a stream that was made anew and written to at once is taken for the same"
    if speaks < (6, 2):
        lacks += ", even by a dispatcher, under load (it has no NOMKSTREAM)"
        lacks += "; consumers written with dispatcher.client need XAUTOCLAIM, which it does not have"
    return warning("redis-version", lacks, "update to Redis 7 or Valkey")


def _entries(facts: RedisFacts, stream: str) -> Finding:
    """Check that Redis would accept an entry now, from this user, on this key."""
    text = _refusal(facts)
    if "than 0-0" in text:
        return ok("redis-entries", "it takes entries from this user")
    remedy = remedy_of(text, stream) or "look at the log of Redis"
    return bad("redis-entries", f"it takes no entry: {in_short(text)}", remedy)


def _refusal(facts: RedisFacts) -> str:
    """What it says to an entry that it would never take: of all that is wrong the first."""
    reply = facts.replies["XADD"]
    return reply.text if isinstance(reply, Refused) else ""


def _rights(facts: RedisFacts, stream: str) -> Finding:
    """Check the ACL for the commands without which events can be doubled or lost."""
    refused = {name: facts.replies[name] for name in RIGHTS if isinstance(facts.replies.get(name), Refused)}
    denied = [name for name, reply in refused.items() if _is_denied(name, without_abort(reply.text))]
    if not denied:
        return ok("redis-rights", "this user may do what a dispatcher does")
    said = "; ".join(f"{name} is {_why_not(facts, name)}: {RIGHTS[name]}" for name in denied)
    remedy = f"ACL SETUSER <user> ~{stream} +xadd +xrange +xlen +xinfo +info +select +client"
    remedy += " +multi +exec" if "MULTI" in facts.replies else ""
    if any(_why_not(facts, name) == "unknown" for name in denied):
        remedy = "point REDIS_URL at a Redis or Valkey that knows it, not at a proxy, and undo rename-command"
    return bad("redis-rights", said, remedy)


def _is_denied(name: str, reply: str) -> bool:
    return tells_nothing(reply) if name in ("INFO", "XINFO") else is_unavailable(reply)


def _why_not(facts: RedisFacts, name: str) -> str:
    return "forbidden" if without_abort(facts.replies[name].text).startswith("NOPERM") else "unknown"
