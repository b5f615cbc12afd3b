"""A line of the log: where lines go and how they look, and what other libraries log.

The only file that imports loguru. Tracebacks and the values of variables never appear.
"""

import logging
import sys
from copy import copy, deepcopy
from io import StringIO
from typing import TYPE_CHECKING, Literal, TextIO

from dispatcher.core.environment import without
from dispatcher.core.events import Fields
from dispatcher.infra import output
from dispatcher.telemetry.formats import as_coloured_text, as_json, as_text

with without("LOGURU_"):  # a filter, a level's number or a queue of processes would be taken over
    from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

Format = Literal["json", "text"]

# Apart from the one that handlers know: `logger.remove()`, with which programs that use loguru begin, is not for us.
logger.remove()
_ours = deepcopy(logger)


def configure(level: str, format: Format | None, *, stream: TextIO | None, worker: str | None) -> bool:
    """Send lines to `stream`, and only there. Returns whether DEBUG lines are written."""
    out = stream or sys.stderr or StringIO()  # closed by whoever started us: nobody wants to read
    terminal = out.isatty()
    chosen = format or ("text" if terminal else "json")
    render = as_json if chosen == "json" else (as_coloured_text if terminal else as_text)

    def put(message: "Message") -> None:
        out.write(render(message.record))
        out.flush()

    for each in (_ours, logger):
        each.configure(extra={"worker": worker} if worker else {})
        each.remove()
        # diagnose would print the values of variables, payloads among them, under each line of a traceback.
        each.add(put, level=level, format="{message}", backtrace=False, diagnose=False, catch=True)
    if stream is None and (queue := output.standard_error()) is not None:
        queue.on_dropped = tell_dropped
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, FromLibraries)]
    root.addHandler(FromLibraries(logging.WARNING))
    return _ours.level(level).no <= logging.DEBUG


def write(level: str, event: str, text: str, fields: Fields) -> None:
    """Write one line. `event`: the name that machines look for; `text`: for people."""
    _ours.bind(event=event, fields=fields).log(level, "{}", text)


def tell_dropped(lines: int) -> None:
    """Write how many lines were left out here. Called by the thread that writes the output."""
    text = "Lines of the log were dropped here: nobody read them, or they could not be written"
    write("WARNING", "log_lines_dropped", text, {"lines": lines})


class FromLibraries(logging.Handler):
    """Passes on what aiohttp, psycopg, asyncio and others log, without tracebacks.

    The first line only, and exceptions by class and SQLSTATE: what they add may quote a row, as Postgres's DETAIL does.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            ours = copy(record)  # the record goes on to the application's own handlers
            if isinstance(ours.args, tuple):
                ours.args = tuple(_name(arg) if isinstance(arg, BaseException) else arg for arg in ours.args)
            lines = ours.getMessage().splitlines()
            fields: Fields = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields["error"] = _name(record.exc_info[1])
            write(record.levelname, "library_log", lines[0][:300] if lines else "", fields)
        except Exception:
            self.handleError(record)


def _name(error: BaseException) -> str:
    code = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__
