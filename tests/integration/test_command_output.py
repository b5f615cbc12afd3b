"""What commands print: their JSON has the shape that the HTTP API describes, their tables fit a terminal and align."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from dispatcher.core.events import LayoutChanged
from dispatcher.sidecar.openapi import DOCUMENT
from tests.support.child import OURS
from tests.support.command import HearCommand
from tests.support.dead_letters import bury
from tests.support.rows import STREAM, insert_events

WIDTH = 80
UNKNOWN = "00000000-0000-0000-0000-000000000000"
LONG = "redis: ERR this is an error of many words that no line of a terminal has room for " * 3
HISTORY = (
    "INSERT INTO messaging.message_history (outbox_id, what, attempt, actor, error) VALUES (%s, 'failed', 1, %s, %s)"
)


def validator(name: str, **other: Any) -> Draft202012Validator:
    """Of a schema of the API. `other`: properties that a command has otherwise."""
    schema = json.loads(json.dumps(DOCUMENT["components"]["schemas"][name]))
    for field, one in other.items():
        if one is None:
            del schema["properties"][field]
            schema["required"].remove(field)
        else:
            schema["properties"][field] = one
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


NUMBER_OR_NULL = {"type": ["integer", "null"]}  # without a dispatcher nobody knows DISPATCH_MAX_ATTEMPTS
# Of each command the object of the API that it prints, as docs/reference/commands.md says.
SHAPES = {
    "events list": validator("EventPage", max_attempts=NUMBER_OR_NULL),
    "events list --status discarded": validator("EventPage", max_attempts=NUMBER_OR_NULL),
    "events find a1": validator("EventPage", max_attempts=NUMBER_OR_NULL),
    "events show {tried}": validator("EventWithHistory", max_attempts=NUMBER_OR_NULL),
    "events show {dead} --payload": validator("EventWithHistory", max_attempts=NUMBER_OR_NULL),
    "dlq list": validator("Page"),
    "dlq show {dead}": validator("DeadEvent"),
    "dlq stats": validator("Stats", aggregate_type=None, event_type=None),
    "held list": validator("HeldPage"),
    "groups": validator("Streams"),
}


@pytest.fixture
async def filled(dispatcher, db, redis, heard: HearCommand) -> dict[str, int]:
    """One event of each kind, with texts that are longer than a line, in an outbox that keeps the order."""
    long: dict[str, Any] = {"event_type": "a.type.of.many.words." * 9, "aggregate_type": "kind" * 30}
    async with dispatcher(order="aggregate", order_on_dead="hold") as running:
        await running.tap.next(LayoutChanged)
    [tried] = await insert_events(
        db, 1, status="retry", attempts=7, last_error=LONG, next_run_at="2100-01-01 00:00:00+00", **long
    )
    await db.execute(HISTORY, [tried, "a-dispatcher-with-a-long-name" * 3, LONG])
    dead, gone = await insert_events(db, 2, **long)
    await bury(db, [dead, gone], LONG)
    await heard("dlq", "discard", str(gone), "--reason", "nobody needs this " * 10)
    await redis.xgroup_create(STREAM, "a-group-" * 20, "0", mkstream=True)
    await redis.xadd(STREAM, {"n": 1})
    return {"tried": tried, "dead": dead}


async def test_json_has_the_shapes_of_the_api(filled, heard: HearCommand):
    for command, shape in SHAPES.items():
        code, out, err = await heard(*command.format_map(filled).split(), "--json")
        assert (code, len(out.splitlines())) == (0, 1), (command, err)
        assert [error.message for error in shape.iter_errors(json.loads(out))] == [], command
    code, out, _ = await heard("status", "--json")
    found = json.loads(out)
    assert set(found) >= {"attention", "outbox", "stream", "problems"}
    fields = {"level", "kind", "what", "since", "do", "page", "runbook", "needs_somebody"}
    assert all(set(each) == fields for each in found["attention"])
    assert {each["kind"] for each in found["attention"]} >= {"nobody", "dead"}


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "count": {"type": "integer", "minimum": 0},
    "number": {"type": "number"},
    "yes or no": {"type": "boolean"},
    "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
    "object": {"type": "object"},
    "list": {"type": "array"},
}


def documented(heading: str) -> Draft202012Validator:
    """The shape that a table of the page gives: `a.b` is a field of an object, `a[].b` one of each object in a list."""
    page = PAGE.read_text(encoding="utf-8")
    _, _, part = page.partition(f"\n### {heading}\n")
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", part.split("\n#")[0], re.MULTILINE)
    assert rows, heading
    root: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for name, kind in rows:
        where, words = root, kind.strip()
        *outer, last = name.split(".")
        for each in outer:
            inner = where["properties"][each.removesuffix("[]")]
            where = inner.setdefault("items", {"type": "object"}) if each.endswith("[]") else inner
            for key, value in (("properties", {}), ("required", []), ("additionalProperties", False)):
                where.setdefault(key, value)
        schema = dict(KINDS[words.removesuffix(" or absent").removesuffix(" or null")])
        if " or null" in words:
            schema["type"] = [schema["type"], "null"]
        where["properties"][last] = schema
        if not words.endswith(" or absent"):
            where["required"].append(last)
    return Draft202012Validator(root)


async def test_json_has_the_shapes_of_the_page(filled, heard: HearCommand, db):
    """Of the commands that have no endpoint; a field that is new, gone or of another type fails here."""
    await db.execute(
        "UPDATE messaging.message_outbox SET status = 'sent', sent_at = now() WHERE id = %s", [filled["tried"]]
    )
    order = {"DISPATCH_ORDER": "aggregate", "DISPATCH_ORDER_ON_DEAD": "hold"}
    for heading, *commands in (
        ("pause and resume", "pause --reason x --timeout 0", "resume --timeout 0"),
        ("replay", "replay --all --dry-run", f"replay --event-id {UNKNOWN} --yes", "replay --all --yes"),
        ("prune", "prune --dry-run", "prune --only dlq --yes"),
        ("layout", "layout"),
        ("doctor", "doctor"),
        ("status", "status"),
    ):
        for command in commands:
            code, out, err = await heard(*command.split(), "--json", **order)
            assert code in (0, 1), (command, err)
            wrong = [
                f"{list(error.path)}: {error.message[:300]}"
                for error in documented(heading).iter_errors(json.loads(out))
            ]
            assert wrong == [], command


def on_terminal(url: str, redis_url: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """What the command writes to a terminal of WIDTH columns, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "COLUMNS", "LINES"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=kept | {"DATABASE_URL": url, "REDIS_URL": redis_url, "TERM": "xterm"},
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) in codes, arguments
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).replace("\r\n", "\n")


TABLES = ("events list", "events list --status discarded", "dlq list", "dlq stats", "held list", "groups", "status")


async def test_tables_fit_a_terminal_and_align_when_they_are_piped(
    filled, heard: HearCommand, database_url: str, redis_url: str
):
    for command in (*TABLES, "events show {tried}"):
        arguments = command.format_map(filled).split()
        shown = await to_thread.run_sync(on_terminal, database_url, redis_url, *arguments)
        table = [line for line in shown.splitlines() if is_row(command, line)]
        assert table, command
        assert [line for line in table if len(line) > WIDTH] == [], command
        _, piped, _ = await heard(*arguments)
        assert "…" not in piped, command  # nothing is cut off where a program reads it
        if command in ("events list", "dlq list"):
            head, row, *_ = piped.splitlines()
            for name in ("event type", "aggregate", "error"):
                at = head.index(name)
                assert (row[at - 1], row[at] != " ") == (" ", True), (command, name)


WRAPPED = ("status", "doctor", "layout", "replay --all --dry-run", "prune --dry-run")


async def test_sentences_wrap_by_words_on_a_terminal_and_are_one_line_each_when_piped(
    filled, heard: HearCommand, database_url: str, redis_url: str
):
    for command in WRAPPED:
        arguments = command.split()
        ask = partial(on_terminal, database_url, redis_url, *arguments, codes=(0, 1))
        shown = [line.rstrip() for line in (await to_thread.run_sync(ask)).splitlines()]
        assert [line for line in shown if len(line) > WIDTH and " " in line.strip()] == [], command
        _, piped, _ = await heard(*arguments)
        if command in ("status", "doctor"):
            [whole, *_] = [line for line in piped.splitlines() if line.startswith("bad: ")]
            assert len(whole) > WIDTH, command  # what a script greps for is on one line
            words = " ".join(each.strip() for each in shown)
            assert whole[:200].split(" since ")[0] in words, command  # and no word is broken or lost


def is_row(command: str, line: str) -> bool:
    """Of a table: a sentence for a person wraps where the terminal ends."""
    if command == "status":
        return line.startswith(("│", "┌", "├", "└"))
    return "  " in line.strip() and not re.match(r"[a-z_]+: ", line)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["status", "dlq list", "events list", "dlq stats", "replay --all --dry-run"])
def test_commands_work_where_nobody_reads_them(words: str, closed: str, database_url: str, redis_url: str) -> None:
    """As cron and some supervisors start them; the exit code is what is asked for."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m dispatcher {words} {closed}', sys.executable],
        env=os.environ | {"DATABASE_URL": database_url, "REDIS_URL": redis_url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
