"""The runbook: each of its commands and SQL statements is read out of its pages and executed."""

import asyncio
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from dispatcher.cli import COMMANDS, cli
from dispatcher.embedded import EmbeddedValkey, free_port
from tests.support.child import StartCli
from tests.support.command import RunCommand
from tests.support.layouts import stand_in_order
from tests.support.psql import client_program
from tests.support.readme import ROOT
from tests.support.rows import STREAM, insert_events
from tests.support.runbook import SQL_VERBS, Section, commands, sections, statements
from tests.support.running import StartDispatcher

DOCS = ROOT / "docs"
HOW_TO = [DOCS / "how-to" / name for name in ("canary.md", "go-live.md", "upgrade.md")]
PAGES = [*sorted((DOCS / "runbook").glob("*.md")), *HOW_TO]
ALL = [(path.stem, section) for path in PAGES for section in sections(path.read_text(encoding="utf-8"))]
SECTIONS = [(page, section) for page, section in ALL if section.blocks]
EVENT_ID = "0f5c1a52-7b7e-4c43-9f0e-1b7a3c9d2e10"
TOKEN = "a-token-of-this-test"
# What a reader fills in.
PLACES = {"<uuid>": EVENT_ID}
REDIS_PLACES = {"STREAM": STREAM, "GROUP": "billing", "ID": "0-0"}


class Answers:
    """A terminal on which somebody says yes."""

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return "y\n"


@pytest.fixture(scope="module")
def valkey(server_folder: Path) -> Iterator[EmbeddedValkey]:
    """One that keeps what it has, or doctor would find that bad."""
    with EmbeddedValkey(server_folder / "runbook", appendonly=True) as server:
        yield server


@pytest.fixture
async def stream(valkey: EmbeddedValkey) -> AsyncIterator["Redis"]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        await redis.flushall()
        yield redis


async def seed(db: psycopg.AsyncConnection, redis: "Redis", *, dead: bool) -> None:
    """Rows of every kind: those the page names are 4711 to 4713, dead or waiting for their next try."""
    for table in ("message_outbox", "message_dlq"):  # TRUNCATE could meet the prune of a dispatcher in a deadlock
        await db.execute(f"DELETE FROM messaging.{table}".encode())
    sent = {"status": "sent", "sent_at": "now"}
    await insert_events(db, 1, id=4701, event_id=EVENT_ID, **sent)
    await insert_events(db, 1, id=4702, **sent | {"sent_at": "2025-06-01 12:10:00+00"})
    await insert_events(db, 1, id=4703, **sent | {"sent_at": "2025-05-01 12:00:00+00"})
    await insert_events(db, 1, id=4704, status="picked", picked_at="now", next_run_at="infinity")
    for number in (4711, 4712, 4713):
        status = {"status": "dead" if dead else "retry", "attempts": 10 if dead else 1}
        error = "TimeoutError: the handler did not end within 60 s" if dead else "ServerLost: Redis ends"
        await insert_events(db, 1, id=number, last_error=error, **status)
    await redis.delete(STREAM)
    await redis.xgroup_create(STREAM, "billing", mkstream=True)
    await redis.delete(f"{STREAM}:billing:dead")
    await redis.xadd(f"{STREAM}:billing:dead", {"event_id": EVENT_ID}, id="1764511200000-0")


class Runner:
    """Executes what stands in one section."""

    def __init__(
        self, command: RunCommand, start: StartCli, db: psycopg.AsyncConnection, redis: "Redis", env: dict[str, str]
    ) -> None:
        self._command = command
        self._start = start
        self._db = db
        self._redis = redis
        self.env = env

    async def sql(self, text: str) -> None:
        for statement in statements(text):
            cursor = await self._db.execute(statement.encode())
            if statement.startswith("UPDATE"):
                assert cursor.rowcount, f"it changes nothing: {statement}"

    async def shell(self, text: str) -> None:
        for place, value in PLACES.items():
            text = text.replace(place, value)
        for env, words in commands(text):
            words = [re.sub(r"\$(\w+)", lambda match: self.env[match[1]], word) for word in words]
            words = [word.replace("localhost:8080", f"127.0.0.1:{self.env['DISPATCH_HTTP_PORT']}") for word in words]
            if words[3:5] == ["|", "psql"]:
                code, output = await self._command(*words[1:3], **self.env)
                assert code == 0, output
                await run(str(client_program("psql")), "-X", *words[5:], stdin=output)
                continue
            program, arguments = words[0], words[1:]
            execute: Callable[..., object] | None = getattr(self, program.replace("-", "_"), None)
            assert execute, f"say here how {program} is executed"
            await execute(arguments, self.env | env)  # type: ignore[misc]

    async def dispatcher(self, arguments: list[str], env: dict[str, str]) -> None:
        if arguments == ["run"] or "--watch" in arguments:
            env = {name: value for name, value in env.items() if name != "DISPATCH_HTTP_PORT"}  # the child has its own
            child = await self._start(*arguments, env=env)
            await (child.ready() if arguments == ["run"] else child.line("Ctrl-C ends"))
            child.signal(signal.SIGINT)
            assert await child.wait() == 0, child.output
            return
        code, output = await self._command(*(REDIS_PLACES.get(word, word) for word in arguments), **env)
        if arguments[0] == "prove" and code == 1:  # on a busy machine only its latency may be against it
            assert re.fullmatch(r"\s*p95 is .*\s*", output.rpartition("┘")[2]), output
            return
        assert code == 0, f"dispatcher {' '.join(arguments)}: {output}"

    async def redis_cli(self, arguments: list[str], env: dict[str, str]) -> None:
        if arguments[0] == "-u":
            assert arguments[1] == self.env["REDIS_URL"]
            del arguments[:2]
        filled = [*arguments[:2], *(REDIS_PLACES.get(word, word) for word in arguments[2:])]
        await self._redis.execute_command(*filled)  # type: ignore[no-untyped-call]

    async def psql(self, arguments: list[str], env: dict[str, str]) -> None:
        await run(str(client_program("psql")), "-X", "-v", "ON_ERROR_STOP=1", *arguments)

    async def curl(self, arguments: list[str], env: dict[str, str]) -> None:
        if shutil.which("curl") is None:
            pytest.skip("there is no curl")
        await run("curl", "--silent", "--show-error", "--fail-with-body", *arguments)


async def run(*words: str, stdin: str = "") -> None:
    """Run a program in the checkout; it must end with 0."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate(stdin.encode())
    assert process.returncode == 0, f"{' '.join(words)}: {output.decode()}"


@pytest.fixture
def runner(
    command: RunCommand,
    cli: StartCli,
    db: psycopg.AsyncConnection,
    stream: "Redis",
    valkey: EmbeddedValkey,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Runner:
    monkeypatch.setattr(sys, "stdin", Answers())
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey.url,
        "DISPATCH_API_TOKEN": TOKEN,
        "DISPATCH_HTTP_PORT": str(free_port()),
    }
    return Runner(command, cli, db, stream, env)


@pytest.mark.parametrize(
    ("page", "section"), SECTIONS, ids=[f"{page}: {section.heading}" for page, section in SECTIONS]
)
async def test_commands_and_statements(
    page: str,
    section: Section,
    runner: Runner,
    db: psycopg.AsyncConnection,
    stream: "Redis",
    dispatcher: StartDispatcher,
    valkey: EmbeddedValkey,
) -> None:
    shell = any(language == "sh" for language, _ in section.blocks)
    dead = shell or any("WHERE status = 'dead'" in text for _, text in section.blocks)

    async def execute() -> None:
        for language, text in section.blocks:
            await seed(db, stream, dead=dead)
            if page == "slots-without-owner":
                # Of nobody that is there.
                await db.execute("UPDATE messaging.slot_owner SET owner = 4711 WHERE slot = 7")
            if "XGROUP CREATE" in text:  # it undoes the block before it
                await stream.xgroup_destroy(STREAM, "billing")
            if page == "held-aggregates":
                await stand_in_order(db, "hold")
                await insert_events(db, 1, id=4720)  # waits behind the dead ones
            match language:
                case "sql":
                    await runner.sql(text)
                case "sh":
                    await runner.shell(text)
                case "" if text.startswith("ACL SETUSER"):
                    await stream.execute_command(*re.findall(r"\([^)]*\)|\S+", text))  # type: ignore[no-untyped-call]
                case _:
                    pytest.fail(f"say here how {language!r} is executed")

    if not shell:
        await execute()
        return
    port = int(runner.env["DISPATCH_HTTP_PORT"])
    sidecar = {"http_enabled": True, "http_host": "127.0.0.1", "http_port": port, "api_token": TOKEN}
    async with dispatcher(redis_url=valkey.url, tick_ms=100, **sidecar):
        await execute()


GROUP_PAGES = ("backpressure", "group-not-read")


@pytest.mark.parametrize("page", GROUP_PAGES)
async def test_a_command_that_ends_a_group_ends_none_until_it_is_filled_in(
    page: str, stream: "Redis", runner: Runner, command: RunCommand
) -> None:
    await stream.xgroup_create(STREAM, "billing", mkstream=True)
    pasted = [
        words
        for each, section in SECTIONS
        for language, text in section.blocks
        for _, words in (commands(text) if language == "sh" else [])
        if each == page
    ]
    assert ["dispatcher", "groups", "destroy", "GROUP"] in pasted
    for words in pasted:
        if words[0] == "redis-cli":
            with pytest.raises(ResponseError):
                await stream.execute_command(*words[3:])  # type: ignore[no-untyped-call]
        elif "destroy" in words:
            assert (await command(*words[1:], **runner.env))[0] == 1
    assert [group["name"] for group in await stream.xinfo_groups(STREAM)] == ["billing"]


async def test_a_group_that_was_destroyed_by_mistake_is_made_again_where_it_stood(stream: "Redis") -> None:
    ids = [await stream.xadd(STREAM, {"n": n}) for n in range(4)]
    await stream.xgroup_create(STREAM, "billing", "0")
    await stream.xreadgroup("billing", "one", {STREAM: ">"}, count=2)
    await stream.xack(STREAM, "billing", ids[0])
    [group] = await stream.xinfo_groups(STREAM)
    await stream.xgroup_destroy(STREAM, "billing")
    await stream.xgroup_create(STREAM, "billing", group["last-delivered-id"])
    [group] = await stream.xinfo_groups(STREAM)
    assert (group["last-delivered-id"], group["pending"]) == (ids[1], 0)
    read: Any = await stream.xreadgroup("billing", "one", {STREAM: ">"})
    assert [entry for entry, _ in read[0][1]] == ids[2:]  # what was read and not acknowledged does not come again


INLINE = [(page, code) for page, section in ALL for code in section.inline]


def test_no_statement_hides_between_backticks() -> None:
    """It would not be executed: it belongs into a block."""
    assert [code for _, code in INLINE if code.startswith(SQL_VERBS) and " " in code] == []


def test_commands_between_backticks() -> None:
    named = [code for _, code in INLINE if code.startswith("dispatcher ") and "<" not in code]
    assert len(named) > 5
    for code in named:
        name, *arguments = code.removeprefix("dispatcher ").split()
        assert name in COMMANDS, code
        with click.Context(cli) as context:
            found = cli.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group) and arguments and not arguments[0].startswith("-"):
            found = found.commands.get(arguments[0])
            assert found is not None, code
        options = {flag for option in found.params for flag in option.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, code


def test_the_runner_sees_what_is_wrong() -> None:
    """A page that is not executed would never fail."""
    [section] = [
        each
        for each in sections("# One\n\nSay `SELECT 1`.\n\n```sh\nA=1 dispatcher \\\n  x 'y z'  # not this\n```\n")
        if each.heading
    ]
    assert section.inline == ["SELECT 1"]
    assert commands(section.blocks[0][1]) == [({"A": "1"}, ["dispatcher", "x", "y z"])]
    assert statements("-- a\nSELECT 1;\nSELECT 2") == ["SELECT 1", "SELECT 2"]
    assert sum(language in ("sh", "sql") for _, each in SECTIONS for language, _ in each.blocks) > 40
