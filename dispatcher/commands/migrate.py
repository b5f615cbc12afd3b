"""`dispatcher migrate`: creates or updates the tables."""

from functools import partial

import anyio
import click

from dispatcher.commands.options import database_options, settings_from
from dispatcher.infra import migration_script
from dispatcher.infra.postgres import migrations


@click.command()
@database_options("The Postgres to migrate.  [DATABASE_URL]")
@click.option(
    "--no-trigger", is_flag=True, help="Leave the doorbell trigger out: the dispatcher then works on its tick."
)
@click.option("--print", "only_print", is_flag=True, help="Print the SQL for psql, and connect to nothing.")
def migrate(no_trigger: bool, only_print: bool, **flags: str | None) -> None:
    """Create or update the tables in the schema messaging, and install the doorbell trigger.

    May be run any number of times, from many pods at once, on a busy database. Needs the owner of the schema, or a role
    with CREATE on the database.
    """
    if only_print:
        click.echo(migration_script.script(trigger=not no_trigger), nl=False)
        return
    settings = settings_from(flags)
    applied = anyio.run(
        partial(
            migrations.migrate,
            settings["database_url"],
            trigger=not no_trigger,
            connect_timeout_s=settings["connect_timeout_ms"] / 1000,
            note=lambda text: click.echo(f"dispatcher: warning: {text}", err=True),
        )
    )
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("already up to date")
