"""Durability of Redis: what is lost when it is full, when it restarts, and when its machine is gone."""

from collections.abc import Mapping

from dispatcher.core.findings.finding import Finding, bad, ok, unknown, warning

STATUSES = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
NO_INFO = "allow this user +info"


def memory(info: Mapping[str, str], full_share: float, *, full_now: bool = False) -> Finding:
    """Check that a full Redis does not evict the stream, and that at most `full_share` (0 to 1) of maxmemory is in use.

    `full_now`: it refuses entries for it: one thing with `redis-entries`, and as bad.
    """
    if "maxmemory_policy" not in info:
        return unknown("redis-memory", "INFO tells no maxmemory policy", NO_INFO)
    policy, limit, used = info["maxmemory_policy"], int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    said = f"maxmemory policy {policy}, {_mb(used)} of {_mb(limit) if limit else 'no limit'} in use"
    if policy.startswith("allkeys"):  # volatile-*: the stream has no expiry
        remedy = "CONFIG SET maxmemory-policy noeviction: a full Redis then refuses entries, and rows wait unharmed"
        return bad("redis-memory", f"{said}: a full Redis evicts the whole stream", remedy)
    if full_now:
        return bad("redis-memory", said, "see redis-entries")
    if limit and used > full_share * limit:
        return warning(
            "redis-memory", said, "raise maxmemory, or lower REDIS_STREAM_MAXLEN: at the limit it takes no entries"
        )
    return ok("redis-memory", said)


def persistence(info: Mapping[str, str], appendfsync: str | None, save: str | None) -> Finding:
    """Check what a restart loses. `appendfsync`, `save`: settings of the server, None if not readable."""
    if "aof_enabled" not in info:
        return unknown("redis-persistence", "INFO tells nothing about persistence", NO_INFO)
    failed = [name for name in STATUSES if info.get(name) == "err"]
    if failed:
        remedy = "look at the disk and the log of Redis"
        return bad("redis-persistence", f"the last write failed: {', '.join(failed)}", remedy)
    if info["aof_enabled"] == "1":
        said = f"append-only file, appendfsync {appendfsync or 'not readable'}"
        if appendfsync == "no":
            remedy = "CONFIG SET appendfsync everysec"
            return warning("redis-persistence", f"{said}: what the system did not write yet is lost in a crash", remedy)
        return ok("redis-persistence", said)
    turn_on = "CONFIG SET appendonly yes and CONFIG REWRITE, with appendfsync everysec or always"
    if save == "":
        said = "nothing is kept: a restart loses the stream, what is unread in it too"
        return bad("redis-persistence", said, turn_on)
    said = "snapshots only: a crash loses what was added since the last one"
    return warning("redis-persistence", said, f"{turn_on}; else replay what was lost (`dispatcher replay --since`)")


def replicas(info: Mapping[str, str]) -> Finding:
    """Check that it is the primary and has replicas in step."""
    if "role" not in info:
        return unknown("redis-replicas", "INFO tells nothing about replication", NO_INFO)
    if info["role"] != "master":
        said = f"it is a replica of {info.get('master_host', '?')}:{info.get('master_port', '?')} and takes no entries"
        return bad("redis-replicas", said, "point REDIS_URL at the primary")
    states = [
        dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        for name, value in info.items()
        if name.startswith("slave") and name[5:].isdigit()
    ]
    if not states:
        return warning(
            "redis-replicas",
            "none: when this machine is lost, so is the stream",
            "add a replica, with a failover behind one address, or by Sentinel (redis+sentinel://)",
        )
    behind = [
        f"{each.get('ip')}:{each.get('port')} {each.get('state')}" for each in states if each.get("state") != "online"
    ]
    if behind:
        return warning("redis-replicas", f"not in step: {', '.join(behind)}", "look at the log of the replica")
    return ok("redis-replicas", f"{len(states)} online")


def _mb(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
