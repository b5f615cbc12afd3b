"""One connection of libpq: to the first address that works, of all that the hosts of a connection string have.

psycopg's own `connect` tells why a server refused in the server's language alone, and waits for the whole timeout at an
address that swallows everything before it tries the next one.
"""

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import shuffle
from typing import BinaryIO, Literal

import anyio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ConnStatus, PollingStatus, Trace
from psycopg.pq.abc import PGconn

from dispatcher.infra.forks import not_for_children

NEXT_S = 1.0  # a host or an address that has not answered by then does not keep the next one waiting
NO_FILE = "/dev/null/none"  # nothing can be there
MOST_CODES = 256  # texts of refusals whose SQLSTATE is remembered; each cost a trace, which leaks some bytes in psycopg

Parts = Mapping[str, object]
Stage = Literal["settings", "name", "network", "tls", "silent", "answered", "role"]

_ERROR_CODE = re.compile(r'^B\t\d+\tErrorResponse\t.*? C "(\w{5})"', re.MULTILINE)
# Words of libpq, not of a server: they are English unless this program chose another language.
# What libpq says when target_session_attrs finds another kind of server, in the step that signs in.
_ANOTHER_ROLE = ("session is read-only", "session is not read-only", "hot standby mode")
_CUT = ("closed the connection unexpectedly", "SSL SYSCALL error", "could not receive data", "could not send")
_PREFIX = re.compile(r"^connection to server .*? failed: ", re.DOTALL)


class DialFailed(Exception):
    """Why an address could not be connected to. `words`: libpq's, which end with the server's own.

    `stage`, how far it came: "settings" libpq refuses the connection string; "name" nobody knows the host; "network"
    no connection; "tls" no encryption could be agreed on; "silent" no answer in time, or the connection was cut;
    "answered" refused by what answers there; "role" the server is not of the kind that target_session_attrs asks for.
    """

    def __init__(self, stage: Stage, words: str, sqlstate: str | None = None, *, needs_password: bool = False) -> None:
        super().__init__(words)
        self.stage = stage
        self.words = words
        self.sqlstate = sqlstate
        self.needs_password = needs_password
        self.traced = False  # whether it is known that there is no other SQLSTATE


async def dial(conninfo: str, each_s: float) -> PGconn:
    """Connect. `each_s`: the longest wait for a name, and at an address.

    Raises DialFailed, psycopg.ProgrammingError.
    """
    parts = _without_home(conninfo_to_dict(conninfo))
    return await _first([partial(_dial_host, host, each_s) for host in _hosts(parts)])


async def _dial_host(host: dict[str, object], each_s: float) -> PGconn:
    """Connect to the first address of a host that works. A name that nobody answers keeps no other host waiting."""
    return await _first([partial(_attempt, parts, each_s) for parts in await _addresses(host, each_s)])


async def _first(ways: Sequence[Callable[[], Awaitable[PGconn]]]) -> PGconn:
    """The connection of the first way that works. They are tried in turn, and do not wait long for each other."""
    failures: dict[int, DialFailed] = {}
    connected: list[PGconn] = []

    async def attempt(number: int, done: anyio.Event) -> None:
        try:
            connected.append(await ways[number]())
            dialling.cancel_scope.cancel()
        except DialFailed as failure:
            failures[number] = failure
        finally:
            done.set()

    taken: PGconn | None = None
    try:
        async with anyio.create_task_group() as dialling:
            for number in range(len(ways)):
                done = anyio.Event()
                dialling.start_soon(attempt, number, done, name="dial")
                with anyio.move_on_after(NEXT_S):
                    await done.wait()
        taken = connected[0] if connected else None
    finally:
        for pgconn in connected:  # two may answer at once, and the caller may be cancelled
            if pgconn is not taken:
                pgconn.finish()
    if taken is None:
        raise _most_telling([failures[number] for number in sorted(failures)])
    return taken


def _most_telling(failures: Sequence[DialFailed]) -> DialFailed:
    """What a server said tells more than that another address is silent."""
    order = ("answered", "role", "tls", "silent", "network", "settings", "name")
    return min(failures, key=lambda failure: order.index(failure.stage))


def _without_home(parts: Parts) -> Parts:
    """With no client certificate looked for in a home folder that may not be entered, as those of containers often.

    libpq then uses no TLS: it fails, or, as it prefers TLS and does not insist on it, sends the password without.
    """
    if parts.get("sslcert") or os.environ.get("PGSSLCERT"):
        return parts
    try:
        os.stat(os.path.expanduser("~/.postgresql/postgresql.crt"))  # noqa: PTH111, PTH116 -- Path raises without a home
    except (FileNotFoundError, NotADirectoryError):
        return parts
    except OSError:
        return dict(parts) | {"sslcert": NO_FILE}
    return parts


def certified(host: str) -> str:
    """The host's name as a certificate has it: without the dot that ends a name which is looked up as it stands."""
    return host.removesuffix(".")


def _hosts(parts: Parts) -> list[dict[str, object]]:
    """The parameters for each host, in the order to try them."""

    def listed(name: str, variable: str) -> list[str]:
        text = str(parts.get(name) or os.environ.get(variable) or "")
        return text.split(",") if text else []

    hosts, numeric, ports = listed("host", "PGHOST"), listed("hostaddr", "PGHOSTADDR"), listed("port", "PGPORT")
    count = max(len(hosts), len(numeric))
    lengths_fit = len(hosts) in (0, count) and len(numeric) in (0, count) and len(ports) in (0, 1, count)
    if not count or not lengths_fit:
        return [dict(parts)]  # a local socket, a service of libpq's; or it says what is wrong
    found: list[dict[str, object]] = []
    for number in range(count):
        one = dict(parts) | {"port": ports[number if len(ports) > 1 else 0] if ports else "5432"}
        if hosts:
            one["host"] = hosts[number]
        if numeric and numeric[number]:
            one["hostaddr"] = numeric[number]
        found.append(one)
    return _in_turn(found)


def _in_turn(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """In the order given, or in any, as load_balance_hosts asks."""
    if found and str(found[0].get("load_balance_hosts") or os.environ.get("PGLOADBALANCEHOSTS")) == "random":
        shuffle(found)
    return found


async def _addresses(one: dict[str, object], limit_s: float) -> list[dict[str, object]]:
    """The parameters for each address of a host. Raises DialFailed."""
    host = str(one.get("host") or "")
    if not host or host.startswith(("/", "@")) or "," in host:  # libpq says what is wrong with a list that is left
        return [one]
    named = one | {"host": certified(host)}
    if one.get("hostaddr"):
        return [named]
    try:
        with anyio.fail_after(limit_s):
            answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise DialFailed("name", f"the host name {host} was not resolved within {limit_s:g} s") from None
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DialFailed("name", f"the host name {host} cannot be resolved ({why})") from None
    return _in_turn([named | {"hostaddr": address} for address in dict.fromkeys(str(a[4][0]) for a in answers)])


_codes: dict[str, str | None] = {}  # libpq's text of a refusal to its SQLSTATE; None: there was none


async def _attempt(parts: Parts, limit_s: float) -> PGconn:
    """Connect to one address. Raises DialFailed."""
    try:
        with anyio.fail_after(limit_s):
            try:
                return await _connect(parts, trace=None)
            except DialFailed as failure:
                if failure.stage != "answered" or not _can_trace():
                    raise
                if failure.words in _codes:
                    failure.sqlstate, failure.traced = _codes[failure.words], True
                    raise
                if len(_codes) >= MOST_CODES or (trace := _trace_file()) is None:
                    raise
            with trace:
                return await _traced(parts, trace.fileno())
    except TimeoutError:
        raise DialFailed("silent", f"it did not answer within {limit_s:g} s") from None


def _trace_file() -> BinaryIO | None:
    """None: hardened containers forbid it, or no descriptor is left."""
    try:
        return os.fdopen(os.memfd_create("libpq"), "rb")
    except OSError:
        return None


async def _traced(parts: Parts, trace: int) -> PGconn:
    """Connect once more to learn the SQLSTATE, which libpq tells nobody but its trace. It may work this time."""
    try:
        return await _connect(parts, trace=trace)
    except DialFailed as failure:
        text = os.pread(trace, 1 << 16, 0).decode(errors="replace")
        # A refusal with TLS may be followed by one without: the first is the reason.
        code, failure.traced = _ERROR_CODE.search(text), True
        failure.sqlstate = _codes[failure.words] = code[1] if code else None
        raise


def _can_trace() -> bool:
    return hasattr(os, "memfd_create") and pq.version() >= 180000  # before, libpq traced no refusal


async def _connect(parts: Parts, *, trace: int | None) -> PGconn:
    pgconn: PGconn = pq.PGconn.connect_start(make_conninfo("", **parts).encode())  # type: ignore[arg-type]
    # From now on: a process that is forked while we connect would keep the session that comes of it.
    not_for_children(pgconn, lambda ours: [ours.socket])
    try:
        before = pgconn.status
        if trace is not None and before != ConnStatus.BAD:
            pgconn.trace(trace)
            pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        while pgconn.status != ConnStatus.BAD:
            before = pgconn.status
            match pgconn.connect_poll():
                case PollingStatus.OK:
                    if trace is not None:
                        pgconn.untrace()
                    pgconn.nonblocking = 1
                    return pgconn
                case PollingStatus.READING:
                    await anyio.wait_readable(pgconn.socket)
                case PollingStatus.WRITING:
                    await anyio.wait_writable(pgconn.socket)
                case _:
                    break
        raise _failure(pgconn, before)
    except BaseException:
        if trace is not None:
            pgconn.untrace()
        pgconn.finish()
        raise


def _failure(pgconn: PGconn, before: int) -> DialFailed:
    """What went wrong, by the state that the connection was in before it failed."""
    text = pgconn.get_error_message("utf-8")
    words = _PREFIX.sub("", text)
    if before == ConnStatus.STARTED:
        words = words.partition("\n")[0]  # after it libpq guesses
    words = " ".join(words.split())
    match before:
        case ConnStatus.BAD:  # at the start; a network may be known to be unreachable at once
            return DialFailed("network" if _PREFIX.search(text) else "settings", words)
        case ConnStatus.STARTED:
            return DialFailed("network", words)
    if any(cut in text for cut in _CUT):
        return DialFailed("silent", words)
    if any(role in text for role in _ANOTHER_ROLE):
        return DialFailed("role", words)
    match before:
        case ConnStatus.MADE | ConnStatus.SSL_STARTUP | ConnStatus.GSS_STARTUP:
            return DialFailed("tls", words)
        case ConnStatus.AWAITING_RESPONSE | ConnStatus.AUTH_OK | ConnStatus.AUTHENTICATING:
            return DialFailed("answered", words, needs_password=bool(pgconn.needs_password))
        case _:
            return DialFailed("role", words)
