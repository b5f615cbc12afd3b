"""A line of the log: where lines go and how they look, and what other libraries log.

The only file that imports loguru. Tracebacks and the values of variables never appear.
"""

import logging
import sys
from copy import copy
from typing import TYPE_CHECKING, Literal, TextIO

from loguru import logger

from dispatcher.telemetry.formats import as_coloured_text, as_json, as_text

if TYPE_CHECKING:
    from loguru import Message

Format = Literal["json", "text"]
Fields = dict[str, object]


def configure(level: str, format: Format | None, *, stream: TextIO | None, worker: str | None) -> bool:
    """Send lines to `stream`, and only there. Returns whether DEBUG lines are written."""
    out = stream if stream is not None else sys.stderr
    terminal = out.isatty()
    chosen = format or ("text" if terminal else "json")
    render = as_json if chosen == "json" else (as_coloured_text if terminal else as_text)

    def put(message: "Message") -> None:
        out.write(render(message.record))
        out.flush()

    logger.configure(extra={"worker": worker} if worker else {})
    logger.remove()
    # diagnose would print the values of variables, payloads among them, under each line of a traceback.
    logger.add(put, level=level, format="{message}", backtrace=False, diagnose=False, catch=True)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, FromLibraries)]
    root.addHandler(FromLibraries(logging.WARNING))
    return logger.level(level).no <= logging.DEBUG


def write(level: str, event: str, text: str, fields: Fields) -> None:
    """Write one line. `event`: the name that machines look for; `text`: for people."""
    logger.bind(event=event, fields=fields).log(level, "{}", text)


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
