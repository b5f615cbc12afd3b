"""The operation of our migrations, which runs one file of sql/migrations, and the migrations that have it."""

from typing import Any

from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation

from dispatcher.client.django import schema
from dispatcher.infra import migration_script, sqlfiles


class RunFile(Operation):
    """Run sql/migrations/<name>.sql, unless it is applied already; and what an interrupted migration left out before.

    Undone with the first file only, which drops the outbox: tables of a newer release are good for an older one.
    """

    reversible = True
    reduces_to_sql = True

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"Run {self.name}.sql of outbox-dispatcher"

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing: the models are unmanaged, so Django's state does not know the tables."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Apply the file where the outbox may be; `manage.py sqlmigrate` prints its SQL.

        Raises Misconfigured for a file that was applied with other contents, and an error of the database.
        """
        if not schema.hosts_outbox(schema_editor.connection.alias):
            return
        if schema_editor.collect_sql:
            files = dict(migration_script.steps(trigger=False))
            schema_editor.execute(migration_script.BOOKKEEPING.strip(), None)
            schema_editor.execute(migration_script.noted(self.name, files[self.name]), None)
        else:
            schema.bring_up(schema_editor.connection, self.name)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop the outbox, if this is its first file. An error while events wait, are dead, or a dispatcher runs."""
        first = sqlfiles.migrations()[0]
        if self.name != first.name or not schema.hosts_outbox(schema_editor.connection.alias):
            return
        if schema_editor.collect_sql:
            schema_editor.execute(sqlfiles.client("drop_outbox"), None)
        else:
            schema.drop(schema_editor.connection)


def run_file(name: str, *, after: str) -> type[Migration]:
    """The migration that runs sql/migrations/<name>.sql, after another one of ours. It has a transaction of its own."""
    body = {"atomic": False, "dependencies": [("outbox_dispatcher", after)], "operations": [RunFile(name)]}
    return type("Migration", (Migration,), body)
