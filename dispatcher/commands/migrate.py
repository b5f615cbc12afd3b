"""`dispatcher migrate`: brings a database up to date."""

import os
from functools import partial

import anyio
import click

from dispatcher.infra.postgres import migrations
from dispatcher.settings import Settings


@click.command()
@click.option("--database-url", metavar="URL", help="The Postgres to migrate.  [DATABASE_URL]")
@click.option("--dsn", metavar="DSN", help="Dispatchbox's name for --database-url.")
@click.option(
    "--no-trigger", is_flag=True, help="Leave the doorbell trigger out: the dispatcher then works on its tick."
)
def migrate(database_url: str | None, dsn: str | None, no_trigger: bool) -> None:
    """Create or update the tables in the schema messaging, and install the doorbell trigger.

    May be run any number of times, from many pods at once, on a busy database. Needs the owner of the schema, or a role
    with CREATE on the database.
    """
    flags = {"database_url": database_url, "dsn": dsn}
    values = Settings.load_some(["database_url", "connect_timeout_ms"], os.environ, flags)
    applied = anyio.run(
        partial(
            migrations.migrate,
            values["database_url"],
            trigger=not no_trigger,
            connect_timeout_s=values["connect_timeout_ms"] / 1000,
        )
    )
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("already up to date")
