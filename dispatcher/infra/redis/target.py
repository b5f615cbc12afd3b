"""Where Redis is, taken from a URL."""

import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from dispatcher.core.errors import Misconfigured
from dispatcher.core.redis_url import Address, read_redis_url
from dispatcher.infra.redis.cluster import ClusterTarget
from dispatcher.infra.redis.sentinel import Sentinels

NEXT_S = 0.25  # an address that has not answered by then does not keep the next one waiting


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A Redis server, database and user, taken from a URL: see core/redis_url.py."""

    host: str
    port: int
    path: str | None
    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)
    sentinels: Sentinels | None = None  # they say where it is: host and port are those of the last that they named
    cluster: ClusterTarget | None = None  # one of its nodes is meant: host and port are those of the last one
    named: bool = True  # whether host and port are known

    @classmethod
    def parse(cls, url: str) -> "RedisTarget":
        """Raises Misconfigured; the message never holds the password."""
        try:
            read = read_redis_url(url)
        except ValueError as error:
            raise Misconfigured(f"REDIS_URL cannot be used: it must be {error}") from None
        url = read.server_url
        try:
            parts, tls = _parts(url)
            secure = tls is not None
            options = _of_tls(parts)
            sentinels = cluster = None
            of_tls = options if secure else None
            if read.kind == "sentinel":
                signed = read.sentinel_username, read.sentinel_password
                sentinels = Sentinels(read.addresses, read.service, *signed, of_tls)
            if read.kind == "cluster":
                cluster = ClusterTarget(read.addresses, parts.get("username"), parts.get("password"), of_tls)
            return cls(
                host=str(parts.get("host", "localhost")),
                port=int(parts.get("port", 6379)),
                path=parts.get("path"),
                db=int(parts.get("db", 0)),
                username=parts.get("username"),
                password=parts.get("password"),
                tls=tls,
                sentinels=sentinels,
                cluster=cluster,
                named=read.kind == "server",
            )
        except _UNREADABLE as error:
            raise Misconfigured(_why_not(url, error)) from None

    def certified_name(self) -> str:
        """The host's name as a certificate has it: without the dot that ends a name which is looked up as it stands."""
        return self.host.removesuffix(".")

    def address(self) -> str:
        """host:port/db or the socket's path, for messages."""
        return f"{self.path or f'{self.host}:{self.port}'}/{self.db}" if self.named else self.configured()

    def configured(self) -> str:
        """What the settings name: the same for each node, or whichever server is the primary."""
        if self.cluster is not None:
            return f"Cluster of {self.cluster}"
        if self.sentinels is None:
            return self.address()
        return f"service '{self.sentinels.service}' of the sentinels {self.sentinels}, database {self.db}"

    def at(self, address: Address) -> "RedisTarget":
        """The same user, options and database at another address."""
        return replace(self, host=address[0], port=address[1], path=None, named=True)


_UNREADABLE = (ValueError, TypeError, OSError, RedisError)
_VALUES = {"ssl_min_version": "write 771 for TLS 1.2, 772 for TLS 1.3"}


def _parts(url: str) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """What redis-py reads in the URL of one server, and with rediss:// its context of TLS. Raises `_UNREADABLE`."""
    parts: dict[str, Any] = dict(parse_url(url))
    if "db" not in parts and "path" not in parts and urlsplit(url).path.strip("/"):
        raise ValueError("the database is no number")  # redis-py would take 0
    if parts.pop("connection_class", None) is not SSLConnection:
        return parts, None
    # redis-py knows the ssl_* options of a URL and its safe defaults; only its context is used.
    return parts, SSLConnection(**_of_tls(parts)).ssl_context.get()


def _of_tls(parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parts.items() if key.startswith("ssl_")}


def _why_not(url: str, error: Exception) -> str:
    """Names the options without which it could be read: each has a value that is of no use. Never shows a value."""
    split = urlsplit(url)
    options = parse_qsl(split.query, keep_blank_values=True)
    guilty = []
    for name in dict.fromkeys(name for name, _ in options):
        # A key is of no use without its certificate.
        without = {name, "ssl_keyfile" if name == "ssl_certfile" else name}
        others = urlencode([option for option in options if option[0] not in without])
        with suppress(*_UNREADABLE):
            _parts(split._replace(query=others).geturl())
            guilty.append(name)
    said = type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        said = os.strerror(error.errno or 0)
    if not guilty:
        return (
            "REDIS_URL cannot be read: it must look like redis://user:password@host:6379/0, rediss://... or "
            f"unix:///path/to/socket ({said})"
        )
    named = [f"{name} ({_VALUES[name]})" if name in _VALUES else name for name in guilty]
    return f"REDIS_URL cannot be used: the value of its option {' or '.join(named)} is of no use: {said}"


def next_after_s(host: str) -> float | None:
    """How long the first address of a name has before the next is tried too; None: it is an address already.

    The race between addresses leaves a socket unclosed when it is cancelled, so there is none without need.
    """
    try:
        ip_address(host)
    except ValueError:
        return NEXT_S
    return None
