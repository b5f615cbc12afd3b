""".ci/run: a test that passes only the second time is named where it stays seen; what fails twice fails the run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.readme import ROOT

RACES = (ROOT / "tests" / "RACES.md").read_text(encoding="utf-8")
NAME = "tests/unit/test_a.py::test_x[18]"
# `make test` fails as often as FAILS says, and then leaves pytest's record of the tests in FAILED.
MAKEFILE = r"""
tools lint types contracts docs wheel oldest: ; @true
test:
	@mkdir -p .pytest_cache/v/cache
	@echo run >> runs
	@[ $$(wc -l < runs) -gt $(FAILS) ] || { printf '$(FAILED)' > .pytest_cache/v/cache/lastfailed; exit 1; }
	@echo "== 1 passed in 0.01s =="
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with .ci/run and a Makefile whose tests fail at first."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in (".ci/run", ".ci/test", "tests/RACES.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def run(checkout: Path, fails: int, *failed: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run as GitHub would."""
    record = "{\\n" + ",\\n".join(f'  "{name}": true' for name in failed) + "\\n}"
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(checkout / "summary.md")}
    of_our_own_run = ("MAKE", "MFLAGS", "PYTEST_ARGS", "RERUN_AT_MOST")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(of_our_own_run)}
    return subprocess.run(
        [checkout / ".ci" / "run"],
        env=ours | github | {"FAILS": str(fails), "FAILED": record},
        capture_output=True,
        text=True,
    )


def test_a_run_without_a_race_ends_with_the_line_of_pytest(checkout: Path) -> None:
    done = run(checkout, 0)
    assert done.returncode == 0, done.stderr
    assert f"== make test (known races in tests/RACES.md: {RACES.count(chr(10) + '| 20')})\n" in done.stdout
    assert done.stdout.endswith("== 1 passed in 0.01s ==\n")
    assert not (checkout / "summary.md").exists()


def test_a_race_is_named_at_the_end_and_on_github(checkout: Path) -> None:
    done = run(checkout, 1, NAME)
    assert done.returncode == 0, done.stderr
    last = done.stdout.partition("== 1 passed in 0.01s ==\n")[2]
    assert "passed alone: 1\nAdd this line to tests/RACES.md:\n| 20" in last
    assert f"| `{NAME}` | not yet understood |\n::warning title=Passed only alone::{NAME} has a race\n" in last
    assert f"`{NAME}`" in (checkout / "summary.md").read_text()


def test_a_known_race_is_named_with_what_is_known(checkout: Path) -> None:
    line = f"| 2026-11-28 | `{NAME}` | the clock of the test is too fast |"
    none_yet = "".join(each for each in RACES.splitlines(keepends=True) if not each.startswith("| 20"))
    (checkout / "tests" / "RACES.md").write_text(f"{none_yet}{line}\n")
    done = run(checkout, 1, NAME)
    assert done.returncode == 0, done.stderr
    assert f"passed alone: 1\n{line}\n" in done.stdout
    assert f": 1)\n{line}\n" in done.stdout
    assert "Add this line" not in done.stdout


@pytest.mark.parametrize(("fails", "failed"), [(2, [NAME]), (1, []), (1, [f"{NAME}{number}" for number in range(6)])])
def test_what_fails_alone_or_in_number_fails_the_run(checkout: Path, fails: int, failed: list[str]) -> None:
    assert run(checkout, fails, *failed).returncode != 0


def test_known_races_are_tests_that_exist() -> None:
    for line in RACES.splitlines():
        if line.startswith("| 20"):
            file, _, test = line.split("`")[1].partition("::")
            assert f"def {test.partition('[')[0].rpartition('::')[2]}(" in (ROOT / file).read_text()
