"""The one table of what is an outage: an error that speaks of a server or a connection, never of the event at hand.

An outage costs an event no attempt and no delivery. A reply to an XADD is treated alike, be it in PASSING or in
NEEDS_A_PERSON; a consumer waits when an error is in PASSING, and raises it when it is in NEEDS_A_PERSON. For Redis the
code decides, which is the first word of the reply; for Postgres the SQLSTATE, or that the connection broke. No driver
is imported: `is_outage` knows an error by what it carries, so that an application may use any of them.
"""

import errno
import os
from collections.abc import Iterator

from dispatcher.core.frames import text_of

# Redis passes from these states by itself.
PASSING = frozenset(
    {
        "OOM",  # maxmemory reached
        "READONLY",  # a replica: failover in progress
        "LOADING",  # reading its dump
        "MISCONF",  # cannot persist
        "IOERR",
        "NOREPLICAS",  # min-replicas-to-write not met
        "MASTERDOWN",
        "NOMASTERLINK",
        "BUSY",  # a script runs
        "UNKILLABLE",
        "UNBLOCKED",  # it became a replica while we waited
        "FAILOVER",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "REDIRECT",
        "TRYAGAIN",
        "EXECABORT",
        "MAXCLIENTS",
    }
)
# These last until a person changes a password, a right, a name or a server.
NEEDS_A_PERSON = frozenset(
    {
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
        "WRONGTYPE",  # the key is not a stream
        "CROSSSLOT",
        "NOPROTO",
        "DENIED",  # protected mode
    }
)
# Another server may have the data by now: close the connection before the next try, which asks anew for the address (of
# Sentinel, of the Cluster). A demoted primary keeps its connections, so whoever waits on one of them waits for ever.
WRONG_SERVER = frozenset(
    {
        "READONLY",
        "LOADING",  # a demoted primary, reading the data of the new one
        "NOREPLICAS",  # the old primary, alone behind a cut network
        "MASTERDOWN",
        "NOMASTERLINK",
        "UNBLOCKED",
        "FAILOVER",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "REDIRECT",
    }
)
# Errors without a code of their own ("ERR ...") that speak of the server all the same, in lower case.
PASSING_PHRASES = (
    "max number of clients",
    "writing to a replica",
    "unbalanced",  # "Protocol error: unbalanced quotes in request": what a proxy mixed up
    "upstream",  # a proxy that has lost its Redis: Envoy, twemproxy, Codis
    "backend",
    "connection refused",
    "connection reset",
    "connection timed out",
    "i/o timeout",
)
NEEDS_A_PERSON_PHRASES = (
    "unknown command",
    "unsupported command",
    "the id specified in xadd must be greater",
    "the stream has exhausted the last possible id",
    "invalid password",
    "db index is out of range",
)

_NO_SUCH_COMMAND = ("unknown command", "unsupported command", "unknown subcommand")

# Postgres: classes and single codes that speak of the server or the connection.
_SQLSTATE_CLASSES = (
    "08",  # the connection
    "28",  # our role or password: a rotation, or a person has to act
    "53",  # no connection, memory or disk left
)
_SQLSTATES = frozenset(
    {
        "25006",  # read-only: a standby, or an old primary after a switch
        "3D000",  # the database is not there: being restored
        "57P01",  # a shutdown, or an administrator ended the session
        "57P02",  # another session crashed
        "57P03",  # starting up, shutting down
        "57P04",  # the database was dropped
        "57P05",  # the session was idle for too long
        "58000",
        "58030",  # the disk
    }
)
# Not in there, because the event's own work brings them on: 57014 (a timeout of its own query), 25P03 and 25P04 (its
# transaction lasted too long), 55P03 (a lock), 40001 and 40P01 (it collided with another transaction).

_NETWORK = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENOTCONN}
)
_NETWORK_CLASSES = {"gaierror", "SSLEOFError", "SSLZeroReturnError"}
_NO_REPLY = {"ConnectionError", "TimeoutError", "InvalidResponse", "ClusterError", "RedisClusterException"}
_OF_REDIS_PY = {  # for releases that keep no code of the reply
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ExecAbortError": "EXECABORT",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "NOAUTH",
}


def redis_code(reply: str) -> str:
    """The code of an error reply: its first word."""
    return reply.partition(" ")[0]


def passes_by_itself(reply: str) -> bool:
    """Whether a Redis error reply describes a state that passes by itself."""
    return redis_code(reply) in PASSING or _has(PASSING_PHRASES, reply)


def needs_a_person(reply: str) -> bool:
    """Whether a Redis error reply lasts until somebody changes a password, a right, a name or a server."""
    return redis_code(reply) in NEEDS_A_PERSON or _has(NEEDS_A_PERSON_PHRASES, reply)


def is_redis_outage(reply: str) -> bool:
    """Whether a Redis error reply speaks of the server, the connection or the key, never of the one entry it answers.

    No for an "ERR" that nobody knows: whose it is, a second command has to tell.
    """
    return passes_by_itself(reply) or needs_a_person(reply)


def is_wrong_server(reply: str) -> bool:
    """Whether the connection that brought this error reply has to be closed before the next try."""
    return redis_code(reply) in WRONG_SERVER or "writing to a replica" in reply.lower()


def is_never_readable(reply: str) -> bool:
    """Whether a Redis error reply to a read means that our user may never read this key."""
    return redis_code(reply) == "WRONGTYPE" or is_unavailable(reply)


def is_unavailable(reply: str) -> bool:
    """Whether a Redis error reply means that our user may never run this command, or that a proxy does not know it."""
    return redis_code(reply) == "NOPERM" or _has(_NO_SUCH_COMMAND, reply)


def tells_nothing(reply: str) -> bool:
    """Whether a Redis error reply to INFO or XINFO means that they tell nothing here, today or tomorrow.

    A proxy refuses in words of its own: so it is each refusal that is neither an outage nor a key that is missing.
    """
    return is_unavailable(reply) or not (is_redis_outage(reply) or "no such key" in reply.lower())


def without_abort(reply: str) -> str:
    """The error for which EXEC itself was refused; of any other reply the reply."""
    return reply.removeprefix("EXECABORT Transaction discarded because of: ")


def in_short(reply: str) -> str:
    """The code of an error reply; its text where it has no code of its own."""
    code = redis_code(reply)
    return reply[:100].strip() if code == "ERR" else code


def is_postgres_outage(sqlstate: str) -> bool:
    """Whether an error of this SQLSTATE speaks of the server or the connection, never of the statement."""
    return sqlstate.startswith(_SQLSTATE_CLASSES) or sqlstate in _SQLSTATES


def is_outage(error: BaseException) -> bool:
    """Whether an exception says that a server is away: of psycopg, psycopg2, asyncpg, redis-py or a socket.

    Looks through SQLAlchemy, Django and others that wrap a driver's error, and into groups, where each has to be one.
    A plain TimeoutError is none: it may be the work's own limit.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_outage(each) for each in error.exceptions)
    if type(error).__module__.partition(".")[0] in ("redis", "valkey"):
        reply = reply_of(error)
        return bool(_names(error) & _NO_REPLY) if reply is None else is_redis_outage(reply)
    if code := sqlstate_of(error):  # before all else: after a FATAL of the event's own the connection is broken too
        return is_postgres_outage(code)
    return any(_broke(each) for each in _unwrapped(error))


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of Postgres's answer that an exception stands for, whatever wraps it; "" if there was no answer."""
    return next((code for each in _unwrapped(error) if (code := _sqlstate(each))), "")


def reply_of(error: BaseException) -> str | None:
    """The error reply that an exception of redis-py stands for; None: there was no reply, the connection failed."""
    names = [each.__name__ for each in type(error).__mro__]
    code = getattr(error, "status_code", None) or next(
        (_OF_REDIS_PY[each] for each in names if each in _OF_REDIS_PY), ""
    )
    if code:
        return f"{code} {error}"
    return str(error) if "ResponseError" in names else None


def words_of_system(error: BaseException) -> str:
    """Why a connection failed, as the operating system says it; "" if it said nothing.

    No words of redis-py: they may hold what was sent.
    """
    inner: BaseException | None = error
    for _ in range(5):
        if inner is None:
            break
        if isinstance(inner, OSError):
            if reason := getattr(inner, "reason", None):  # of TLS, whose errno is none of the system
                return str(reason)
            number = inner.errno or 0
            return os.strerror(number) if number > 0 else str(inner.strerror or inner)[:200]
        inner = inner.__cause__ or inner.__context__
    return ""


def _broke(error: BaseException) -> bool:
    """Whether an error without SQLSTATE means that a connection broke, or that there was none."""
    names = _names(error)
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError) or error.errno in _NETWORK or bool(names & _NETWORK_CLASSES)
    if getattr(error, "connection_invalidated", False):  # SQLAlchemy's word for it
        return True
    if _of_driver(error) and "OperationalError" in names:
        return True
    if not names & {"InterfaceError", "DatabaseError"}:
        return False
    said = text_of(error)
    return "connection" in said and "closed" in said


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it wraps: SQLAlchemy's `orig`; the cause, where Django and others have a class of theirs."""
    inner: BaseException | None = error
    for _ in range(5):
        if inner is None:
            return
        yield inner
        orig = getattr(inner, "orig", None)
        wraps = not _of_driver(inner) and _names(inner) & {"DatabaseError", "InterfaceError"}
        inner = orig or ((inner.__cause__ or inner.__context__) if wraps else None)


def _of_driver(error: BaseException) -> bool:
    return hasattr(error, "sqlstate") or hasattr(error, "pgcode")


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def _names(error: BaseException) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


def _has(phrases: tuple[str, ...], reply: str) -> bool:
    lowered = reply.lower()
    return any(phrase in lowered for phrase in phrases)
