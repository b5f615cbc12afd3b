"""README and docs say what the program does: settings, commands, endpoints, metrics, files."""

import configparser
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from rich.console import Console as Terminal

from dispatcher.cli import COMMANDS, cli
from dispatcher.demo.run import report
from dispatcher.demo.tally import Tally
from dispatcher.service.workers.supervisor import SupervisorTiming
from dispatcher.settings import Settings, describe
from tests.support.readme import README, ROOT, blocks, code, page
from tests.support.runbook import commands

# Variables that are not settings of `dispatcher run`.
OTHER_NAMES = {"OUTBOX_TRIGGER", "OUTBOX_TEST_DATABASE_URL", "OUTBOX_TEST_REDIS_URL"}
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = [
        target
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
        if not target.startswith("https://") and not (document.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    theirs = re.findall(r"^```python\n# (\S+)$", text, re.MULTILINE)  # files that the reader writes
    for name in re.findall(r"(?<![\w/.-])((?:dispatcher|sql|triggers|tests|bench|docs)/[\w./-]+\.\w+(?:::\w+)?)", text):
        path, _, test = name.partition("::")
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(name)
    assert set(missing) <= {"sql/insert_outbox.sql", *theirs}, "a file that is not there (that one is Dispatchbox's)"


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.splitlines()) <= 200
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings == [
        "Try it", "Run it", "Add an event", "Read events", "What is promised", "When not to use it", "How fast it is",
        "Where to go on",
    ]  # fmt: skip


def test_the_picture_is_the_same_in_readme_and_site() -> None:
    [picture] = [block for block in blocks("Outbox dispatcher", "") if "COMMIT" in block]
    assert picture in page("index.md")


GUIDES = [path for path in DOCS if path.parent.name not in ("decisions", "performance")]


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_commands_and_variables_that_are_shown_exist(document: Path) -> None:
    """Also in blocks that no test executes: a command is known, and so are its flags; a variable is a setting."""
    text = document.read_text(encoding="utf-8")
    shell = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL))
    wrong = []
    for _, [program, *arguments] in commands(shell):
        if program != "dispatcher":
            continue
        command = cli.get_command(None, arguments[0]) if arguments else None  # type: ignore[arg-type]
        while isinstance(command, click.Group) and not (command.invoke_without_command and not arguments[1:]):
            arguments = arguments[1:]
            command = command.commands.get(arguments[0])
        known = {name for option in command.params for name in option.opts} if command else set()
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        if command is None or not flags <= known | {"--help"}:
            wrong.append(" ".join(arguments))
    named = set(re.findall(r"\b(?:DISPATCH|OUTBOX|DLQ)_[A-Z_]+[A-Z]\b", text))
    wrong += sorted({name.removesuffix("_FILE") for name in named} - {row.env for row in describe()} - OTHER_NAMES)
    assert wrong == []


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_python_that_is_shown_compiles(document: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, document.name, "exec", dont_inherit=True)


def test_what_contributors_are_told_to_run_and_to_copy_is_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)[ `\n]", guide)) <= targets
    tests = [words for block in blocks("Tests", "sh", guide) for _, words in commands(block) if "pytest" in words[0]]
    assert tests
    assert all((ROOT / words[1]).exists() for words in tests)
    faults = (ROOT / "tests/faults/test_redis.py").read_text(encoding="utf-8")
    assert code("A new fault", "python", guide) in faults, "the example is a copy of a test: copy it again"
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][
        0
    ]
    assert code("The layers", "", guide).strip() == " > ".join(layers["layers"]).replace(" | ", ", ")


def test_the_unit_for_systemd() -> None:
    settings, unit = blocks("Run with systemd", "ini", page("how-to/run-with-systemd.md"))
    names = {line.partition("=")[0] for line in settings.splitlines()}
    assert names <= {row.env for row in describe()}
    parsed = configparser.ConfigParser()
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit)
    grace_s = Settings(database_url="postgresql:///app", redis_url="redis://localhost").shutdown_grace_ms / 1000
    assert float(parsed["Service"]["TimeoutStopSec"]) > grace_s + SupervisorTiming().after_grace
    assert parsed["Service"]["KillMode"] == "mixed"
    assert parsed["Service"]["ExecStart"].split()[1:] == ["run"]


def test_the_services_for_compose() -> None:
    [text] = blocks("In your own compose file", "yaml", page("how-to/run-with-compose.md"))
    services = yaml.safe_load(text)["services"]
    assert {name for each in services.values() for name in each["environment"]} <= {row.env for row in describe()}
    assert all(each["command"][0] in COMMANDS for each in services.values())


def test_nothing_of_the_site_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path))
    subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    text = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.html"))
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\"\s>]+)", text)
    assert any(path.endswith(".css") for path in loaded)
    assert [path for path in loaded if "//" in path] == []


def test_the_result_that_is_shown_is_the_one_that_the_demo_prints() -> None:
    tally = Tally()
    tally.add_committed([(1_000, b"a")])
    tally.add_received([(2_000, [b"a"])])
    shown = io.StringIO()
    report(tally, sent=1, exit_code=0, rate=200).show(Terminal(file=shown, width=100))
    [result] = [block for block in blocks("Try it", "") if "p50" in block]
    assert _labels(result) == _labels(shown.getvalue())
    assert len(_labels(result)) > 5


def _labels(printed: str) -> list[str]:
    return re.findall(r"^│ (.+?) +│", printed, re.MULTILINE)
