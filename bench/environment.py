"""What a figure depends on: machine, versions, settings. Without addresses or passwords."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import redis

SHOWN = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "max_connections",
)


def environment(database_url: str, redis_url: str, dispatcher_settings: Mapping[str, str]) -> dict[str, Any]:
    """All of it, by the name a reader would look for."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=10) as connection:
        settings = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(SHOWN)]
        ).fetchall()
        postgres = connection.execute("SHOW server_version").fetchone()
    client = redis.Redis.from_url(redis_url, protocol=2, socket_timeout=10)
    try:
        server: Any = client.info("server")
    finally:
        client.close()
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "psycopg": version("psycopg"),
        "redis-py": version("redis"),
        "hiredis": version("hiredis"),
        "postgres": postgres[0] if postgres else "?",
        "valkey or redis": server.get("valkey_version") or server.get("redis_version"),
        "postgres settings": dict(settings),
        "dispatcher settings": dict(dispatcher_settings),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
