"""Which kind of Redis a URL names: one server, a Cluster, or a service that sentinels know.

redis://[user:password@]host:6379/0                       rediss:// with TLS, unix:///path
redis+sentinel://[user:password@]host:26379,host2:26379/service[/0][?sentinel_username=...&sentinel_password=...]
redis+cluster://[user:password@]host:7000,host2:7001      rediss+sentinel://, rediss+cluster:// with TLS
"""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from dispatcher.core.url_options import refused_by_redis

REDIS = "a redis://, rediss:// or unix:// URL such as redis://localhost:6379/0"
SENTINEL = "a URL such as redis+sentinel://sentinel1:26379,sentinel2:26379/service, or rediss+sentinel:// with TLS"
CLUSTER = "a URL such as redis+cluster://node1:6379,node2:6379, or rediss+cluster:// with TLS"
_PORT = "its port a number from 1 to 65535"
_OF_SENTINELS = ("sentinel_username", "sentinel_password")

RedisKind = Literal["server", "sentinel", "cluster"]
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`server_url`: as redis-py reads it, with user, password and options; of its host only one server's is used.

    `addresses`: of the sentinels, or of nodes of the Cluster; none for one server.
    """

    kind: RedisKind
    server_url: str = field(repr=False)
    addresses: tuple[Address, ...] = ()
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)


def read_redis_url(value: str) -> RedisUrl:
    """Raises ValueError, whose text completes "it must be ..." and never holds the password."""
    scheme, _, rest = value.partition("://")
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel(scheme.partition("+")[0], rest)
    if scheme in ("redis+cluster", "rediss+cluster"):
        return _cluster(scheme.partition("+")[0], rest)
    return _server(value)


def _server(value: str) -> RedisUrl:
    try:
        value.encode()
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"{REDIS}, {_PORT}{_several(value)}") from None
    if parts.scheme in ("redis", "rediss", "unix") and (wrong := refused_by_redis(parts.scheme, parts.query)):
        raise ValueError(f"{REDIS}, {wrong}")
    if parts.scheme == "unix" and parts.path:
        return RedisUrl("server", value)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(REDIS + _several(value))
    if port == 0:
        raise ValueError(f"{REDIS}, {_PORT}")
    if "," in parts.netloc.rpartition("@")[2]:
        raise ValueError(REDIS + _several(value))
    if not re.fullmatch(r"/?[0-9]{0,6}", parts.path):
        raise ValueError(f"{REDIS}, its path the number of a database")
    return RedisUrl("server", value)


def _several(value: str) -> str:
    """What to say of several hosts in the URL of one server, and of other libraries' schemes for them."""
    scheme = value.partition("://")[0]
    if "sentinel" in scheme or "cluster" in scheme:
        return "; write redis+cluster:// or redis+sentinel://, with TLS rediss+cluster:// or rediss+sentinel://"
    hosts = re.sub(r"[/?#].*", "", value.partition("://")[2], flags=re.DOTALL).rpartition("@")[2]
    return "; several hosts belong in redis+cluster:// or redis+sentinel://" if "," in hosts else ""


def _sentinel(scheme: str, rest: str) -> RedisUrl:
    signed, hosts, path, query = _parts(rest, SENTINEL)
    addresses = _addresses(hosts, 26379, SENTINEL)
    found = re.fullmatch(r"([0-9A-Za-z._%-]{1,255})(?:/([0-9]{1,6}))?/?", path)
    if found is None:
        raise ValueError(f"{SENTINEL}, its path the name of the service, and perhaps the number of a database")
    options = parse_qsl(query, keep_blank_values=True)
    own = dict(option for option in options if option[0] in _OF_SENTINELS)
    others = [option for option in options if option[0] not in _OF_SENTINELS]
    return RedisUrl(
        "sentinel",
        _server_url(scheme, signed, addresses[0], found[2] or "0", others, SENTINEL),
        addresses,
        service=found[1],
        sentinel_username=own.get("sentinel_username") or None,
        sentinel_password=own.get("sentinel_password") or None,
    )


def _cluster(scheme: str, rest: str) -> RedisUrl:
    signed, hosts, path, query = _parts(rest, CLUSTER)
    addresses = _addresses(hosts, 6379, CLUSTER)
    options = parse_qsl(query, keep_blank_values=True)
    if path not in ("", "0") or any(name == "db" and value != "0" for name, value in options):
        raise ValueError(f"{CLUSTER}, without a path: a Cluster has the database 0 alone")
    return RedisUrl("cluster", _server_url(scheme, signed, addresses[0], "0", options, CLUSTER), addresses)


def _parts(rest: str, wanted: str) -> tuple[str, str, str, str]:
    """User and password, hosts, path, options."""
    try:
        rest.encode()
    except UnicodeEncodeError:
        raise ValueError(wanted) from None
    place, _, query = rest.partition("#")[0].partition("?")
    authority, _, path = place.partition("/")
    signed, _, hosts = authority.rpartition("@")
    if "@" in path or "@" in query:
        raise ValueError(f"{wanted}; in user and password @ is written %40, / %2F, ? %3F, # %23 and : %3A")
    return signed, hosts, path, query


def _addresses(hosts: str, port: int, wanted: str) -> tuple[Address, ...]:
    found = []
    for each in hosts.split(","):
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]{1,255}))(?::([0-9]{1,5}))?", each.strip())
        if match is None:
            raise ValueError(f"{wanted}, host:port with commas between")
        number = int(match[3] or port)
        if not 1 <= number <= 65535:
            raise ValueError(f"{wanted}, {_PORT}")
        found.append((match[1] or match[2], number))
    return tuple(dict.fromkeys(found))


def _server_url(
    scheme: str, signed: str, address: Address, database: str, options: list[tuple[str, str]], wanted: str
) -> str:
    query = urlencode(options)
    if wrong := refused_by_redis(scheme, query):
        raise ValueError(f"{wanted}, {wrong}")
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{f'{signed}@' if signed else ''}{host}:{address[1]}/{database}{f'?{query}' if query else ''}"
