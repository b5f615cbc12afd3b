"""Options that several commands have in common, and the Postgres that they lead to."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from dispatcher.core.layout import DEFAULT_STREAM, Layout
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.settings import Settings, unknown_variables

F = TypeVar("F", bound=Callable[..., Any])


def options_together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several; `--help` lists them in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def database_options(what: str) -> Callable[[F], F]:
    """--database-url, and --dsn, which is Dispatchbox's name for it."""
    return options_together(
        click.option("--database-url", metavar="URL", help=what),
        click.option("--dsn", metavar="DSN", help="The same as --database-url, by the name it has in Dispatchbox."),
    )


database = database_options("The Postgres that holds the outbox.  [DATABASE_URL]")
redis_url = click.option("--redis-url", metavar="URL", help="The Redis or Valkey that holds the stream.  [REDIS_URL]")
stream_name = click.option(
    "--stream-name", metavar="KEY", help=f"The stream's key.  [DISPATCH_STREAM_NAME; default: {DEFAULT_STREAM}]"
)
json_output = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")


def settings_from(flags: dict[str, str | None], *more: str) -> dict[str, Any]:
    """The settings of the database and `more`, from these flags or else the environment. Raises Misconfigured.

    Warns first of variables whose names are misspelt: they may be why it fails.
    """
    warn_of_unknown_variables(flags)
    return Settings.load_some(("database_url", *more, "connect_timeout_ms"), os.environ, flags)


def warn_of_unknown_variables(flags: Mapping[str, object]) -> None:
    """A line for each variable that looks like ours and is not."""
    for warning in unknown_variables(os.environ, flags):
        click.echo(f"dispatcher: warning: {warning}", err=True)


def postgres_target(settings: dict[str, Any], query_timeout_s: float, *, url: str | None = None) -> PostgresTarget:
    """Where a command connects to. `query_timeout_s` is the limit of one statement, in seconds."""
    return PostgresTarget(
        url or settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=query_timeout_s,
    )


LAYOUT = ("stream_name", "stream_shards", "routes", "order", "order_on_dead")  # the settings that layout_of() needs


def layout_of(settings: dict[str, Any]) -> Layout:
    """Which streams the settings name."""
    parts = (settings[name] for name in LAYOUT)
    return Layout(*parts)


def require_terminal(*, dry_run: bool = True) -> None:
    """Refuse a question that nobody could answer. `dry_run`: whether the command has --dry-run."""
    if not sys.stdin.isatty():
        look = ", or --dry-run to look first" if dry_run else ""
        raise click.UsageError(f"There is no terminal to ask on: give --yes{look}.")
