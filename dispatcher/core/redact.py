"""Keeps payloads out of error messages: an exception's text may quote the data it could not stand.

Whatever the message shares with a value of the payload or the headers is blotted out: every value as a whole word, and
every run of eight characters of a longer one, so that a value shown in part is not shown either. Names of fields stay:
they are the shape of the data, not the data.
"""

import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

BLOT = "***"
RUN = 8
MAX_CHARS = 2000  # of the message that are looked at
MAX_DATA = 64 * 1024  # characters of data; with more the message is left out


class _Number(str):
    """A number as it stands in the JSON text: a message may show it exactly, and Python limits its digits."""


def redact(message: str, *documents: str | None) -> str:
    """The message without values of these JSON documents, and without characters that Postgres cannot store."""
    if sum(len(each) for each in documents if each) > MAX_DATA:
        return "(its message is not kept: the payload is too large to be kept out of it)"
    message = message[:MAX_CHARS].encode("utf-8", "replace").decode().replace("\x00", "")
    try:
        data = [json.loads(each, parse_int=_Number, parse_float=_Number) for each in documents if each]
        values = {text for each in data for text in _values(each)}
    except (ValueError, RecursionError):
        return "(its message is not kept: the payload cannot be read to be kept out of it)"
    words: set[str] = set()  # shorter than a run
    runs: set[str] = set()
    for value in values:
        for shown in {value, repr(value)[1:-1], json.dumps(value)[1:-1]}:
            if len(shown) < RUN:
                words.add(shown)
            else:
                runs.update(shown[at : at + RUN] for at in range(len(shown) - RUN + 1))
    covered = bytearray(len(message))
    # One pass over the message, not one for each value: this runs on the event loop, and the values may be thousands.
    for at in range(len(message)):
        for end in range(at + 1, min(at + RUN, len(message)) + 1):
            part = message[at:end]
            if part in runs or (part in words and not _in_a_word(message, at, end)):
                covered[at:end] = b"\x01" * len(part)
    return re.sub("\x00+", BLOT, "".join("\x00" if hidden else c for c, hidden in zip(message, covered, strict=True)))


def _in_a_word(message: str, first: int, end: int) -> bool:
    """Whether a longer word goes on before or after this part."""
    around = message[max(first - 1, 0) : first] + message[end : end + 1]
    return any(each.isalnum() or each == "_" for each in around)


def _values(data: Any) -> Iterator[str]:
    """Text and numbers in the data, as text. Not the names of fields; not true, false and null."""
    if isinstance(data, dict):
        for each in data.values():
            yield from _values(each)
    elif isinstance(data, list):
        for each in data:
            yield from _values(each)
    elif isinstance(data, str):
        if data.strip():
            yield data
        if isinstance(data, _Number) and isfinite(float(data)):
            yield str(float(data))  # as most handlers have it
