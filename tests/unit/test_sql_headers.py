"""The headers of sql/statements: name, parameters, what comes back, and the modules that load the statement."""

import re

from dispatcher.infra.postgres import locks
from dispatcher.infra.sqlfiles import load
from tests.sql_headers import ROOT, STATEMENTS, loaded_by


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


def test_each_advisory_lock_of_the_sql_files_has_a_name() -> None:
    named = {value for name, value in vars(locks).items() if name.isupper()}
    files = [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "triggers").glob("*.sql")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    taken = set(re.findall(r"_lock(?:_shared)?\((\d+, \d)\)", text)) | set(re.findall(r"classid = (\d+)", text))
    assert taken == named - {locks.MIGRATION, locks.CRASH_SEARCH}  # which only Python takes
