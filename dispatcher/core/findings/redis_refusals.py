"""What to do about an error reply of Redis to an entry: for `doctor`, and for the page breaker-open of the runbook.

A test holds that each code and each phrase of `core/outages.py` is here.
"""

from dataclasses import dataclass

from dispatcher.core.outages import redis_code, without_abort


@dataclass(frozen=True, slots=True)
class RedisRefusal:
    """Replies with the same remedy. `names`: their codes, or a part of the text of those that have none.

    `do`: in `<stream>` stands the key of the stream. `pages`: where there is more, as links of the runbook.
    """

    names: tuple[str, ...]
    do: str
    pages: str = ""


_ITS_URL = "[its URL](../how-to/run-with-cluster-or-sentinel.md)"
_AWAY = "[DispatcherShardsAway](shards-away.md)"
REFUSALS = (
    RedisRefusal(
        ("OOM",),
        'give Redis memory: `redis-cli -u "$REDIS_URL" CONFIG SET maxmemory 2gb`, and the same `maxmemory` in its '
        "configuration, or a restart forgets it. Or delete other keys. The policy must be `noeviction`. Do not trim "
        "the stream: groups may not have read it. Rows wait unharmed until then",
    ),
    RedisRefusal(
        ("READONLY", "UNBLOCKED", "writing to a replica"),
        "`REDIS_URL` leads to a replica: point it at the primary",
    ),
    RedisRefusal(
        ("MASTERDOWN", "NOMASTERLINK"),
        "it leads to a replica that has lost its primary: point it at the primary, or bring that back",
    ),
    RedisRefusal(
        ("NOREPLICAS",), "too few replicas are connected: bring them back, or lower `min-replicas-to-write`"
    ),
    RedisRefusal(("LOADING",), "Redis has started and reads its data: wait"),
    RedisRefusal(("FAILOVER",), "a failover is under way: wait"),
    RedisRefusal(
        ("MISCONF", "IOERR"), "Redis cannot write to its disk: read its log, give it room or mend the disk"
    ),
    RedisRefusal(
        ("BUSY", "UNKILLABLE"),
        "a script of some application runs: wait, or end it (`SCRIPT KILL`; an `UNKILLABLE` one has written, and has "
        "to end by itself)",
    ),
    RedisRefusal(
        ("MAXCLIENTS", "max number of clients"),
        "Redis has no connection left: raise `maxclients`, or find who opens so many (`CLIENT LIST`)",
    ),
    RedisRefusal(
        ("CLUSTERDOWN", "TRYAGAIN", "ASK", "MOVED", "REDIRECT"),
        "a Cluster is not whole, or moves slots: bring its nodes back, or wait. If it lasts, `REDIS_URL` does not say "
        "that it is a Cluster (`redis+cluster://`)",
        f"{_AWAY}, {_ITS_URL}",
    ),
    RedisRefusal(
        ("CROSSSLOT",),
        "a proxy or a Cluster puts the keys of one transaction apart: take the proxy away, or name the Cluster as one "
        "(`redis+cluster://`)",
        _ITS_URL,
    ),
    RedisRefusal(
        ("EXECABORT",),
        "Redis refused a command of a transaction: its log, or the rest of the reason, says which of the others it is",
    ),
    RedisRefusal(
        ("WRONGTYPE",),
        "another application has a key of this name that is no stream: rename it, or set another "
        "`DISPATCH_STREAM_NAME`",
    ),
    RedisRefusal(
        ("The stream has exhausted the last possible ID", "The ID specified in XADD must be greater"),
        "somebody added an entry with the highest id: rename the key, or set another `DISPATCH_STREAM_NAME`",
    ),
    RedisRefusal(("NOPERM",), "give its user the right: `ACL SETUSER <user> ~<stream> +xadd`", "[rights](rights.md)"),
    RedisRefusal(
        ("NOAUTH", "WRONGPASS", "invalid password"),
        "mend the user and the password in `REDIS_URL`",
        "[rotate a password](rotate-a-password.md)",
    ),
    RedisRefusal(("DENIED",), "Redis is in protected mode: give its user a password"),
    RedisRefusal(("DB index is out of range",), "mend the number at the end of `REDIS_URL`"),
    RedisRefusal(
        ("NOPROTO", "unknown command", "unsupported command"),
        "it is a proxy, or no Redis that has streams: point `REDIS_URL` at Redis, and undo `rename-command`",
    ),
    RedisRefusal(
        (
            "upstream", "backend", "unbalanced",
            "connection refused", "connection reset", "connection timed out", "i/o timeout",
        ),
        "a proxy has lost its Redis, or mixes requests up: read its log",
    ),
)  # fmt: skip


def remedy_of(reply: str, stream: str) -> str | None:
    """What to do about an error reply to an entry for this stream; None: nobody knows it."""
    reply = without_abort(reply)
    code, said = redis_code(reply), reply.lower()
    found = [each for each in REFUSALS if code in each.names] or [
        each for each in REFUSALS if any(name.lower() in said for name in each.names if name.upper() != name)
    ]
    return found[0].do.replace("<stream>", stream) if found else None
