"""What the commands of `dispatcher dlq` take, and how they ask Postgres."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import click

from dispatcher.infra.postgres.session import Fetch, PostgresTarget
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef, parse
from dispatcher.ops.session import OperatorSession
from dispatcher.settings import Settings

PATIENCE_S = 600.0  # for one statement: counting reads every dead event

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class DeadLetters(OperatorSession):
    """The session of these commands."""

    verb = "see to dead letters"
    too_slow = "narrow it down with --event-type or --aggregate-type"


class Event(click.ParamType[EventRef]):
    """The number of a row, or an event_id."""

    name = "event"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> EventRef:
        """An int or a UUID."""
        try:
            return parse(str(value))
        except ValueError as error:
            self.fail(f"'{value}' is no event: it must be {error}", param, ctx)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


database = _options(
    click.option("--database-url", metavar="URL", help="The Postgres that holds the outbox.  [DATABASE_URL]"),
    click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url."),
)
filters = _options(
    click.option("--event-type", metavar="TYPE", help="Only of this event type."),
    click.option("--aggregate-type", metavar="TYPE", help="Only of this aggregate type."),
    click.option("--error", "last_error", metavar="TEXT", help="Only with this last_error, whole; '' is none."),
)
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API does.")


def ask(flags: dict[str, str | None], question: Callable[[Fetch], Awaitable[T]]) -> T:
    given = {name: flags.get(name) for name in ("database_url", "dsn")}
    settings = Settings.load_some(("database_url", "connect_timeout_ms"), os.environ, given)
    target = PostgresTarget(
        settings["database_url"],
        "dispatcher",
        connect_timeout_s=settings["connect_timeout_ms"] / 1000,
        query_timeout_s=PATIENCE_S,
    )
    return anyio.run(_asked, target, question)


async def _asked(target: PostgresTarget, question: Callable[[Fetch], Awaitable[T]]) -> T:
    async with DeadLetters(target) as errand:
        with errand.explained():
            return await question(errand.session.fetch)


def filter_of(flags: dict[str, str | None]) -> Filter:
    return Filter(flags.get("event_type"), flags.get("aggregate_type"), flags.get("last_error"))
