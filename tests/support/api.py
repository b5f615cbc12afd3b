"""The HTTP API of a running dispatcher: a client, and what it answers."""

from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from dispatcher.service import targets as reach


@pytest.fixture
def api(dispatcher, monkeypatch):
    """`async with api() as (client, running):` a dispatcher on loopback, which never ticks, and its API."""
    monkeypatch.setattr(reach, "API_CONNECT_S", 60.0)

    @asynccontextmanager
    async def start(**settings: Any):
        async with (
            dispatcher(http_enabled=True, **settings) as running,
            aiohttp.ClientSession(f"{running.http_url}/api/") as client,
        ):
            yield client, running

    return start


async def get(client: aiohttp.ClientSession, path: str, status: int = 200, **headers: str) -> Any:
    """The JSON of an answer with this status."""
    async with client.get(path, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json"), await answer.text()
        return await answer.json()


async def post(client: aiohttp.ClientSession, path: str, body: object = None, status: int = 200) -> Any:
    """The JSON of an answer with this status."""
    async with client.post(path, json=body) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json"), await answer.text()
        return await answer.json()
