"""Where Redis is, taken from a URL."""

import ssl
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

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
            parts: dict[str, Any] = dict(parse_url(url))
            if "db" not in parts and "path" not in parts and urlsplit(url).path.strip("/"):
                raise ValueError("the database is no number")  # redis-py would take 0
            secure = parts.pop("connection_class", None) is SSLConnection
            tls = None
            # redis-py knows the ssl_* options of a URL and its safe defaults; only its context is used.
            options = {key: value for key, value in parts.items() if key.startswith("ssl_")}
            if secure:
                tls = SSLConnection(**options).ssl_context.get()
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
        except (ValueError, TypeError, OSError, RedisError) as error:
            raise Misconfigured(
                "REDIS_URL cannot be read: it must look like redis://user:password@host:6379/0, rediss://... or "
                f"unix:///path/to/socket ({type(error).__name__})"
            ) from None

    def certified_name(self) -> str:
        """The host's name as a certificate has it: without the dot that ends a name which is looked up as it stands."""
        return self.host.removesuffix(".")

    def address(self) -> str:
        """host:port/db or the socket's path, for messages."""
        return f"{self.path or f'{self.host}:{self.port}'}/{self.db}" if self.named else self.place()

    def place(self) -> str:
        """What the settings name: the same for each node, or whichever server is the primary."""
        if self.cluster is not None:
            return f"Cluster of {self.cluster}"
        if self.sentinels is None:
            return self.address()
        return f"service '{self.sentinels.service}' of the sentinels {self.sentinels}, database {self.db}"

    def at(self, address: Address) -> "RedisTarget":
        """The same user, options and database at another address."""
        return replace(self, host=address[0], port=address[1], path=None, named=True)


def next_after_s(host: str) -> float | None:
    """How long the first address of a name has before the next is tried too; None: it is an address already.

    The race between addresses leaves a socket unclosed when it is cancelled, so there is none without need.
    """
    try:
        ip_address(host)
    except ValueError:
        return NEXT_S
    return None
