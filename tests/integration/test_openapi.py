"""The OpenAPI document says what the sidecar does: every route, and what schemathesis makes of it."""

import os
import re
import sys
from pathlib import Path

import anyio

from dispatcher.sidecar import app
from dispatcher.sidecar.rate_limit import RateLimiter, RateLimits
from tests.support.dead_letters import bury
from tests.support.rows import insert_events

TOKEN = "s3cret"


async def test_schemathesis_finds_nothing(dispatcher, db, tmp_path: Path, monkeypatch):
    """Each of the phases that ends by itself, every check; the seed makes a failure come again."""
    monkeypatch.setattr(app, "RateLimiter", lambda _: RateLimiter(RateLimits(rate=1e6)))
    await bury(db, await insert_events(db, 20))
    options = [
        *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "3", "--phases", "examples,coverage,fuzzing"),
        *("--checks", "all", "--seed", "1", "--continue-on-failure", "--no-color"),
    ]
    async with dispatcher(http_enabled=True, api_token=TOKEN) as running:
        run = [sys.executable, "-m", "schemathesis.cli", "run", f"{running.http_url}/api/openapi.json"]
        done = await anyio.run_process(
            run + options, check=False, cwd=tmp_path, env={"PATH": os.environ["PATH"], "NO_COLOR": "1"}
        )
    output = done.stdout.decode()
    assert done.returncode == 0, output + done.stderr.decode()
    [generated] = re.findall(r"(\d+) generated", output)
    assert int(generated) > 100, output
