"""The fixtures of `pytest_plugins = ["dispatcher.testing"]`. PYTEST_DONT_REWRITE"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest
import redis

from dispatcher.client.received import Received
from dispatcher.testing.relay import relay_once
from dispatcher.testing.servers import Prepare, Servers


@dataclass(frozen=True, slots=True)
class Outbox:
    """A database of the test's own, with the outbox, and a Redis."""

    database_url: str
    redis_url: str

    def sqlalchemy_url(self, driver: str = "psycopg") -> str:
        """The database's URL for SQLAlchemy. `driver`: psycopg, psycopg2, asyncpg."""
        return self.database_url.replace("postgresql://", f"postgresql+{driver}://", 1)

    def relay_once(self, *, stream: str | None = None, now: datetime | None = None) -> list[Received]:
        """dispatcher.testing.relay_once on this database."""
        return relay_once(self.database_url, self.redis_url, stream=stream, now=now)


@pytest.fixture(scope="session")
def outbox_tables() -> Prepare | None:
    """Override it: return a function that makes your tables. It gets the URL of the database that is copied."""
    return None


@pytest.fixture(scope="session")
def outbox_servers(outbox_tables: Prepare | None) -> Iterator[Servers]:
    """Postgres and Valkey, once a session; with pytest-xdist once a worker."""
    with Servers(outbox_tables) as servers:
        yield servers


@pytest.fixture
def outbox(outbox_servers: Servers) -> Iterator[Outbox]:
    """A database and an empty Redis for this test. A Redis that was given is not emptied."""
    with outbox_servers.database() as url:
        if outbox_servers.owns_redis:
            with redis.Redis.from_url(outbox_servers.redis_url) as client:
                client.flushall()
        yield Outbox(url, outbox_servers.redis_url)
