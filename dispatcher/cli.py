"""The command line: finds the command, and turns a failure into one plain message and an exit code.

0 done, 1 failed (waiting may help), 2 bad usage or configuration, 130 interrupted, 143 ended by SIGTERM. Never a
traceback for these.
"""

import sys

from dispatcher.infra import descriptors, early_stop

if __name__ == "__main__":  # `python -m dispatcher.cli`, as Dispatchbox was started
    descriptors.open_closed_standard_streams()
    early_stop.end_on_signals(sys.argv[1:])

import errno
import importlib
import os
from contextlib import suppress
from typing import NoReturn

try:
    import dispatcher.core.server_extra  # noqa: F401
except ImportError as error:
    print(f"dispatcher: {error}", file=sys.stderr)  # noqa: T201 -- click may be what is missing
    sys.exit(2)

import click

from dispatcher import __version__
from dispatcher.commands.suggest import SuggestingGroup
from dispatcher.core.environment import in_utf8
from dispatcher.core.errors import DispatcherError

COMMANDS = {
    "run": "Relay committed rows from Postgres to the Redis Stream.",
    "migrate": "Create or update the tables, and install the trigger.",
    "status": "Show the outbox, the running dispatchers and the stream.",
    "pause": "Stop all dispatchers from claiming rows; rows wait.",
    "resume": "End a pause.",
    "layout": "Show which streams events go to, and change it.",
    "accept-copy": "Accept a copy, such as a restored dump, as the outbox.",
    "replay": "Publish rows again that were sent before.",
    "prune": "Delete rows and dead-letter copies that are past their retention.",
    "events": "Find events in any status; list them by status; show one with its attempts.",
    "dlq": "List and count dead events, publish them again, or discard them.",
    "held": "List aggregates whose events wait for one that fails; retry that one, or skip it.",
    "groups": "Show the consumer groups: how far behind each is, and when it was read last.",
    "sql": "Print SQL for a person to run: roles, the table of a consumer.",
    "doctor": "Check the servers, the tables and the stream, and name a remedy for each fault.",
    "prove": "Send proof events through your own servers, and say what was lost or late.",
    "demo": "Start temporary servers, send events through them, print the verdict.",
    "dev": "Run Postgres and Valkey to develop against.",
}

HELP = """Publish every row that an application commits to messaging.message_outbox to a Redis Stream, at least once,
also when Postgres, Redis or a dispatcher crashes in between.

\b
Try it, with the extra 'embedded' and no servers of your own:
  dispatcher demo

\b
Use it with your own servers:
  export DATABASE_URL=postgresql://user:password@localhost/app REDIS_URL=redis://localhost:6379/0
  dispatcher migrate
  dispatcher run --enabled

Every setting is an environment variable or a flag: `dispatcher run --help`.
"""


class LazyGroup(SuggestingGroup):
    """Imports a command when it is called: `--help` stays fast, and `migrate` does without aiohttp and redis."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import dispatcher/commands/<name>.py, or the folder <name>, with _ for -; its command has the same name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"dispatcher.commands.{name}"), name)
        assert isinstance(command, click.Command)  # noqa: S101 -- for the type checker
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="dispatcher")
def cli() -> None:
    """Replaced by HELP."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit. `args`: without the program's name; None: those of the process."""
    typed = [in_utf8(each) for each in (sys.argv[1:] if args is None else args)]
    if typed[:1] != ["run"]:
        early_stop.leave_interrupts_to_python()
    try:
        _require_text(typed)
        code = cli.main(typed, prog_name="dispatcher", standalone_mode=False)
    except DispatcherError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        ours, others = group.split(DispatcherError)
        if ours is None or others is not None:
            raise
        _fail(_first(ours))
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and error.ctx is not None and error.ctx.command is cli:
            click.echo(f"Name the command first: `dispatcher run {error.option_name} ...`", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries once more at its end, and complains
        _say(f"the output cannot be written ({error.strerror})")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _require_text(typed: list[str]) -> None:
    """Raise UsageError for an argument that no server would take, and no JSON."""
    for number, each in enumerate(typed, 1):
        try:
            each.encode()
        except UnicodeError:
            raise click.UsageError(f"Argument {number} is no text in UTF-8.") from None


def _fail(error: DispatcherError) -> NoReturn:
    _say(str(error))
    sys.exit(error.exit_code)


def _say(text: str) -> None:
    with suppress(OSError):  # nobody can read it: the exit code says what it can
        click.echo(f"dispatcher: {text}", err=True)


def _first(error: BaseException) -> DispatcherError:
    """The first of ours in a group: a task group wraps whatever ends it, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DispatcherError)  # noqa: S101 -- for the type checker
    return error


if __name__ == "__main__":
    main()
