"""`dispatcher sql`: prints SQL that a person runs, from wherever the dispatcher is installed."""

import click

from dispatcher.commands.suggest import SuggestingGroup
from dispatcher.infra import sqlfiles


@click.group(cls=SuggestingGroup)
def sql() -> None:
    """Print SQL for a person to run. The tables: `dispatcher migrate --print`."""


@sql.command()
def roles() -> None:
    """The group roles of producers, dispatchers and pruners, with no more rights than they need.

    Run it after each release, as the owner of the tables with CREATEROLE, any number of times:

    dispatcher sql roles | psql "$DATABASE_URL"
    """
    click.echo(sqlfiles.roles(), nl=False)


@sql.command("handled-event")
def handled_event() -> None:
    """The table in which a consumer notes what it has done, for the consumer's own database."""
    click.echo(sqlfiles.client("handled_event"), nl=False)
