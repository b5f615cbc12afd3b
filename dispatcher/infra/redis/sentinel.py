"""Sentinel: which server is the primary of a service, asked again for each connection.

All sentinels are asked at once, through redis-py. One that is down holds up nobody. One that lies (it is cut off, and
names a server that was demoted) is outvoted, or found out: whoever connects asks the server itself (ROLE).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.core.redis_url import Address
from dispatcher.infra.redis.at_once import ask_at_once, asking_options, tls_failure
from dispatcher.infra.redis.closing import close_at_once
from dispatcher.infra.redis.shapes import ODD_REPLY


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Those that know a service. `tls`: the ssl_* options of redis-py; None: no TLS."""

    addresses: tuple[Address, ...]
    service: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self.addresses)

    def options(self, timeout_s: float) -> dict[str, Any]:
        """How redis-py connects to a sentinel."""
        return {
            "username": self.username,
            "password": self.password,
            **asking_options(timeout_s, self.tls),
        }


class _Manager(Sentinel):
    """Asks these of the sentinels. Its connections close at once."""

    def __init__(self, sentinels: Sentinels, addresses: Sequence[Address], timeout_s: float) -> None:
        super().__init__(addresses, sentinel_kwargs=sentinels.options(timeout_s))  # type: ignore[no-untyped-call]
        for client in self.sentinels:
            close_at_once(client.connection_pool)

    async def aclose(self) -> None:
        for client in self.sentinels:
            await client.aclose()


@dataclass(slots=True)
class _Answers:
    primaries: list[Address] = field(default_factory=list)
    unknown: list[Address] = field(default_factory=list)  # sentinels that know no such service
    refused: list[str] = field(default_factory=list)
    down: int = 0  # sentinels that hold the primary for down
    silent: int = 0


async def named_primaries(sentinels: Sentinels, timeout_s: float) -> list[Address]:
    """The addresses that sentinels name as the primary now, the one that most name first.

    Raises Misconfigured: none knows the service, or all refuse us; Unreachable: nobody names one now.
    """
    answers = _Answers()
    await ask_at_once(
        [partial(_ask, sentinels, address, timeout_s, answers) for address in sentinels.addresses],
        some=lambda: bool(answers.primaries),
        enough=lambda: len(answers.primaries) * 2 > len(sentinels.addresses),
    )
    if answers.primaries:
        return [address for address, _ in Counter(answers.primaries).most_common()]
    raise _why(sentinels, answers)


async def _ask(sentinels: Sentinels, address: Address, timeout_s: float, answers: _Answers) -> None:
    sentinel = _Manager(sentinels, [address], timeout_s)
    try:
        with anyio.fail_after(timeout_s):
            try:
                host, port = await sentinel.discover_master(sentinels.service)
                answers.primaries.append((str(host), int(port)))
            except MasterNotFoundError:  # it says so too when it could not be asked
                known = await sentinel.sentinels[0].sentinel_masters()
                if sentinels.service in known:
                    answers.down += 1
                else:
                    answers.unknown.append(address)
    except (AuthenticationError, NoPermissionError):
        answers.refused.append(
            f"the sentinel at {address[0]}:{address[1]} refused us: "
            "check sentinel_username and sentinel_password in REDIS_URL"
        )
    except ResponseError as error:
        code = str(error)[:100]
        if "unknown command" in code.lower():
            answers.refused.append(f"{address[0]}:{address[1]} is no sentinel: check the hosts and ports in REDIS_URL")
        elif code.startswith(("NOAUTH", "NOPERM")):
            answers.refused.append(
                f"the sentinel at {address[0]}:{address[1]} refused us ({code.split(' ', 1)[0]}): "
                "check sentinel_username and sentinel_password in REDIS_URL"
            )
        else:
            answers.silent += 1
    except (RedisError, OSError, TimeoutError, *ODD_REPLY) as error:
        if (reason := tls_failure(error)) is not None:
            where = f"the sentinel at {address[0]}:{address[1]}"
            answers.refused.append(f"{where}: TLS failed ({reason}). Check REDIS_URL")
        else:
            answers.silent += 1
    finally:
        with anyio.CancelScope(shield=True):
            await sentinel.aclose()


def _why(sentinels: Sentinels, answers: _Answers) -> Misconfigured | Unreachable:
    if answers.down:
        return Unreachable(f"the sentinels at {sentinels} say that the primary of '{sentinels.service}' is down")
    if answers.unknown:
        told = ", ".join(f"{host}:{port}" for host, port in answers.unknown)
        return Misconfigured(
            f"the sentinels at {told} know no service '{sentinels.service}': check the path of REDIS_URL against "
            "`sentinel monitor` in their configuration"
        )
    if answers.refused:
        return Misconfigured(answers.refused[0])
    return Unreachable(f"none of the sentinels at {sentinels} answers")


class _Pool(SentinelConnectionPool):
    """Closes the connections to the sentinels too, and all at once."""

    def __init__(self, service: str, manager: _Manager, options: Mapping[str, Any]) -> None:
        super().__init__(service, manager, **options)  # type: ignore[no-untyped-call]
        close_at_once(self)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # the end; at a failover redis-py disconnects the others only
            await self.sentinel_manager.aclose()


def client_of_primary(sentinels: Sentinels, timeout_s: float, options: Mapping[str, Any]) -> Redis:
    """A client of redis-py that asks the sentinels at each connect. `options`: of its connections to the servers."""
    manager = _Manager(sentinels, sentinels.addresses, timeout_s)
    client: Redis = Redis.from_pool(_Pool(sentinels.service, manager, options))
    return client
