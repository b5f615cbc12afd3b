"""examples/shop, and docs/how-to/fastapi.md, which shows its files: both run as they say."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp

from dispatcher.embedded import free_port
from tests.support.child import StartCli
from tests.support.examples import EXAMPLES, answers, example, pid_of, running_again
from tests.support.readme import blocks, page
from tests.support.waiting import until

SHOP, PAGE = EXAMPLES / "shop", page("how-to/fastapi.md")
ORDER = {"customer": "ada", "total": "42.50"}


def files() -> dict[str, str]:
    """The files that the page shows, by their paths, which are their first lines."""
    return {
        name: f"# {name}\n{text}" for name, text in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S)
    }


def with_the_outbox(text: str) -> str:
    """A revision as Alembic wrote it, with the lines that the page adds, where it says."""
    [shown] = blocks("4. The migration", "diff", PAGE)
    added = [line[1:] + "\n" for line in shown.splitlines() if line.startswith("+")]
    assert all(line in files()["migrations/versions/0001_orders.py"] for line in added)
    text = text.replace("from alembic import op\n", "from alembic import op\n" + added[0])
    text = re.sub(r"(def upgrade\(\) -> None:\n)", lambda found: found[1] + "".join(added[1:3]), text)
    return text + "".join(added[3:])


async def ordered(url: str) -> None:
    """Order something, and wait for the invoice."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/orders", json=ORDER) as answer:
            assert answer.status == 201, await answer.text()
            number = (await answer.json())["id"]

        async def invoiced() -> Any:
            async with session.get(f"{url}/orders/{number}") as answer:
                return (await answer.json())["invoiced"]

        await until(invoiced, "the worker writes the invoice")


async def test_by_its_one_command() -> None:
    async with example("start.py", env={"PYTHONPATH": str(EXAMPLES)}, folder=SHOP) as shop:
        url = (await shop.line("API: ", timeout=180)).removeprefix("API: ")
        await ordered(url)
        for name in ("worker", "api"):
            pid = pid_of(shop, name)
            os.kill(pid, signal.SIGKILL)
            await running_again(shop, name, pid)
        await ordered(url)
    assert shop.lines[-1] == "Stopped; nothing is left of it."


def test_the_page_shows_the_files_of_the_example() -> None:
    theirs = {
        str(path.relative_to(SHOP)): path.read_text()
        for path in SHOP.rglob("*.py")
        if path.name not in ("start.py", "__init__.py")
    }
    assert files() == theirs


async def test_the_page(cli: StartCli, server_folder: Path, tmp_path: Path) -> None:
    """Each step in its order, in an empty folder, with ports of this test."""
    for folder in ("shop", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    postgres, redis, http, api = (str(free_port()) for _ in range(4))
    ports = ("--postgres-port", postgres, "--redis-port", redis, "--http-port", http)
    servers = await cli("dev", "--run", "--data-dir", str(server_folder / "fastapi"), *ports)
    await servers.line("Ctrl-C stops", timeout=180)
    exports = [await servers.line(f"export {name}=") for name in ("DATABASE_URL", "REDIS_URL")]
    env = dict(line.removeprefix("export ").split("=", 1) for line in exports)

    async def run(*command: str) -> str:
        async with example("-m", *command, env=env, folder=tmp_path) as child:
            assert await child.wait(180) == 0, child.output
        return child.output

    shown = files()
    commands = [line.split() for block in blocks("4. The migration", "sh", PAGE) for line in block.splitlines()]
    assert [command[1] for command in commands] == ["init", "revision", "upgrade", "check"]
    await run(*commands[0])
    for name, text in shown.items():
        if "versions" not in name:
            (tmp_path / name).write_text(text)
    await run(*commands[1])
    [made] = (tmp_path / "migrations" / "versions").glob("*.py")
    assert re.findall(r"op\.(\w+)\(\s*['\"](\w+)", made.read_text()) == [
        ("create_table", "invoices"),
        ("create_table", "orders"),
        ("drop_table", "orders"),
        ("drop_table", "invoices"),
    ]
    made.write_text(with_the_outbox(made.read_text()))
    assert "Running upgrade  -> 0001" in await run(*commands[2])
    assert "No new upgrade operations detected" in await run(*commands[3])

    async with (
        example("-m", "shop.worker", env=env, folder=tmp_path) as worker,
        example("-m", "uvicorn", "shop.api:app", "--port", api, env=env, folder=tmp_path) as server,
    ):
        await answers(f"http://127.0.0.1:{api}/openapi.json", server)
        await ordered(f"http://127.0.0.1:{api}")
        for child in (worker, server):
            child.signal(signal.SIGTERM)
        assert await worker.wait() == 0

    assert "3 passed" in await run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "tests")


async def test_its_own_tests() -> None:
    async with example(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "tests", folder=SHOP
    ) as tests:
        assert await tests.wait(180) == 0, tests.output
    assert "3 passed" in tests.output
