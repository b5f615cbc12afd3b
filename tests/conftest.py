"""Loads the fixtures, one file a concern. `pytest --help` lists our options under "dispatcher"."""

import pytest

pytest_plugins = [
    "tests.fixtures.options",
    "tests.fixtures.servers",
    "tests.fixtures.postgres",
    "tests.fixtures.redis",
    "tests.fixtures.proxy",
    "tests.fixtures.tap",
    "tests.fixtures.child",
    "tests.fixtures.command",
    "tests.fixtures.running",
    "tests.fixtures.browser",
    "tests.fixtures.handlers",
    "tests.fixtures.prometheus",
    "tests.fixtures.django",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """We run on asyncio: psycopg and redis-py do."""
    return "asyncio"
