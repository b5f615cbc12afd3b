"""Where Redis is, taken from a URL."""

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from dispatcher.core.errors import Misconfigured
from dispatcher.core.url_options import refused_by_redis

NEXT_S = 0.25  # an address that has not answered by then does not keep the next one waiting


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A Redis server, database and user, taken from a redis://, rediss:// or unix:// URL."""

    host: str
    port: int
    path: str | None
    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisTarget":
        """Raises Misconfigured; the message never holds the password."""
        try:
            split = urlsplit(url)
            wrong = refused_by_redis(split.scheme, split.query)
        except ValueError:
            wrong = None  # said below
        if wrong is not None:
            raise Misconfigured(f"REDIS_URL cannot be used: it must be {wrong}")
        try:
            parts: dict[str, Any] = dict(parse_url(url))
            if "db" not in parts and "path" not in parts and urlsplit(url).path.strip("/"):
                raise ValueError("the database is no number")  # redis-py would take 0
            secure = parts.pop("connection_class", None) is SSLConnection
            tls = None
            if secure:
                # redis-py knows the ssl_* options of a URL and its safe defaults; only its context is used.
                options = {key: value for key, value in parts.items() if key.startswith("ssl_")}
                tls = SSLConnection(**options).ssl_context.get()
            return cls(
                host=str(parts.get("host", "localhost")),
                port=int(parts.get("port", 6379)),
                path=parts.get("path"),
                db=int(parts.get("db", 0)),
                username=parts.get("username"),
                password=parts.get("password"),
                tls=tls,
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
        return f"{self.path or f'{self.host}:{self.port}'}/{self.db}"


def next_after_s(host: str) -> float | None:
    """How long the first address of a name has before the next is tried too; None: it is an address already.

    The race between addresses leaves a socket unclosed when it is cancelled, so there is none without need.
    """
    try:
        ip_address(host)
    except ValueError:
        return NEXT_S
    return None
