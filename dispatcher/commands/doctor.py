"""`dispatcher doctor`: every check an operator would make by hand, each with what to do."""

import json
import os
from dataclasses import asdict

import anyio
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.core.finding import Finding
from dispatcher.infra.postgres.session import PostgresTarget
from dispatcher.ops.doctor import Examination, examine
from dispatcher.settings import Settings

PATIENCE_S = 10.0  # for one question
STYLES = {"ok": "green", "warning": "yellow", "bad": "bold red", "unknown": "cyan"}


@click.command()
@click.option("--no-trigger", is_flag=True, help="The doorbell trigger was left out on purpose (migrate --no-trigger).")
@click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]")
@click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url.")
@click.option("--listen-url", metavar="URL", help="The direct connection, beside a pooler.  [DISPATCH_LISTEN_URL]")
@click.option("--redis-url", metavar="URL", help="The Redis or Valkey that holds the stream.  [REDIS_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(no_trigger: bool, as_json: bool, **flags: str | None) -> int:
    """Examine Postgres, Redis, the outbox and the stream, and say what to do about what is wrong.

    Changes nothing. Give it the settings and the role that the dispatcher has: rights are those of that role.

    \b
    ok       nothing to do
    warning  works, and costs something
    bad      events are late, stopped or at risk: exit code 1
    unknown  this role or user may not ask
    """
    wanted = ("database_url", "listen_url", "redis_url", "handlers", "unrouted", "stream_name", "stream_maxlen")
    settings = Settings.load_some((*wanted, "connect_timeout_ms"), os.environ, flags)
    connect_timeout_s = settings["connect_timeout_ms"] / 1000
    database, listening = (
        PostgresTarget(url, "dispatcher", connect_timeout_s=connect_timeout_s, query_timeout_s=PATIENCE_S)
        for url in (settings["database_url"], settings.get("listen_url") or settings["database_url"])
    )
    findings = anyio.run(
        examine,
        Examination(
            database,
            listening,
            settings.get("redis_url", ""),
            settings["stream_name"],
            settings["stream_maxlen"],
            trigger=not no_trigger,
        ),
    )
    bad = sum(finding.level == "bad" for finding in findings)
    if as_json:
        click.echo(json.dumps({"bad": bad, "findings": [asdict(finding) for finding in findings]}))
    else:
        show(findings, Console())
    return 1 if bad else 0


def show(findings: list[Finding], console: Console) -> None:
    """A table on a terminal, plain lines elsewhere; then a line that sums up."""
    if console.is_terminal:
        table = Table("", "check", "found", "what to do", box=None, padding=(0, 1, 1, 0))
        for each in findings:
            # Names of roles, groups and keys are no markup.
            table.add_row(Text(each.level, STYLES[each.level]), *map(Text, (each.check, each.found, each.remedy or "")))
        console.print(table)
    else:
        for each in findings:
            click.echo(f"{each.level}: {each.check}: {each.found}")
            if each.remedy:
                click.echo(f"    {each.remedy}")
    counts = {level: sum(each.level == level for each in findings) for level in STYLES}
    click.echo(", ".join(f"{count} {level}" for level, count in counts.items() if count))
