"""What the commands of `dispatcher dlq` and `held` have in common: how an event is named, the filters, the session."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import TypeVar

import anyio
import click

from dispatcher.commands.options import options_together, postgres_target, settings_from
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.dead_letters.find import Filter
from dispatcher.ops.dead_letters.identity import EventRef, parse
from dispatcher.ops.session import ask as ask_postgres

STATEMENT_S = 600.0  # counting reads every dead event

# What a role may not do, and how to narrow a question down that took too long.
DEAD_LETTERS = ("see to dead letters", "narrow it down with --event-type or --aggregate-type")
HELD = ("see to held aggregates", "narrow it down with --aggregate-type or --aggregate-id")
EVENTS = ("look at events", "narrow it down with --event-type, --aggregate-type or --status")

T = TypeVar("T")


class EventParam(click.ParamType[EventRef]):
    """The number of a row, or an event_id."""

    name = "event"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> EventRef:
        try:
            return parse(str(value))
        except ValueError as error:
            self.fail(f"'{value}' is no event: it must be {error}", param, ctx)


filters = options_together(
    click.option("--event-type", metavar="TYPE", help="Only of this event type."),
    click.option("--aggregate-type", metavar="TYPE", help="Only of this aggregate type."),
    click.option("--aggregate-id", metavar="ID", help="Only of this aggregate."),
    click.option("--error", "last_error", metavar="TEXT", help="Only with exactly this error; '' for none."),
    click.option("--error-code", metavar="CODE", help="Only of this group of errors, as `dlq stats` lists it."),
    click.option("--error-like", metavar="TEXT", help="Only with an error that contains this, in any case."),
)


def ask(
    flags: dict[str, str | None], question: Callable[[Fetch], Awaitable[T]], subject: Sequence[str] = DEAD_LETTERS
) -> T:
    """Open a session, put one question, close it. Raises DispatcherError."""
    verb, *too_slow = subject
    where = postgres_target(settings_from(flags), STATEMENT_S)
    return anyio.run(ask_postgres, where, verb, lambda session: question(session.fetch), *too_slow)


def filter_of(flags: dict[str, str | None]) -> Filter:
    """The filters of these flags, which are taken out of them: what is left are those of the connection."""
    return Filter(**{field.name: flags.pop(field.name, None) for field in fields(Filter)})
