"""A client of redis-py for what is looked up beside publishing."""

from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from dispatcher.core.redis_url import read_redis_url
from dispatcher.infra.redis.closing import close_at_once, closing_at_once
from dispatcher.infra.redis.cluster import ClusterTarget
from dispatcher.infra.redis.sentinel import client_of_primary
from dispatcher.infra.redis.target import RedisTarget, next_after_s


class _EachAddress:
    """Tries the next address of a name when the first says nothing; redis-py waits for it as long as it may."""

    def _connection_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._connection_arguments()  # type: ignore[misc]
        return arguments | {"happy_eyeballs_delay": next_after_s(arguments["host"])}


class _Plain(_EachAddress, Connection):
    pass


class _Secure(_EachAddress, SSLConnection):
    def _connection_arguments(self) -> dict[str, Any]:
        # Without the dot that ends a name which is looked up as it stands: no certificate has it.
        return super()._connection_arguments() | {"server_hostname": self.host.removesuffix(".")}


class _Cluster(RedisCluster):
    """Closes also what it opened to find the nodes, when that failed or was cut short: redis-py leaves it open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for node in self.nodes_manager.startup_nodes.values():
            close_at_once(node)
        of_later_nodes = self.nodes_manager.connection_kwargs
        of_later_nodes["connection_class"] = closing_at_once(of_later_nodes["connection_class"])

    async def aclose(self) -> None:
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


_CLASSES: dict[type, type] = {Connection: _Plain, SSLConnection: _Secure}


def open_client(url: str, timeout_s: float, name: str | None = None) -> Redis:
    """A client that never retries. `timeout_s`: for a connection, and for each answer. Raises Misconfigured."""
    target, options = RedisTarget.parse(url), parse_url(read_redis_url(url).server_url)
    connection_class = options.pop("connection_class", Connection)
    patience: dict[str, Any] = {
        "protocol": 2,  # redis-py 8 begins with HELLO, which Redis 5 and some proxies do not know
        "client_name": name,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
    }
    if target.sentinels is not None:
        secure = {"ssl": True} if connection_class is SSLConnection else {}
        of_server = {name: value for name, value in options.items() if name not in ("host", "port")}
        return client_of_primary(target.sentinels, timeout_s, of_server | patience | secure)
    if target.cluster is not None:
        return _of_cluster(target.cluster, patience)
    client: Redis = Redis.from_url(url, **patience)
    pool = client.connection_pool
    pool.connection_class = _CLASSES.get(pool.connection_class, pool.connection_class)
    close_at_once(pool)
    return client


def _of_cluster(cluster: ClusterTarget, patience: dict[str, Any]) -> Redis:
    """It asks each node for what lies there; nothing that it is used for here is of a single server."""
    secure = {} if cluster.tls is None else {"ssl": True, **cluster.tls}
    client = _Cluster(
        startup_nodes=[ClusterNode(*address) for address in cluster.addresses],
        require_full_coverage=False,  # a node that is away takes nothing from the others
        username=cluster.username,
        password=cluster.password,
        **secure,
        **patience,
    )
    return cast("Redis", client)
