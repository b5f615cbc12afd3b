"""Postgres and Valkey for a session of tests: from the wheels, each started when the first test needs it.

Where OUTBOX_TEST_DATABASE_URL or OUTBOX_TEST_REDIS_URL is set, that server is used instead; its role needs CREATEDB.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.infra.postgres.migrations import migrate
from dispatcher.testing.relay import apart

MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder in it is made by mkdtemp
ROOM = 1.5 * 2**30  # bytes

# A pool that `prepare` left open, as that of an engine in Alembic's env.py: a database in use cannot be copied.
_END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"

Prepare = Callable[[str], object]  # gets the URL of the database that all others are copies of


class Servers:
    """The servers, and databases in them. `with Servers() as servers:` stops at its end what it started.

    `prepare`: makes the application's own tables, once; it gets a URL.
    """

    def __init__(self, prepare: Prepare | None = None) -> None:
        self._prepare = prepare
        self._stack = ExitStack()

    @cached_property
    def postgres_url(self) -> str:
        """OUTBOX_TEST_DATABASE_URL; without it, of a superuser of a Postgres that starts when this is first asked."""
        if given := os.environ.get("OUTBOX_TEST_DATABASE_URL"):
            return given
        postgres = EmbeddedPostgres(self._folder / "postgres", durable=False, options={"max_wal_size": "256MB"})
        return self._stack.enter_context(postgres).url()

    @property
    def owns_redis(self) -> bool:
        """Whether it was started for these tests, and may be emptied."""
        return not os.environ.get("OUTBOX_TEST_REDIS_URL")

    @cached_property
    def redis_url(self) -> str:
        """OUTBOX_TEST_REDIS_URL; without it, of a Valkey that is started when this is first asked."""
        if not self.owns_redis:
            return os.environ["OUTBOX_TEST_REDIS_URL"]
        return self._stack.enter_context(EmbeddedValkey(self._folder / "valkey")).url

    @contextmanager
    def database(self) -> Iterator[str]:
        """A database with the outbox and the application's tables, empty; its URL. It is dropped at the end."""
        name = self._create(self._template)
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    @cached_property
    def _template(self) -> str:
        name = self._create("template0")
        self._stack.callback(self._drop, name)
        apart(partial(migrate, self._url(name)))
        if self._prepare is not None:
            self._prepare(self._url(name))
            with psycopg.connect(self.postgres_url, autocommit=True) as connection:
                connection.execute(_END_SESSIONS, [name])
        return name

    @cached_property
    def _folder(self) -> Path:
        """In memory where there is room: a database is hundreds of files. Open to all: for root, Postgres is nobody."""
        memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
        folder = Path(tempfile.mkdtemp(prefix="outbox-tests-", dir=MEMORY if memory else None))
        folder.chmod(0o755)
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _url(self, name: str) -> str:
        return urlsplit(self.postgres_url)._replace(path=f"/{name}").geturl()

    def _create(self, template: str) -> str:
        name = f"outbox_test_{secrets.token_hex(4)}"
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            files = " STRATEGY FILE_COPY" if connection.info.server_version >= 150000 else ""  # before, the only way
            statement = sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}} ENCODING 'UTF8'{files}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def _drop(self, name: str) -> None:
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        """Drop the databases that were made, stop the servers that were started, remove their files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
