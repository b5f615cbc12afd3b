"""Writes a Django migration for each file of sql/migrations that has none: `python -m tests.django_migrations`.

`make schema` does so.
"""

import re
from pathlib import Path

from dispatcher.infra import sqlfiles

FOLDER = Path(__file__).parents[1] / "dispatcher" / "client" / "django" / "migrations"
TEXT = '''"""Runs sql/migrations/{name}.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = ({dependency})
    operations = (RunFile("{name}"),)
'''


def files() -> list[Path]:
    """The migrations, first to last."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def covered() -> list[str]:
    """The files of sql/migrations that they run, in order."""
    return [name for path in files() for name in re.findall(r'RunFile\("(\w+)"\)', path.read_text(encoding="utf-8"))]


def main() -> None:
    """Write what is missing."""
    for migration in sqlfiles.migrations():
        if migration.name not in covered():
            last = files()[-1].stem if files() else None
            number = int(last[:4]) + 1 if last else 1
            dependency = f'("outbox_dispatcher", "{last}"),' if last else ""
            text = TEXT.format(name=migration.name, dependency=dependency)
            (FOLDER / f"{number:04}_{migration.name}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
