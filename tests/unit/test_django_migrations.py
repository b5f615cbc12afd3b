"""Django's migrations are the files of sql/migrations."""

from dispatcher.infra import sqlfiles
from tests.django_migrations import covered, files


def test_each_file_has_one() -> None:
    names = [migration.name for migration in sqlfiles.migrations()]
    assert sorted(covered()) == names, "run `make schema`, and commit the new Django migration"


def test_they_are_a_chain() -> None:
    stems = [path.stem for path in files()]
    for before, path in zip(stems, files()[1:], strict=False):
        if "run_file" in path.read_text(encoding="utf-8"):
            assert f'after="{before}"' in path.read_text(encoding="utf-8")
