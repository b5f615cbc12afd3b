"""Kinds of values: how each is read from text, and the words for what it must be.

A parser takes what an environment variable, a flag or a caller gave and returns the value, or raises ValueError whose
text completes "it must be ...". That text never quotes the value: it may hold a password.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dispatcher.core.layout import SLOTS, Route
from dispatcher.core.patterns import unreachable
from dispatcher.core.redis_url import REDIS, read_redis_url
from dispatcher.core.url_options import refused_by_postgres

_YES, _NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
MS = "milliseconds"
LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
POSTGRES = "a postgresql:// URL or libpq key/value pairs such as 'host=db dbname=app user=me'"
ROUTES = "pattern=stream pairs such as order.*=orders,invoice.*=billing, with commas or spaces between"
MOST_ROUTES = 64


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. `wanted` completes "it must be ..."; `metavar` stands for the value in `--help`."""

    parse: Callable[[object], object]
    wanted: str
    metavar: str
    mask: Callable[[object], str] = _shortened
    secret: bool = False  # never part of repr(settings)


def whole(low: int, high: int, unit: str = "") -> Kind:
    """A whole number between two limits, both included."""
    wanted = f"a whole number from {low} to {high}" + (f" ({unit})" if unit else "")

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(wanted + _quoted(value))
        return value

    return Kind(parse, wanted, "MS" if unit == MS else unit.upper() or "N")


def switch() -> Kind:
    wanted = "true or false (also 1, 0, yes, no, on, off)"

    def parse(value: object) -> bool:
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in _YES | _NO:
            raise ValueError(wanted + _quoted(value))
        return word in _YES

    return Kind(parse, wanted, "BOOL")


def choice(*words: str) -> Kind:
    wanted = f"one of {', '.join(words)}"

    def parse(value: object) -> str:
        for word in words:
            if isinstance(value, str) and value.strip().lower() == word.lower():
                return word
        raise ValueError(wanted + _quoted(value))

    return Kind(parse, wanted, "|".join(words))


def text(wanted: str, metavar: str, pattern: str) -> Kind:

    def parse(value: object) -> str:
        # A secret or a file of variables often ends with a newline.
        if not isinstance(value, str) or not re.fullmatch(pattern, value := value.strip()):
            raise ValueError(wanted + _quoted(value))
        if _quoted(value):  # as a name it would be taken, and mean another one
            raise ValueError(wanted + _quoted(value))
        return value

    return Kind(parse, wanted, metavar)


def _quoted(value: object) -> str:
    """What to say of quotes around a value; Docker's files of variables take them for a part of it."""
    text = value.strip() if isinstance(value, str) else ""
    return ", without quotes around it" if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else ""


def key() -> Kind:
    return _printable("1 to 512 printable characters", "KEY", 512)


def name() -> Kind:
    return _printable("a name of 1 to 80 printable characters", "NAME", 80)


def _printable(wanted: str, metavar: str, most: int) -> Kind:
    plain = text(wanted, metavar, rf"[^\x00-\x1f\x7f\ud800-\udfff]{{1,{most}}}")

    def parse(value: object) -> object:
        found = str(plain.parse(value))
        if not found.isprintable():  # pasted from a page, with a space of no width: it would be another key
            raise ValueError(f"{wanted}; one of these cannot be seen")
        return found

    return Kind(parse, wanted, metavar)


def page_url() -> Kind:
    """An address that a browser may be sent to: no other scheme, and no password in it."""
    plain = text("an http:// or https:// address without a password", "URL", r"https?://[^\s@\x00-\x1f\x7f]{1,2000}")
    return Kind(plain.parse, plain.wanted, plain.metavar, mask=_scheme_only)


def shards() -> Kind:
    wanted = f"a power of two: 1, 2, 4, 8, 16, 32, 64, 128 or {SLOTS}"

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value not in {2**n for n in range(9)}:
            raise ValueError(wanted + _quoted(value))
        return value

    return Kind(parse, wanted, "N")


def routes() -> Kind:
    return Kind(_parse_routes, ROUTES, "PATTERN=STREAM,...")


def host() -> Kind:
    return text("a host name or address", "HOST", r"[0-9A-Za-z._:%\-]{1,255}")


def hosts() -> Kind:
    wanted = "host names such as dispatcher.example.com,*.internal with commas between them, without ports"

    def parse(value: object) -> tuple[str, ...]:
        if _quoted(value):
            raise ValueError(wanted + _quoted(value))
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            raise ValueError(wanted)
        names = tuple(str(name).strip().lower() for name in names)
        if not all(re.fullmatch(r"\*|(\*\.)?[0-9a-z_-]+(\.[0-9a-z_-]+)*", name) for name in names):
            raise ValueError(wanted)
        return names

    return Kind(parse, wanted, "HOSTS")


def patterns() -> Kind:
    wanted = "names of consumer groups, or patterns such as web-*, with commas between them"

    def parse(value: object) -> tuple[str, ...]:
        if _quoted(value):  # no group has such a name: all would hold publishing back
            raise ValueError(wanted + _quoted(value))
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            raise ValueError(wanted)
        names = tuple(str(name).strip() for name in names)
        if not all(names) or not all(name.isprintable() and len(name) <= 512 for name in names):
            raise ValueError(wanted)
        return names

    return Kind(parse, wanted, "GROUPS")


def module() -> Kind:
    return text(
        "a module such as shop.handlers, or module:name such as shop.events:HANDLERS",
        "MODULE[:NAME]",
        r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?",
    )


def token() -> Kind:
    """A secret that an Authorization header can carry."""
    plain = text("visible ASCII characters without spaces", "TOKEN", r"[!-~]+")
    return Kind(plain.parse, plain.wanted, plain.metavar, mask=lambda value: "***", secret=True)


def postgres_url() -> Kind:
    return Kind(_parse_postgres, POSTGRES, "URL", mask=_scheme_only, secret=True)


def redis_url() -> Kind:
    return Kind(_parse_redis, REDIS, "URL", mask=_scheme_only, secret=True)


def _parse_routes(value: object) -> tuple[Route, ...]:
    if _quoted(value):  # no event type matches: all would go to the main stream
        raise ValueError(ROUTES + _quoted(value))
    if isinstance(value, str):
        value = [pair.partition("=")[::2] for pair in re.split(r"[\s,]+", value) if pair]
    if not isinstance(value, list | tuple):
        raise ValueError(ROUTES)
    found = [Route(str(pattern), str(stream)) for pattern, stream in value]
    for pattern, stream in found:
        if not pattern or not stream:
            raise ValueError(f"{ROUTES}; '{pattern or stream}' alone is none")
        if {"{", "}"} & set(stream):
            raise ValueError(f"{ROUTES}; the stream '{stream}' has braces, which mark the number of a shard")
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", pattern + stream) or len(stream) > 512:
            raise ValueError(f"{ROUTES}, of printable characters; a stream has at most 512")
    if len(found) > MOST_ROUTES:
        raise ValueError(f"{ROUTES}, at most {MOST_ROUTES} of them; these are {len(found)}")
    for number in unreachable([route.pattern for route in found]):
        pattern = found[number].pattern
        why = "earlier ones match all that it matches" if number else "no event type matches it"
        raise ValueError(f"{ROUTES}; the route '{pattern}' can never match: {why}. Put it first, or leave it out")
    return tuple(found)


def seconds_to_ms(value: object) -> int:
    """Seconds, as Dispatchbox's --poll-interval has them, in milliseconds."""
    wanted = "a number of seconds from 0.001 to 60"
    try:
        seconds = float(str(value))
    except ValueError:
        raise ValueError(wanted) from None
    if not 0.001 <= seconds <= 60:
        raise ValueError(wanted)
    return round(seconds * 1000)


def _scheme_only(value: object) -> str:
    """The scheme only: in a URL that cannot be read, nobody knows where the password ends."""
    scheme = re.match(r"[a-z][a-z0-9+]{1,20}://", value) if isinstance(value, str) else None
    return f"'{scheme[0] if scheme else ''}***'"


def _parse_postgres(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(POSTGRES)
    if _quoted(value):
        raise ValueError(POSTGRES + _quoted(value))
    value = value.strip()
    if driver := re.match(r"(postgres(?:ql)?)\+\w+://", value):
        raise ValueError(f"{POSTGRES}: write {driver[1]}:// without SQLAlchemy's driver name")
    if value.startswith(("postgresql://", "postgres://")) and (wrong := refused_by_postgres(value, _libpq_options())):
        raise ValueError(f"{POSTGRES}, {wrong}")
    try:
        value.encode()
        parts = conninfo_to_dict(value)
    except (psycopg.ProgrammingError, UnicodeEncodeError):
        raise ValueError(f"{POSTGRES}; a special character in a URL's password is written %XX") from None
    if any("@" in str(parts.get(part) or "") for part in ("host", "port", "dbname")):
        raise ValueError(f"{POSTGRES}; in a URL's user and password @ is written %40, : %3A and / %2F")
    for port in str(parts.get("port") or "5432").split(","):
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise ValueError(f"{POSTGRES}, its port a number from 1 to 65535")
    return value


def _libpq_options() -> set[str]:
    return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}


def _parse_redis(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(REDIS)
    if _quoted(value):
        raise ValueError(REDIS + _quoted(value))
    value = value.strip()
    read_redis_url(value)
    return value
