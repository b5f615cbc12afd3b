"""Pages of docs/explanation that are written from the tests and the bench are as those would write them today."""

import re
import textwrap
from pathlib import Path

import pytest

from bench.document import DOCUMENT, render
from bench.summary import BLOCK, FIGURES, Cells, cells, summary
from tests import proofs
from tests.faults import table
from tests.support.readme import README, ROOT, blocks, section
from tests.support.readme import table as rows_of

ARCHITECTURE = (proofs.EXPLANATION / "architecture.md").read_text(encoding="utf-8")


def test_every_promise_is_proven_and_every_proof_is_of_a_promise() -> None:
    promised = set(proofs.promises())
    assert len(promised) > 30
    assert set(proofs.proofs()) == promised


def test_the_page_of_proofs_is_as_the_tests_say() -> None:
    assert proofs.page() == proofs.PAGE.read_text(encoding="utf-8"), "run `python -m tests.proofs`"


def test_the_page_of_faults_has_every_test_that_measures_one() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.filled(page, []) == page, "run `python -m tests.faults.table`"


def test_the_first_table_of_performance_has_the_ranges_of_the_others(tmp_path: Path) -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert render(page, {"scenarios": {}}, tmp_path) == page


@pytest.mark.parametrize("place", [place for places in FIGURES.values() for place in places], ids=str)
def test_each_figure_of_the_first_table_is_still_found(place: Cells) -> None:
    blocks = {name: text for _, name, text, _ in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))}
    assert list(cells(blocks[place.scenario], place))


def test_every_decision_is_in_their_index() -> None:
    folder = proofs.EXPLANATION / "decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    titles = {
        path: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in folder.glob("0*.md")
    }
    assert [path.name for path, title in titles.items() if f"| [{title}]({path.name}) |" not in index] == []


@pytest.mark.parametrize("page", sorted(proofs.EXPLANATION.rglob("*.md")), ids=lambda path: path.name)
def test_no_cell_of_a_table_is_too_long_to_read(page: Path) -> None:
    rows = [
        line.strip("|").split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    assert [cell for row in rows for cell in row if len(cell) > 200] == []


def test_the_figures_of_the_readme_are_those_of_the_first_table() -> None:
    lines = summary(DOCUMENT.read_text(encoding="utf-8"))
    quoted = [line for line in README.splitlines() if line.startswith(("| commit to consumer at", "| backlog, "))]
    assert quoted
    assert quoted
    assert [line for line in quoted if not any(whole.startswith(line.rstrip("|")) for whole in lines)] == []


def test_the_turn_that_is_shown_is_the_one_of_the_relay() -> None:
    [shown] = blocks("One turn of the stream relay", "python", ARCHITECTURE)
    source = (ROOT / "dispatcher" / "relay" / "stream" / "relay.py").read_text(encoding="utf-8")
    assert textwrap.indent(shown, "    ") in source, "show it as it reads now"


def test_every_file_of_upkeep_and_every_folder_is_in_its_table() -> None:
    upkeep = " ".join(row[0] for row in rows_of("Beside the relay", ARCHITECTURE))
    assert set(re.findall(r"\w+\.py", upkeep)) == names(ROOT / "dispatcher" / "upkeep", "[!_]*.py")
    folders = section("Folders", ARCHITECTURE)
    # By their code: a folder that moved away may be left behind with its bytecode.
    packages = {file.parent.name for file in ROOT.glob("dispatcher/*/__init__.py")}
    assert set(re.findall(r"`(\w+)/`", folders)) - {"dispatcher", "sql", "triggers"} == packages


def test_every_term_of_the_glossary_is_used() -> None:
    page = proofs.EXPLANATION / "glossary.md"
    terms = re.findall(r"^\| (?!term )([\w -]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 60
    files = [*ROOT.glob("dispatcher/**/*.py"), *ROOT.glob("sql/**/*.sql"), *ROOT.glob("docs/**/*.md")]
    text = " ".join(file.read_text(encoding="utf-8") for file in files if file != page)
    words = re.sub(r"[_\W]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)).lower()
    assert [term for term in terms if f" {term.lower().replace('-', ' ')}" not in words] == []


def names(folder: Path, pattern: str) -> set[str]:
    """Of what is there and matches."""
    return {path.name for path in folder.glob(pattern)}
