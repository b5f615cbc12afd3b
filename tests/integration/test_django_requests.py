"""A Django application adds events in its requests, and Postgres is restarted between them: each answer is true."""

import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import anyio.to_thread
import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.client import Event
from dispatcher.embedded import EmbeddedPostgres
from dispatcher.infra.postgres.migrations import migrate
from tests.support.django import database_of
from tests.support.postgres import StartPostgres
from tests.support.rows import read_stream, statuses
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes


@dataclass(slots=True)
class Application:
    """Django behind WSGI, as a worker of gunicorn runs it: one thread, whose connection outlives a request."""

    server: EmbeddedPostgres
    thread: ThreadPoolExecutor
    wsgi: Any

    async def request(self) -> tuple[int, UUID]:
        """One request: the status of its answer, and the id of the event that it was to add."""
        event_id = uuid4()
        return await anyio.to_thread.run_sync(lambda: self.thread.submit(self._answer, event_id).result()), event_id

    def _answer(self, event_id: UUID) -> int:
        said: list[int] = []
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": f"/orders/{event_id}", "SERVER_NAME": "localhost"}
        environ |= {"SERVER_PORT": "80", "wsgi.input": io.BytesIO()}  # type: ignore[dict-item]
        answer = self.wsgi(environ, lambda status, headers: said.append(int(status.partition(" ")[0])))
        answer.close()  # as a server does: that ends the request
        return said[0]

    async def restart(self) -> None:
        """Postgres ends every session, and is back."""
        await anyio.to_thread.run_sync(self.server.stop)
        await anyio.to_thread.run_sync(self.server.start)


@pytest.fixture
async def application(
    request: pytest.FixtureRequest, own_postgres: StartPostgres, django_alias: str
) -> AsyncIterator[Application]:
    """The fixture's parameter says how long Django keeps a connection."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.db import connections, transaction
    from django.http import HttpRequest, HttpResponse
    from django.test import override_settings
    from django.urls import path

    from dispatcher.client.django import add_event

    server = own_postgres(durable=True)
    await migrate(server.url())
    alias = f"restarted-{uuid4().hex}"
    connections.settings[alias] = connections.settings[django_alias] | database_of(server.url()) | request.param

    def order(request: HttpRequest, event_id: UUID) -> HttpResponse:
        with transaction.atomic(using=alias):
            event = Event(event_type="order.placed", aggregate_id="7", payload={}, event_id=event_id)
            add_event(event, using=alias)
        return HttpResponse(status=201)

    urls = type("Urls", (), {"urlpatterns": [path("orders/<uuid:event_id>", order)]})
    with ThreadPoolExecutor(1) as thread, override_settings(ROOT_URLCONF=urls, ALLOWED_HOSTS=["localhost"]):
        yield Application(server, thread, WSGIHandler())
        thread.submit(lambda: connections[alias].close()).result()
    del connections.settings[alias]


CASES = {
    "a connection a request": ({"CONN_MAX_AGE": 0}, 201),
    "kept and checked": ({"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}, 201),
    "kept": ({"CONN_MAX_AGE": None}, 500),  # the request that meets the ended connection, and no other
}


@pytest.mark.promise("django")
@pytest.mark.parametrize(("application", "first"), CASES.values(), ids=CASES, indirect=["application"])
async def test_postgres_is_restarted_between_requests(
    application: Application, first: int, dispatcher: StartDispatcher, redis: Redis
) -> None:
    """What was answered with 201 goes out, once, and nothing else."""
    url, committed = application.server.url(), list[str]()

    async def requests(*expected: int) -> None:
        for status in expected:
            answered, event_id = await application.request()
            assert answered == status
            committed.extend([str(event_id)] if status == 201 else [])

    async with dispatcher(database_url=url, tick_ms=200):
        await requests(201, 201)
        for _ in range(2):
            await application.restart()
            await requests(first, 201, 201)
        await anyio.to_thread.run_sync(application.server.stop)
        await requests(500, 500)
        await anyio.to_thread.run_sync(application.server.start)
        await requests(201, 201)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
            await becomes(lambda: statuses(db), {"sent": len(committed)})
    assert sorted(entry["event_id"] for entry in await read_stream(redis)) == sorted(committed)
