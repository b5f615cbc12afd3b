"""Who gets in to /api and the console, over real HTTP: tokens, loopback, host names, other sites' pages."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry

from dispatcher.core.errors import Misconfigured
from dispatcher.sidecar.access import OFF, AccessControl
from dispatcher.sidecar.app import build
from tests.support.http import port_of, served

TOKEN = {"Authorization": "Bearer s3cret"}
CSP = "default-src 'self'"


def site(**options: Any) -> AbstractAsyncContextManager[ClientSession]:
    async def said(request: web.Request) -> web.Response:
        return web.json_response({"said": "something"})

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="shell", headers={"Content-Security-Policy": CSP})

    routes = [web.get("/api/thing", said), web.post("/api/thing", said), web.get("/", page)]
    return served(build(lambda: None, CollectorRegistry(), guard=AccessControl(**options), routes=routes))


async def asked(client, path="/api/thing", method="GET", **headers: str) -> int:
    async with client.request(method, path, headers=headers) as answer:
        if answer.status >= 400:
            assert list(await answer.json()) == ["error"]
        return int(answer.status)


async def test_with_a_token_the_api_asks_for_it():
    async with site(token=lambda: "s3cret") as client:
        async with client.get("/api/thing") as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="dispatcher"')
            assert "DISPATCH_API_TOKEN" in (await answer.json())["error"]
        for wrong in ("Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer", "Bearer \xe4\xf6"):
            async with client.get("/api/thing", headers={"Authorization": wrong}) as answer:
                assert answer.status == 401, wrong
                assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
                assert "s3cre" not in await answer.text()
        assert await asked(client, **TOKEN) == 200
        assert await asked(client, Authorization="bearer s3cret") == 200
        assert await asked(client, method="POST", **TOKEN) == 200
        assert await asked(client, "/api/nothing") == 401  # what is there is nobody's business
        assert await asked(client, "/api") == 401
        assert await asked(client, method="OPTIONS") == 401


async def test_the_page_needs_no_token_and_keeps_its_own_policy():
    async with site(token=lambda: "s3cret") as client, client.get("/") as answer:
        assert (answer.status, answer.headers["Content-Security-Policy"]) == (200, CSP)
        assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.promise("api-guard")
@pytest.mark.parametrize("listens_on", ["0.0.0.0", "::", "10.0.0.1", "db.example.com"])  # noqa: S104
async def test_without_a_token_only_loopback_is_served(listens_on):
    async with site(listens_on=listens_on) as client:
        for path in ("/", "/api/thing", "/api/nothing", "/console/x.js"):
            async with client.get(path) as answer:
                assert (answer.status, await answer.json()) == (403, {"error": OFF})
        assert await asked(client, "/health") == await asked(client, "/metrics") == 200


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
async def test_on_loopback_no_token_is_needed(listens_on):
    async with site(listens_on=listens_on) as client:
        assert await asked(client) == await asked(client, "/") == 200


@pytest.mark.promise("api-guard")
async def test_names_that_could_be_pointed_at_us_are_not_answered_to(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Pod-7")
    async with site(listens_on="127.0.0.1", hosts=("dispatcher.example.com", "*.internal")) as client:
        for host in ("evil.example.com", "internal", "localhost.evil.com", "127.0.0.1.evil.com", "a b", "x@[::1]", ""):
            assert await asked(client, Host=host) == await asked(client, "/", Host=host) == 421, host
            assert await asked(client, "/health", Host=host) == await asked(client, "/metrics", Host=host) == 200
        for host in (
            "127.0.0.1:8080", "10.0.0.7", "[::1]:8080", "[::1]", "localhost", "LOCALHOST:1", "localhost.",
            "a.localhost", "pod-7:8080", "dispatcher.example.com", "a.b.internal:80",
        ):  # fmt: skip
            assert await asked(client, Host=host) == 200, host


async def test_any_name_when_a_person_says_so():
    async with site(token=lambda: "s3cret", hosts=("*",)) as client:
        assert await asked(client, Host="anything.example.com", **TOKEN) == 200


@pytest.mark.promise("api-guard")
async def test_a_page_of_another_site_may_not_post():
    async with site(listens_on="127.0.0.1", hosts=("ours.example.com",)) as client:
        ours = f"127.0.0.1:{port_of(client)}"
        for headers in (
            {"Origin": "https://evil.example.com"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert await asked(client, method="POST", **headers) == 403, headers
            assert await asked(client, **headers) == 200  # it cannot read the answer
        allowed: tuple[dict[str, str], ...] = (
            {},
            {"Origin": f"http://{ours}"},
            {"Origin": "https://ours.example.com"},  # behind a proxy that changed Host
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
        )
        for headers in allowed:
            assert await asked(client, method="POST", **headers) == 200, headers


async def test_a_token_that_is_rotated_counts_at_once_and_a_lost_file_lets_nobody_in():
    tokens: list[str | None] = ["s3cret"]

    def read() -> str | None:
        if not tokens:
            raise Misconfigured("no such file")
        return tokens[-1]

    async with site(token=read, token_s=-1.0) as client:
        assert await asked(client, **TOKEN) == 200
        tokens.append("other")
        assert await asked(client, **TOKEN) == 401
        assert await asked(client, Authorization="Bearer other") == 200
        tokens.clear()
        assert await asked(client, Authorization="Bearer other") == 503
