"""A log record as one line: JSON for machines, text for people, coloured on a terminal."""

import json
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loguru import Record

COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def _time(record: "Record") -> str:
    return record["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(record: "Record") -> str:
    extra: dict[str, Any] = record["extra"]
    line = {"time": _time(record), "level": record["level"].name, "event": extra.get("event", "log")}
    if "worker" in extra:
        line["worker"] = extra["worker"]
    line |= {"message": record["message"], **extra.get("fields", {})}
    return json.dumps(line, ensure_ascii=False, default=str) + "\n"


def as_text(record: "Record") -> str:
    """Time, level, event, message, fields; a value with blanks is quoted."""
    extra: dict[str, Any] = record["extra"]
    fields = "".join(f" {name}={_plain(value)}" for name, value in extra.get("fields", {}).items() if value is not None)
    moment = record["time"].strftime("%H:%M:%S.%f")[:-3]
    who = f"{extra['worker']} " if "worker" in extra else ""
    return f"{moment} {record['level'].name:<7} {who}{extra.get('event', 'log')}: {record['message']}{fields}\n"


def as_coloured_text(record: "Record") -> str:
    colour = COLOURS.get(record["level"].name)
    line = as_text(record).rstrip("\n")
    return f"\x1b[{colour}m{line}\x1b[0m\n" if colour else line + "\n"


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and not any(mark in ' "' for mark in text) else json.dumps(text)
