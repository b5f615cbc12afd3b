# tests/conftest.py
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from shop.api import app

pytest_plugins = ["dispatcher.testing"]


@pytest.fixture(scope="session")
def outbox_tables() -> Callable[[str], None]:
    """Our own tables, in the database that each test gets a copy of."""

    def upgrade(url: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", url)
            command.upgrade(Config("alembic.ini"), "head")

    return upgrade


@pytest.fixture
def client(outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DATABASE_URL", outbox.database_url)
    with TestClient(app) as client:
        yield client
