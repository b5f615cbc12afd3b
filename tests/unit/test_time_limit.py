"""A test that waits for ever fails, and the run goes on: none of ours may stop CI."""

import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = """
    import asyncio, time
    import pytest

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def resource():
        yield 1
        print("closed")

    async def test_waits(resource):
        await asyncio.get_running_loop().create_future()

    @pytest.mark.timeout(30)
    async def test_may_take_longer(resource):
        await asyncio.sleep(1.5)

    async def test_has_a_timeout_of_its_own(resource):
        async with asyncio.timeout(0):
            await asyncio.sleep(10)

    def test_blocks():
        time.sleep(600)
"""


def test_each_waits_at_most_as_long_as_it_may(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TESTS))
    options = ["-p", "tests.support.time_limit", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    limits = ["-o", "timeout=1", "-o", "timeout_func_only=true", "-s", "-q", f"--rootdir={tmp_path}", "-c", "/dev/null"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *limits, tmp_path / "test_it.py"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert "3 failed, 1 passed" in ran.stdout
    assert "the test took more than 1 s" in ran.stdout
    assert "Timeout (>1.0s)" in ran.stdout
    assert ran.stdout.count("closed") == 3
