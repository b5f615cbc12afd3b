"""A Redis that cannot be used is told in plain words: what is wrong, where, and no password."""

from urllib.parse import urlsplit

import pytest

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.embedded import free_port
from dispatcher.infra.redis import connection as broker_module
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from tests.support.addresses import lead_to
from tests.support.rows import STREAM
from tests.support.tls import behind_tls

PASSWORD = "s3cr3t-Wort"


def redis_connection(url: str, timeout_s: float = 30.0) -> RedisConnection:
    target = RedisTarget.parse(url)
    return RedisConnection(
        target, name="test", streams=(STREAM,), connect_timeout_s=timeout_s, on_lost=lambda why: None
    )


async def refusal(url: str, kind: type[DispatcherError] = Misconfigured, timeout_s: float = 30.0) -> str:
    """What it says when it cannot connect."""
    made = redis_connection(url, timeout_s)
    with pytest.raises(kind) as caught:
        await made.connect()
    assert not made.up
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def test_a_wrong_password_none_and_the_right_one(own_valkey):
    server = own_valkey(options={"requirepass": "right"})
    address = f"Redis at 127.0.0.1:{server.port}/0"
    at = f"127.0.0.1:{server.port}/0"
    advice = "check the user and password in REDIS_URL"
    assert await refusal(f"redis://:{PASSWORD}@{at}") == f"{address} refused us (WRONGPASS): {advice}"
    assert await refusal(f"redis://someone:{PASSWORD}@{at}") == f"{address} refused us (WRONGPASS): {advice}"
    assert await refusal(f"redis://{at}") == f"{address} refused us (NOAUTH): {advice}"
    for right in (f"redis://:right@{at}", f"redis://default:right@{at}"):
        made = redis_connection(right)
        await made.connect()
        made.close()


async def test_a_password_where_none_is_set(redis_url):
    said = await refusal(redis_url.replace("redis://", f"redis://:{PASSWORD}@"))
    assert "check the user and password in REDIS_URL" in said


async def test_a_database_that_does_not_exist(redis_url):
    assert "there is no database of that number" in await refusal(redis_url.rsplit("/", 1)[0] + "/99")


async def test_a_key_that_is_no_stream(redis_url, redis):
    await redis.set(STREAM, "x")
    said = await refusal(redis_url)
    assert f"the key '{STREAM}' is not a stream. Set another DISPATCH_STREAM_NAME" in said


async def test_a_server_that_is_too_old(redis_url, monkeypatch):
    monkeypatch.setattr(broker_module, "MINIMUM_VERSION", (99, 0))
    assert "streams need Redis 5.0 or later" in await refusal(redis_url)


async def test_a_server_that_takes_no_more_clients_is_waited_for(own_valkey):
    server = own_valkey(options={"maxclients": "1"})
    first = redis_connection(server.url)
    await first.connect()
    assert "max number of clients reached" in await refusal(server.url, Unreachable)
    first.close()


async def test_nobody_listens_nobody_is_there_and_nobody_answers(redis_url, proxy):
    assert "unreachable" in await refusal(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0", Unreachable)
    assert "unreachable" in await refusal(f"redis://:{PASSWORD}@nowhere.invalid/0", Unreachable)
    assert "unreachable" in await refusal("unix:///nowhere/redis.sock", Unreachable)
    through = await proxy(redis_url)
    through.stall()
    assert "did not answer within 0.2 s" in await refusal(through.via(redis_url), Unreachable, timeout_s=0.2)


async def test_tls_where_there_is_none(redis_url):
    secure = redis_url.replace("redis://", "rediss://")
    assert "redis://)" in await refusal(secure, Unreachable, timeout_s=0.2)


async def test_something_else_listens_there(database_url):
    await refusal(f"redis://127.0.0.1:{urlsplit(database_url).port}/0", Unreachable)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{PASSWORD}@h",
        f"redis://:{PASSWORD}@h:port/0",
        f"redis://:{PASSWORD}@h/O",
        "rediss://h?ssl_ca_certs=/no",
    ],
)
def test_what_is_no_url(url):
    with pytest.raises(Misconfigured, match=r"REDIS_URL cannot be (read|used)") as caught:
        RedisTarget.parse(url)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ssl_ca_certs=/no&ssl_check_hostname=false", "option ssl_ca_certs is of no use: No such file or directory"),
        ("ssl_min_version=TLSv1_3", "option ssl_min_version (write 771 for TLS 1.2, 772 for TLS 1.3) is of no use"),
        ("protocol=3&ssl_ciphers=none", "option ssl_ciphers is of no use: SSLError"),
        ("socket_timeout=soon&db=1", "option socket_timeout is of no use: ValueError"),
        ("ssl_certfile=/no&ssl_keyfile=/no", "option ssl_certfile is of no use: No such file or directory"),
    ],
)
def test_an_option_whose_value_cannot_be_used_is_named(options, words):
    with pytest.raises(Misconfigured) as caught:
        RedisTarget.parse(f"rediss://:{PASSWORD}@h/0?{options}")
    assert words in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", [f"redis://u:{PASSWORD}@h:1/2", f"rediss://u:{PASSWORD}@h:1/2"])
def test_a_target_does_not_show_its_password(url):
    target = RedisTarget.parse(url)
    assert (target.password, target.address()) == (PASSWORD, "h:1/2")
    assert PASSWORD not in repr(target)


async def test_tls_with_a_certificate_we_trust_and_one_we_do_not(redis_url, redis, certificate):
    async with behind_tls(redis_url, certificate) as port:
        made = redis_connection(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate.authority}")
        await made.connect()
        [reply] = await made.send([("XADD", STREAM, "*", "a", "x" * 100_000)], 5.0)
        made.close()
        assert [entry_id.encode() for entry_id, _ in await redis.xrange(STREAM)] == [reply]
        assert "TLS failed" in await refusal(f"rediss://localhost:{port}/0")
        await refusal(f"redis://localhost:{port}/0", Unreachable)


async def test_tls_to_a_name_that_ends_with_a_dot(redis_url, certificate, monkeypatch):
    """So a name is written in Kubernetes, that no search domain is tried; no certificate has the dot."""
    lead_to(monkeypatch, "localhost.")
    async with behind_tls(redis_url, certificate) as port:
        url = f"rediss://localhost.:{port}/0?ssl_ca_certs={certificate.authority}"
        made = redis_connection(url)
        await made.connect()
        made.close()
        client = open_client(url, 30.0)
        assert await client.ping()
        await client.aclose()
