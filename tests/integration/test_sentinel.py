"""Redis found through sentinels: the right server at each connect, whoever of them is down or lies."""

import os
import signal
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.core.events import Settled
from dispatcher.embedded.ask import ask
from dispatcher.embedded.cluster import wait_until
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from tests.support.redis import StartSentinels
from tests.support.rows import STREAM, insert_events, read_table, statuses
from tests.support.running import StartDispatcher
from tests.support.sentinels import FAILS_OVER_MS, EmbeddedSentinels
from tests.support.tls import Certificate, behind_tls
from tests.support.waiting import until

PASSWORD, OTHER = "s3cr3t-Wort", "anderes-Wort"


def connection(url: str, timeout_s: float = 30.0) -> RedisConnection:
    target = RedisTarget.parse(url)
    return RedisConnection(
        target, name="test", streams=(STREAM,), connect_timeout_s=timeout_s, on_lost=lambda why: None
    )


async def refusal(url: str, kind: type[DispatcherError]) -> str:
    with pytest.raises(kind) as caught:
        await connection(url).connect()
    assert PASSWORD not in str(caught.value)
    assert OTHER not in str(caught.value)
    return str(caught.value)


async def port_of(url: str, timeout_s: float = 30.0) -> int:
    """The port of the server that a new connection leads to."""
    made = connection(url, timeout_s)
    await made.connect()
    [info] = await made.send([("INFO", "server")], 30.0)
    made.close()
    return int(info.partition(b"tcp_port:")[2].split()[0])


async def fail_over(watched: EmbeddedSentinels) -> None:
    def look() -> None:
        wait_until(lambda: watched.primary_port() == watched.replica.port, "the replica is the primary", within_s=90)

    await anyio.to_thread.run_sync(look)


async def test_the_primary_is_asked_for_at_each_connect(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(password=PASSWORD, sentinel_password=OTHER)
    assert await port_of(watched.url) == watched.primary.port
    client = open_client(watched.url, 30.0)
    await client.xadd(STREAM, {"a": "b"})
    held = connection(watched.url)
    await held.connect()
    assert not await held.leads_elsewhere()
    os.kill(watched.sentinels[0].pid, signal.SIGSTOP)  # one that says nothing holds up nobody
    with anyio.fail_after(50):
        assert await port_of(watched.url, timeout_s=120) == watched.primary.port
    os.kill(watched.sentinels[0].pid, signal.SIGCONT)
    watched.sentinels[2].stop()
    ask(watched.sentinels[1].port, "SENTINEL", "FAILOVER", watched.service, password=OTHER)
    await fail_over(watched)
    assert await port_of(watched.url) == watched.replica.port
    assert await held.leads_elsewhere()
    assert await client.xlen(STREAM) == 1
    await client.aclose()
    held.close()


async def test_a_sentinel_that_names_a_demoted_server(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(sentinels=1, quorum=1)
    # It never hears of the switch: nobody told it of the replica, and none of the two is down.
    ask(watched.sentinels[0].port, "SENTINEL", "SET", watched.service, "down-after-milliseconds", "600000")
    liar = watched.sentinels[0]
    os.kill(liar.pid, signal.SIGSTOP)
    ask(watched.replica.port, "REPLICAOF", "NO", "ONE")
    ask(watched.primary.port, "REPLICAOF", "127.0.0.1", str(watched.replica.port))
    os.kill(liar.pid, signal.SIGCONT)
    said = await refusal(watched.url, Unreachable)
    assert f"Redis at 127.0.0.1:{watched.primary.port}/0 is no primary, though sentinels say so" in said


async def test_what_a_person_has_to_mend(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(sentinels=1, quorum=1, password=PASSWORD, sentinel_password=OTHER)
    place = f"127.0.0.1:{watched.sentinels[0].port}"
    said = await refusal(watched.url.replace("/orders", "/payments"), Misconfigured)
    assert said == (
        f"the sentinels at {place} know no service 'payments': check the path of REDIS_URL against "
        "`sentinel monitor` in their configuration"
    )
    advice = "check sentinel_username and sentinel_password in REDIS_URL"
    assert advice in await refusal(watched.url.partition("?")[0], Misconfigured)
    assert advice in await refusal(watched.url + "x", Misconfigured)
    wrong = watched.url.replace(PASSWORD, "wrong")
    assert "check the user and password in REDIS_URL" in await refusal(wrong, Misconfigured)
    server = f"redis+sentinel://127.0.0.1:{watched.primary.port}/orders"
    assert advice in await refusal(server, Misconfigured)  # a server with a password
    plain = f"redis+sentinel://127.0.0.1:{watched.primary.port}/orders?sentinel_password={PASSWORD}"
    assert "is no sentinel: check the hosts and ports in REDIS_URL" in await refusal(plain, Misconfigured)
    watched.sentinels[0].crash()
    assert await refusal(watched.url, Unreachable) == f"none of the sentinels at {place} answers"


async def test_a_primary_that_is_down_is_waited_for(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(sentinels=1, quorum=1, down_after_ms=FAILS_OVER_MS)
    watched.replica.crash()
    watched.primary.crash()

    async def says_so() -> bool:
        return "say that the primary of 'orders' is down" in await refusal(watched.url, Unreachable)

    await until(says_so, "the sentinel holds it for down", timeout_s=90)


async def test_tls_to_a_sentinel_that_nobody_vouches_for(
    own_sentinels: StartSentinels, certificate: Certificate
) -> None:
    watched = await anyio.to_thread.run_sync(own_sentinels)
    async with behind_tls(f"redis://127.0.0.1:{watched.sentinels[0].port}", certificate) as port:
        said = await refusal(f"rediss+sentinel://localhost:{port}/{watched.service}", Misconfigured)
    assert said.startswith(f"the sentinel at localhost:{port}: TLS failed")


async def test_events_go_on_with_tls_to_sentinels_and_servers(
    own_sentinels: StartSentinels, certificate: Certificate, dispatcher: StartDispatcher, db: Any
) -> None:
    watched = await anyio.to_thread.run_sync(own_sentinels)
    async with AsyncExitStack() as stack:

        async def tls(port: int, *, plain: bool = False) -> int:
            return await stack.enter_async_context(behind_tls(f"redis://127.0.0.1:{port}", certificate, plain=plain))

        # All know the servers by the ports where TLS is spoken; the sentinels and the replica speak none there.
        ports = [await tls(server.port, plain=True) for server in (watched.primary, watched.replica)]
        await anyio.to_thread.run_sync(watch_at, watched, ports)
        sentinels = ",".join([f"127.0.0.1:{await tls(each.port)}" for each in watched.sentinels])
        url = f"rediss+sentinel://{sentinels}/{watched.service}?ssl_ca_certs={certificate.authority}"
        async with dispatcher(redis_url=url, tick_ms=200) as running:
            await insert_events(db, 20)
            await running.tap.add_up(Settled, sent=20)
            client = open_client(url, 30.0)
            assert await client.xlen(STREAM) == 20
            assert watched.primary_port() == ports[0]
            await anyio.to_thread.run_sync(ask, watched.sentinels[0].port, "SENTINEL", "FAILOVER", watched.service)
            await anyio.to_thread.run_sync(
                lambda: wait_until(
                    lambda: watched.primary_port() == ports[1], "the replica is the primary", within_s=90
                )
            )
            await insert_events(db, 20)

            async def all_sent() -> bool:
                return await statuses(db) == {"sent": 40}

            await until(all_sent, "all are sent")
            entries: Any = await client.xrange(STREAM)
            found = {fields[b"event_id"].decode() for _, fields in entries}
            assert found == {str(row["event_id"]) for row in await read_table(db)}
            assert await client.xlen(STREAM) == 40
            await client.aclose()


def watch_at(watched: EmbeddedSentinels, ports: list[int]) -> None:
    """Let the sentinels and the servers know the primary and the replica by other ports."""
    primary, replica = watched.primary, watched.replica
    for server, port in zip((primary, replica), ports, strict=True):
        ask(server.port, "CONFIG", "SET", "replica-announce-ip", "127.0.0.1")
        ask(server.port, "CONFIG", "SET", "replica-announce-port", str(port))
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "REMOVE", watched.service)
    ask(replica.port, "REPLICAOF", "127.0.0.1", str(ports[0]))
    in_step = lambda: "master_link_status:up" in str(ask(replica.port, "INFO", "replication"))  # noqa: E731
    wait_until(in_step, "the replica is in step")
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "MONITOR", watched.service, "127.0.0.1", str(ports[0]), "2")
        limits = (("down-after-milliseconds", watched.down_after_ms), ("failover-timeout", watched.failover_timeout_ms))
        for name, value in limits:
            sentinel.ask("SENTINEL", "SET", watched.service, name, str(value))

    def known() -> bool:
        told = [sentinel.ask("SENTINEL", "MASTER", watched.service) for sentinel in watched.sentinels]
        counts = [dict(zip(each[::2], each[1::2], strict=False)) for each in told]
        return all((each["num-slaves"], each["num-other-sentinels"]) == ("1", "2") for each in counts)

    wait_until(known, "the sentinels know each other and the replica")
