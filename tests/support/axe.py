"""axe-core, which looks for what keeps people with a screen reader or a keyboard out; fetched from npm."""

import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from playwright.async_api import Page

from tests.support.fetched import FETCHED

VERSION = "4.14.1"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = "rules => axe.run(document, { runOnly: { type: 'tag', values: rules }, resultTypes: ['violations'] })"


@pytest.fixture(scope="session")
def axe_script() -> str:
    """Its source. Skips, aloud, where it cannot be had."""
    kept = FETCHED / f"axe-core-{VERSION}" / "axe.min.js"
    if not kept.exists():
        if shutil.which("npm") is None:
            pytest.skip("axe-core is not there, and npm, which would fetch it, is not installed")
        with TemporaryDirectory() as folder:
            command = ["npm", "pack", "--silent", f"axe-core@{VERSION}"]
            done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"axe-core cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
            with tarfile.open(Path(folder) / done.stdout.split()[-1]) as archive:
                found = archive.extractfile("package/axe.min.js")
                assert found is not None
                kept.parent.mkdir(parents=True, exist_ok=True)
                partial = kept.with_suffix(".partial")  # tests side by side: each sees a whole file or none
                partial.write_bytes(found.read())
                partial.replace(kept)
    return kept.read_text()


async def barriers(page: Page, script: str) -> list[str]:
    """What axe finds wrong with the page as it is now: rule, and where."""
    await page.evaluate(script)
    result: dict[str, Any] = await page.evaluate(RUN, RULES)
    return [
        f"{found['id']}: {', '.join(str(node['target']) for node in found['nodes'][:3])}"
        for found in result["violations"]
    ]
