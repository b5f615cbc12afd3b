"""The sidecar over real HTTP: what probes and Prometheus get, and what anybody else gets."""

import asyncio
import contextlib
import socket
import threading

import aiohttp
import aiohttp.web
import anyio
import pytest
from anyio.abc import TaskStatus
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.core import events
from dispatcher.core.errors import Misconfigured
from dispatcher.embedded import free_port
from dispatcher.settings import Settings
from dispatcher.sidecar.app import build, serve
from dispatcher.sidecar.errors import MAX_BODY_BYTES
from dispatcher.sidecar.readiness import Readiness
from dispatcher.telemetry.metrics import Metrics
from tests.support.http import port_of, served
from tests.support.waiting import caught_up


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def readiness():
    return Readiness()


@pytest.fixture
async def client(readiness, metrics):
    async with served(build(readiness, metrics.registry)) as client:
        yield client


def up(readiness: Readiness, *, enabled: bool = True) -> None:
    readiness.observe(events.DatabaseChanged(True, None))
    readiness.observe(events.Started("a", enabled))
    readiness.observe(events.LayoutChanged(None, first=True))


async def why(client) -> str | None:
    async with client.get("/ready") as answer:
        body = await answer.json()
        assert (answer.status, body["status"]) in ((200, "ready"), (503, "not ready"))
        reason: str | None = body.get("reason")
        return reason


async def test_health_needs_nothing(client, readiness):
    readiness.observe(events.DatabaseChanged(False, "refused"))
    async with client.get("/health") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.json() == {"status": "ok"}


async def test_a_rollout_may_leave_out_that_it_is_disabled(client, readiness):
    up(readiness, enabled=False)
    assert str(await why(client)).startswith("disabled")
    async with client.get("/ready?exclude=disabled") as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "ready")
    readiness.observe(events.Stopping("test"))
    async with client.get("/ready?exclude=disabled&exclude=stopping") as answer:
        assert (answer.status, (await answer.json())["reason"]) == (503, "stopping")


async def test_health_fails_while_the_loop_is_stuck_and_only_then(readiness, metrics):
    port, stuck, free = free_port(), threading.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serving() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, build(readiness, metrics.registry), "127.0.0.1", port)
            loops.append(asyncio.get_running_loop())
            stuck.set()
            await anyio.to_thread.run_sync(done.wait)
            tasks.cancel_scope.cancel()

    done = threading.Event()
    other = threading.Thread(target=anyio.run, args=[serving])
    other.start()
    try:
        await anyio.to_thread.run_sync(stuck.wait)
        stuck.clear()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:

            def block() -> None:
                stuck.set()
                free.wait()

            loops[0].call_soon_threadsafe(block)
            await anyio.to_thread.run_sync(stuck.wait)
            with pytest.raises(TimeoutError):
                await client.get("/health", timeout=aiohttp.ClientTimeout(0.2))
            free.set()
            async with client.get("/health") as answer:
                assert answer.status == 200
    finally:
        free.set()
        done.set()
        other.join()


async def test_ready_when_everything_is_up(client, readiness):
    assert await why(client) == "database: not connected yet"
    readiness.observe(events.DatabaseChanged(True, None))
    assert await why(client) == "starting"
    readiness.observe(events.Started("a", enabled=True))
    assert await why(client) == "starting"  # another layout may stand
    readiness.observe(events.LayoutChanged(None, first=True))
    assert await why(client) is None


async def test_ready_says_what_is_down_and_why(client, readiness):
    up(readiness)
    readiness.observe(events.DatabaseChanged(False, "Postgres at db:5432/app refused the connection"))
    assert await why(client) == "database: Postgres at db:5432/app refused the connection"
    readiness.observe(events.DatabaseChanged(True, None))
    readiness.observe(events.BreakerChanged("open", "OOM"))
    assert await why(client) == "redis: OOM"
    readiness.observe(events.BreakerChanged("closed", None))
    assert await why(client) is None


async def test_an_idle_dispatcher_notices_that_redis_is_away(client, readiness):
    up(readiness)
    readiness.observe(events.Sampled(0, 0, 0, None, {}, "ConnectionError"))
    assert await why(client) == "redis: ConnectionError"
    readiness.observe(events.Sampled(0, 0, 0, 0, {}))
    assert await why(client) is None


async def test_a_sample_does_not_hide_an_open_breaker(client, readiness):
    up(readiness)
    readiness.observe(events.BreakerChanged("open", "OOM"))
    readiness.observe(events.Sampled(0, 0, 0, 7, {}))
    assert await why(client) == "redis: OOM"


async def test_a_listener_that_is_down_is_no_reason(client, readiness):
    up(readiness)
    readiness.observe(events.ListenerChanged(False, "gone"))
    assert await why(client) is None


async def test_neither_backpressure_nor_a_pause_nor_a_forbidden_look_is_a_reason(client, readiness):
    up(readiness)
    readiness.observe(events.BackpressureChanged(True, "billing", 900))
    readiness.observe(events.PauseChanged(True, "ada", "moving the stream"))
    readiness.observe(events.Sampled(0, 0, 0, None, {}))  # Redis answers, but forbids this user the look
    assert await why(client) is None


async def test_disabled_and_stopping_are_reasons(client, readiness):
    up(readiness, enabled=False)
    assert await why(client) == "disabled: DISPATCHER_ENABLED is false"
    readiness.observe(events.Stopping("SIGTERM"))
    assert await why(client) == "stopping"


async def test_metrics_are_what_prometheus_reads(client, metrics):
    metrics(events.Published(2, [0.001, 0.2], 0.001))
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    [published] = families["messaging_dispatch_published"].samples
    assert (published.name, published.value) == ("messaging_dispatch_published_total", 2)
    latency = families["messaging_dispatch_latency_seconds"]
    assert latency.type == "histogram"
    buckets = {sample.labels["le"]: sample.value for sample in latency.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.0005"], buckets["0.001"], buckets["1.5"], buckets["+Inf"]) == (0, 1, 2, 2)
    assert not [name for name in families if name.endswith("_created")]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/ready"])
async def test_head_is_get_without_a_body(client, readiness, path):
    up(readiness)
    async with client.head(path) as answer:
        assert answer.status == 200
        assert await answer.read() == b""


@pytest.mark.parametrize("path", ["/nothing", "/health/", "/metrics/x", "/apis"])
async def test_an_unknown_path_is_a_json_404(client, path):
    async with client.get(path) as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": f"there is nothing at {path}"}


async def test_a_wrong_method_is_a_json_405(client):
    async with client.post("/ready", data=b"x") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET,HEAD"
        assert await answer.json() == {"error": "POST is not allowed at /ready"}


async def test_a_large_body_is_a_json_413(readiness, metrics):
    app = build(readiness, metrics.registry)

    async def read(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response(len(await request.read()))

    app.router.add_post("/read", read)
    async with served(app) as client:
        async with client.post("/read", data=b"x" * MAX_BODY_BYTES) as answer:
            assert await answer.json() == MAX_BODY_BYTES
        async with client.post("/read", data=b"x" * (MAX_BODY_BYTES + 1)) as answer:
            assert answer.status == 413
            assert await answer.json() == {"error": f"the body is larger than {MAX_BODY_BYTES} bytes"}


@pytest.mark.parametrize("path", ["/health", "/nothing", "/api/nothing"])
async def test_no_versions_are_shown_and_no_browser_is_led_astray(client, path):
    async with client.get(path) as answer:
        assert answer.headers["Server"] == "dispatcher"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not {"Set-Cookie", "Access-Control-Allow-Origin"} & set(answer.headers)


async def test_a_taken_port_is_named_with_the_remedy(client, readiness, metrics):
    port = port_of(client)
    with pytest.raises(Misconfigured) as caught:
        await serve(build(readiness, metrics.registry), "127.0.0.1", port)
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is taken; set DISPATCH_HTTP_PORT or --http-port, or --disable-http"
    )


async def test_a_taken_port_ends_the_command_with_one_line(cli, client):
    env = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    child = await cli("run", env=env | {"DISPATCH_HTTP_PORT": str(port_of(client))})
    assert await child.wait() == 2
    assert child.lines == [
        f"dispatcher: port {port_of(client)} on 127.0.0.1 is taken; set DISPATCH_HTTP_PORT or --http-port, "
        "or --disable-http"
    ]


async def test_a_foreign_address_is_named_with_the_remedy(readiness, metrics):
    with pytest.raises(Misconfigured, match=r"^192\.0\.2\.1 is not an address of this machine; set DISPATCH_HTTP_HOST"):
        await serve(build(readiness, metrics.registry), "192.0.2.1", 0)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("host", "answers"),
    [
        ("::", ["127.0.0.1", "::1"]),  # the default
        ("localhost", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),  # noqa: S104
        ("::1", ["::1"]),
    ],
)
async def test_both_families_are_served(readiness, metrics, host, answers):
    """Probes of a pod with IPv6 alone, and the health check of the image, which asks 127.0.0.1."""
    if not has_ipv6():
        if host == "::1":
            pytest.skip("this machine has no IPv6")
        answers = ["127.0.0.1"]
    async with served(build(readiness, metrics.registry), host=host) as client:
        for address in answers:
            place = f"[{address}]" if ":" in address else address
            async with client.get(f"http://{place}:{port_of(client)}/health") as answer:
                assert answer.status == 200
    assert Settings(database_url="", redis_url="").http_host == "::"


async def test_the_port_is_free_after_a_stop(readiness, metrics):
    async with served(build(readiness, metrics.registry)) as client:
        port = port_of(client)
        async with client.get("/health") as answer:
            assert answer.status == 200
    async with served(build(readiness, metrics.registry), port=port) as again, again.get("/health") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("turns", range(6))
async def test_who_connects_as_it_stops_is_not_left_open(readiness, metrics, turns):
    """`turns`: of the loop, from the connection to the stop."""

    async def serving(*, task_status: TaskStatus[int]) -> None:
        await serve(build(readiness, metrics.registry), "127.0.0.1", 0, task_status=task_status)

    async with anyio.create_task_group() as tasks:
        port = await tasks.start(serving)
        late = socket.create_connection(("127.0.0.1", port), timeout=10)
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks.cancel_scope.cancel()
    await caught_up()
    with late, contextlib.suppress(ConnectionResetError):
        assert await anyio.to_thread.run_sync(late.recv, 1) == b""


async def test_a_bug_of_ours_is_a_json_500_that_shows_nothing(readiness, metrics, caplog):
    async def broken(request: aiohttp.web.Request) -> aiohttp.web.Response:
        raise ZeroDivisionError("s3cret")

    routes = [aiohttp.web.get("/broken", broken)]
    async with served(build(readiness, metrics.registry, routes=routes)) as client, client.get("/broken") as answer:
        assert (answer.status, await answer.json()) == (
            500,
            {"error": "this should not have happened; the log says more"},
        )
    assert [record.levelname for record in caplog.records] == ["ERROR"]
