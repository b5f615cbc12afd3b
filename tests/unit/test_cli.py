"""The command line: help that needs no imports, one plain message for each failure, the right exit code."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dispatcher import __version__, cli
from dispatcher.commands.run import run
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.settings import describe


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in describe():
        monkeypatch.delenv(row.env or "-", raising=False)
    monkeypatch.delenv("POSTGRES_URL", raising=False)


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_teaches_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    for step in ("dispatcher demo", "dispatcher migrate", "dispatcher run --enabled", *cli.COMMANDS):
        assert step in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert __version__ in capsys.readouterr().out


def test_help_imports_no_driver() -> None:
    code = "import sys; from dispatcher.cli import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "click" in modules
    assert not {"psycopg", "redis", "aiohttp", "anyio"} & set(modules)


def test_python_m_dispatcher_is_the_same() -> None:
    command = [sys.executable, "-m", "dispatcher", "nonsense"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No such command 'nonsense'" in result.stderr
    assert "Usage: dispatcher" in result.stderr


@pytest.mark.parametrize(("typed", "meant"), [("stats", "status"), ("migrat", "migrate"), ("dql", "dlq")])
def test_a_mistyped_command_is_shown_the_one_that_was_meant(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(typed) == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_is_there_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(name, "--help") == 0
    assert f"Usage: dispatcher {name}" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["nonsense"], ["run", "--nonsense"], ["migrate", "extra"], ["run", "--tick-ms"], []])
def test_bad_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(("Usage: dispatcher", "Error: "))


def test_run_reports_every_bad_setting_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--tick-ms", "0", "--dsn", "mysql://u:hunter2@h") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "dispatcher: 3 settings are wrong:"
    assert [line.split()[0] for line in lines[1:]] == ["--dsn", "REDIS_URL", "--tick-ms"]
    assert "hunter2" not in captured.err


def test_migrate_without_a_database_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("migrate") == 2
    assert capsys.readouterr().err.startswith("dispatcher: DATABASE_URL or POSTGRES_URL is not set")


@pytest.mark.parametrize("command", ["status", "doctor", "run", "prove", "groups"])
def test_a_misspelt_variable_is_named_before_the_error_that_follows_from_it(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URI", "host=secret")
    monkeypatch.setenv("DISPATCH_STREM_NAME", "orders")
    assert call(command) == 2
    first, second, *_ = capsys.readouterr().err.splitlines()
    wanted = "dispatcher: warning: {} is set, but this version has no such setting; did you mean {}?"
    assert first == wanted.format("DATABASE_URI", "DATABASE_URL")
    assert second == wanted.format("DISPATCH_STREM_NAME", "DISPATCH_STREAM_NAME")


def test_run_has_a_flag_for_every_setting() -> None:
    flags = {flag for option in run.params for flag in option.opts}
    assert {row.flag for row in describe()} <= flags
    dispatchbox = {
        "--dsn",
        "--batch-size",
        "--poll-interval",
        "--log-level",
        "--http-host",
        "--http-port",
        "--disable-http",
    }
    assert dispatchbox <= flags


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Misconfigured("the table is missing"), 2, "dispatcher: the table is missing"),
        (Unreachable("nobody answers"), 1, "dispatcher: nobody answers"),
        (ExceptionGroup("", [ExceptionGroup("", [Misconfigured("wrapped")])]), 2, "dispatcher: wrapped"),
        (KeyboardInterrupt(), 130, "dispatcher: interrupted"),
        (click.FileError("x.json", "gone"), 1, "Error: Could not open file 'x.json': gone"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_become_a_message_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli.cli, "get_command", lambda context, name: failing)
    assert call("run") == code
    assert capsys.readouterr().err.strip() == message


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise ExceptionGroup("", [Misconfigured("ours"), ZeroDivisionError()])

    monkeypatch.setattr(cli.cli, "get_command", lambda context, name: failing)
    with pytest.raises(ExceptionGroup):
        cli.main(["run"])


def test_a_commands_answer_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def answering() -> int:
        return 1

    monkeypatch.setattr(cli.cli, "get_command", lambda context, name: answering)
    assert call("run") == 1


def test_a_flag_before_the_command_is_shown_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--dsn", "host=db") == 2
    assert "Name the command first: `dispatcher run --dsn ...`" in capsys.readouterr().err


def test_a_dispatcher_is_out_of_the_garbage_collectors_sight() -> None:
    code = """
import gc, os
from dispatcher import cli, service

async def run(settings):
    print(gc.get_freeze_count())
    return 0

service.run = run
cli.main(["run", "--database-url", "postgresql://h/d", "--redis-url", "redis://h", "--enabled"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000


@pytest.mark.parametrize("command", [["--help"], ["demo", "--seed-only", "--rows", "1000"]])
def test_a_full_disk_below_the_output_is_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dispatcher", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "dispatcher: the output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_full_disk_below_the_errors_leaves_the_exit_code() -> None:
    program = [sys.executable, "-m", "dispatcher", "status", "--database-url", "x"]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(program, stderr=full, stdout=full, check=False).returncode == 2


@pytest.mark.parametrize("command", [["events", "find"], ["dlq", "list", "--event-type"], ["pause", "--reason"]])
def test_an_argument_that_is_no_text_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As a terminal of another encoding gives it: no server would take it."""
    assert call(*command, "\udcff\udcfe") == 2
    assert f"Argument {len(command) + 1} is no text in UTF-8." in capsys.readouterr().err


def test_arguments_are_read_in_utf_8_whatever_the_locale_is() -> None:
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "dispatcher", "nonsense-\u00fc"]
    ran = subprocess.run(command, capture_output=True, check=False, env=dict(os.environ) | locale)
    assert ran.returncode == 2
    assert ascii("nonsense-\u00fc").strip("'") in ran.stderr.decode() or "nonsense-\u00fc" in ran.stderr.decode()
