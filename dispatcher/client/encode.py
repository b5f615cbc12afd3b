"""A payload as JSON text: exactly what it says, or an error that names what JSON does not have. Quotes no value.

Beside what `json.dumps` takes: dataclasses, pydantic models, msgspec structs, datetimes, dates, times, UUIDs, members
of an Enum, and Decimals, which become numbers with all their digits. None of those libraries is imported.
"""

import dataclasses
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

Encode = Callable[[Any], str | bytes]

NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# What looks like a field's name; another key may be somebody's data.
_FIELD = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)


def encode(name: str, value: object, hook: Encode | None = None) -> str:
    """The value as JSON text that jsonb accepts: by the hook, else by us; bytes are JSON text already.

    Raises ValueError. An error of the hook is the application's own, and passes.
    """
    if hook is not None:
        made: object = hook(value)
        if isinstance(made, str):
            made = made.encode("utf-8", "surrogatepass")
        if not isinstance(made, bytes):
            raise TypeError(f"{name}: encode returned a {type(made).__name__}: it must be JSON text, str or bytes")
        value = made
    reason: str | None = None
    text = ""
    try:
        text = _checked(value) if isinstance(value, bytes) else _dumped(value)
        text.encode()
    except UnicodeError:
        reason = f"{_where(name, value, _not_unicode)} holds text that is not valid Unicode"
    except RecursionError:
        reason = f"{name} is not JSON: it is nested too deeply, or holds itself"
    except (TypeError, ValueError) as error:
        reason = _why_not(name, value, error)
    if reason is None and ("\0" in text or NUL_ESCAPE.search(text)):
        reason = f"{_where(name, value, _has_nul)} holds the character NUL, which jsonb cannot store"
    if reason is not None:
        raise ValueError(reason)  # outside the except: the cause's text could quote the value
    return text


def _dumped(value: object) -> str:
    if hasattr(value, "model_dump_json") and not isinstance(value, type):  # a pydantic model says it itself
        return str(value.model_dump_json())
    numbers: dict[str, str] = {}

    def default(found: object) -> object:
        if isinstance(found, Decimal):
            if not found.is_finite():
                raise ValueError("not finite")
            mark = (
                f"{uuid.uuid4()}"  # json.dumps has no way to write digits that are no float: they are put in after it
            )
            numbers[f'"{mark}"'] = str(found)
            return mark
        return plain(found)

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=default)
    if numbers:
        text = re.sub("|".join(numbers), lambda mark: numbers[mark[0]], text)
    return text


def plain(found: object) -> object:
    """A value that json.dumps does not know, one step nearer to what it knows. Raises TypeError."""
    if isinstance(found, datetime | date | time):
        return found.isoformat()
    if isinstance(found, uuid.UUID):
        return str(found)
    if isinstance(found, Enum):
        return found.value
    if hasattr(found, "model_dump") and not isinstance(found, type):
        return found.model_dump(mode="json")
    if hasattr(found, "__struct_fields__") and not isinstance(found, type):
        return json.loads(sys.modules["msgspec"].json.encode(found), parse_float=Decimal)  # its names, tags, defaults
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        return dict(found)
    raise TypeError


def _checked(value: bytes) -> str:
    """JSON text in UTF-8, checked and otherwise unchanged. Raises ValueError."""
    text = value.decode()
    # Numbers stay text: only their shape is looked at, and Python's limits on them are not Postgres's.
    found = json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    if SURROGATE_ESCAPE.search(text):
        json.dumps(found, ensure_ascii=False).encode()  # half a character, which jsonb refuses
    return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _why_not(name: str, value: object, error: Exception) -> str:
    if isinstance(value, bytes):
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else " (NaN or Infinity)"
        return f"{name} is no JSON text{place}"
    for path, found in _walk(name, value):
        if isinstance(found, float | Decimal) and not _finite(found):
            return f"{path} is NaN or infinite, which JSON does not have"
        if isinstance(found, _BadKey):
            return f"{path} has a key of type {found.kind}: JSON has text only"
        if not isinstance(found, _KNOWN) and not _converts(found):
            return (
                f"{path} is of type {type(found).__name__}, which JSON does not have: "
                "convert it, or give Event(..., encode=) a function that returns JSON text"
            )
    return f"{name} is not JSON ({type(error).__name__})"


class _BadKey:
    def __init__(self, key: object) -> None:
        self.kind = type(key).__name__


_KNOWN = (str, int, float, Decimal, list, tuple, dict, type(None))


def _finite(number: float | Decimal) -> bool:
    return number.is_finite() if isinstance(number, Decimal) else number - number == 0


def _converts(found: object) -> bool:
    try:
        plain(found)
    except Exception:  # of a model's own: whatever it is, it is what stands in the way
        return False
    return True


def _where(name: str, value: object, faulty: Callable[[object], bool]) -> str:
    """The path of the first text with a fault, or the name alone."""
    return next((path for path, found in _walk(name, value) if isinstance(found, str) and faulty(found)), name)


def _has_nul(text: object) -> bool:
    return "\0" in str(text)


def _not_unicode(text: object) -> bool:
    return str(text).encode(errors="replace").decode() != text


def _walk(path: str, value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Each value in it with its path: `payload.lines[3].price`. A key that looks like data is not quoted."""
    yield path, value
    if depth > 50 or isinstance(value, str | bytes | int | float | None):
        return
    if isinstance(value, list | tuple):
        for index, found in enumerate(value):
            yield from _walk(f"{path}[{index}]", found, depth + 1)
        return
    if not isinstance(value, Mapping):
        try:
            value = plain(value)
        except Exception:  # it is named already
            return
        if not isinstance(value, Mapping):
            return
    for key, found in value.items():
        if not isinstance(key, str | int | float | bool | None):
            yield path, _BadKey(key)
        step = f".{key}" if isinstance(key, str) and _FIELD.fullmatch(key) else "[...]"
        yield from _walk(path + step, found, depth + 1)
