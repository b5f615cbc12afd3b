"""The headers of sql/statements: name, parameters, what comes back, and the modules that load the statement."""

import re

from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.tables import made_by
from dispatcher.infra.sqlfiles import load, migrations
from tests.sql_headers import ROOT, STATEMENTS, loaded_by

TABLES = [name for migration in migrations() for name in made_by(migration.sql) if name.isidentifier()]


def test_each_header_says_what_the_code_does() -> None:
    for name, line in loaded_by().items():
        text = STATEMENTS[name].read_text(encoding="utf-8")
        header = "".join(re.findall(r"^--(?!filtered).*\n", text.partition("\nUPDATE ")[0], re.MULTILINE))
        assert text.startswith(f"-- {name}: ")
        assert f"\n{line}\n" in text, f"{name}: run `make schema`, or write: {line}"
        assert not line.endswith("nothing"), f"{name}.sql is loaded by nothing"
        assert re.search(r"^-- Parameters: .*^-- Returns: ", header, re.MULTILINE | re.DOTALL), name
        for parameter in set(re.findall(r"%\((\w+)\)s", text)):
            assert re.search(rf"\b{parameter}\b", header), f"{name}: the header does not name {parameter}"


def test_the_usual_claim_has_nothing_of_the_filtered_one() -> None:
    filter_parameters = {"types", "handled", "since_s"}
    usual, filtered = (set(re.findall(r"%\((\w+)\)s", load("claim", filtered=way))) for way in (False, True))
    assert filtered - usual == filter_parameters
    assert "--filtered: " not in load("claim")


def test_our_tables_are_named_with_only() -> None:
    """A row of a child in inheritance may have the place (ctid) of one of ours: it is never to be taken for that."""
    # What the migrations amount to stands for them: a later file may mend a function of an earlier one.
    files = [ROOT / "sql" / "schema.sql", *STATEMENTS.values(), *(ROOT / "triggers").glob("*.sql")]
    reading = re.compile(rf"\b(?:FROM|JOIN|UPDATE|USING)\s+messaging\.(?:{'|'.join(TABLES)})\b.*")
    found = {f"{path.name}: {match[0]}" for path in files for match in reading.finditer(path.read_text("utf-8"))}
    assert not found, "write ONLY before the table"


def test_no_place_names_a_row_of_a_table_that_may_have_parts() -> None:
    """By ctid rows are named in our own tables (ONLY), or with their part, or the condition is asked twice."""
    others = [*(ROOT / "sql").glob("*.sql"), *(ROOT / "sql" / "client").glob("*.sql")]
    by_place = {path.name for path in others if "ctid" in path.read_text(encoding="utf-8")}
    assert by_place == {"schema.sql", "forget.sql", "migrate_from_dispatchbox.sql"}


def test_each_advisory_lock_of_the_sql_files_has_a_name() -> None:
    named = {value for name, value in vars(locks).items() if name.isupper()}
    files = [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "triggers").glob("*.sql")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    taken = set(re.findall(r"_lock(?:_shared)?\((\d+, \d)\)", text)) | set(re.findall(r"classid = (\d+)", text))
    of_python_alone = {locks.MIGRATION, locks.CRASH_SEARCH, locks.PROVING, locks.HANDOVER}
    assert taken == named - of_python_alone
