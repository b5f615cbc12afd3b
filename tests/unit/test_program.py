"""How demo and dev name the program: as the user's own shell would find it."""

import os
import sys
from pathlib import Path

import pytest

from dispatcher.demo.program import program


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of its own in a checkout, in which we run."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.devnull)
    script = folder / "dispatcher"
    script.touch(mode=0o755)
    return script


def test_its_name_where_the_shell_finds_it(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(ours.parent))
    assert program() == "dispatcher"


def test_its_path_where_the_shell_finds_another_or_none(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program() == ".venv/bin/dispatcher"
    (tmp_path / "dispatcher").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ".venv/bin/dispatcher"
    monkeypatch.chdir(ours.parent)
    assert program() == "./dispatcher"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program() == str(ours)


def test_the_module_where_there_is_no_script(ours: Path) -> None:
    ours.unlink()
    assert program() == f"{sys.executable} -m dispatcher"
