"""The report of a run: a table on the screen, Markdown and JSON in a folder. Names machine, versions and settings."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import redis
from rich import box
from rich.console import Console
from rich.table import Table

from bench.servers import Rig

SHOWN = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "max_connections")


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and whether it was kept."""

    text: str
    met: bool


@dataclass(slots=True)
class Report:
    """What a scenario found."""

    scenario: str
    options: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]  # one a line of the table, the same names in each
    targets: Sequence[Target]
    raw: Any = None  # for machines: everything measured
    notes: Sequence[str] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)

    @property
    def met(self) -> bool:
        """Whether every target was."""
        return all(target.met for target in self.targets)

    def finish(self, rig: Rig, folder: Path) -> int:
        """Look at the machine, write both files, show the table. Returns the exit code."""
        self.environment = environment(rig) | {"load_average_1_5_15": self.load_before}
        stem = f"{self.scenario}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.md").write_text(self.markdown())
        (folder / f"{stem}.json").write_text(json.dumps(self.as_dict(), indent=1))
        on_terminal = Console().is_terminal
        self.show(Console(highlight=False, width=None if on_terminal else 120))
        print(f"\nReport: {folder / stem}.md and .json")
        return 0 if self.met else 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scenario": self.scenario,
            "met": self.met,
            "targets": [{"text": target.text, "met": target.met} for target in self.targets],
            "options": dict(self.options),
            "table": [dict(row) for row in self.rows],
            "notes": list(self.notes),
            "environment": self.environment,
            "raw": self.raw,
        }

    def markdown(self) -> str:
        """For people."""
        names = list(self.rows[0]) if self.rows else []
        lines = [f"# {self.scenario}", ""]
        lines += [f"- {'met' if target.met else '**missed**'}: {target.text}" for target in self.targets]
        lines += ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(row[name] for name in names)} |" for row in self.rows]
        lines += ["", *(f"{note}\n" for note in self.notes)]
        lines += ["", *(f"- {name}: {value}" for name, value in (dict(self.options) | self.environment).items()), ""]
        return "\n".join(lines)

    def show(self, console: Console) -> None:
        """On the screen."""
        table = Table(title=self.scenario, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.rows[0] if self.rows else ():
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row.values())
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)
        for target in self.targets:
            console.print(f"{'met   ' if target.met else 'MISSED'}  {target.text}", markup=False)


def environment(rig: Rig) -> dict[str, Any]:
    """Machine, versions and the settings that matter, without addresses or passwords."""
    with psycopg.connect(rig.database_url, autocommit=True, connect_timeout=10) as connection:
        settings = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [list(SHOWN)]
        ).fetchall()
        postgres = connection.execute("SHOW server_version").fetchone()
    client = redis.Redis.from_url(rig.redis_url, protocol=2, socket_timeout=10)
    try:
        server: Any = client.info("server")
    finally:
        client.close()
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "psycopg": version("psycopg"),
        "redis-py": version("redis"),
        "hiredis": version("hiredis"),
        "postgres": postgres[0] if postgres else "?",
        "valkey or redis": server.get("valkey_version") or server.get("redis_version"),
        "postgres settings": dict(settings),
        "dispatcher settings": dict(rig.dispatcher_settings),
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
