"""The doorbell as a Promela model, run by spin where it is installed (Debian: spin, gcc)."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.readme import ROOT

MODEL = ROOT / "docs" / "models" / "doorbell.pml"
# The macros that leave something out, from the model's header.
FLAWS = re.findall(r"^ \*   ([A-Z]+_[A-Z_]+) +[a-z]", MODEL.read_text(encoding="utf-8"), re.MULTILINE)


def errors(folder: Path, *defines: str) -> int:
    """How many errors spin finds; it writes its verifier into `folder`."""
    spin, compiler = shutil.which("spin"), shutil.which("gcc")
    if spin is None or compiler is None:
        pytest.skip("spin or gcc is not installed (apt-get install spin gcc): the Promela model is NOT checked")
    shutil.copy(MODEL, folder)
    run = [spin, *(f"-D{define}" for define in defines), "-run", "-O0", "-safety", "-m100000", MODEL.name]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=250)
    found = re.search(r"errors: (\d+)", done.stdout)
    assert found, f"{done.stdout}\n{done.stderr}"
    assert "too small" not in done.stdout, "the search was cut short"
    return int(found[1])


@pytest.mark.parametrize("writers", [2, 3])
def test_no_committed_row_waits_for_the_tick(tmp_path: Path, writers: int) -> None:
    assert errors(tmp_path, f"NW={writers}", "ND=1") == 0


@pytest.mark.parametrize("flaw", FLAWS)
def test_nothing_can_be_left_out(tmp_path: Path, flaw: str) -> None:
    assert errors(tmp_path, "NW=1", "ND=1", flaw) == 1


def test_each_flaw_of_the_header_is_in_the_model() -> None:
    text = MODEL.read_text(encoding="utf-8")
    assert len(FLAWS) == 7
    assert all(re.search(rf"^#ifn?def {flaw}$", text, re.MULTILINE) for flaw in FLAWS)
