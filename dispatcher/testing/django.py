"""Tests of a Django project on servers from the wheels.

    TEST_RUNNER = "dispatcher.testing.django.Runner"

`manage.py test` then starts a Postgres and a Valkey, and makes the test databases there. In a test:

    published(connection)                          in a TestCase, which never commits
    relay_once(connection, settings.REDIS_URL)     in a TransactionTestCase
"""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.db import connections
from django.test.runner import DiscoverRunner

from dispatcher.testing.conninfo import LIBPQ
from dispatcher.testing.servers import Servers

__all__ = ["Runner", "use_servers"]


def use_servers(servers: Servers) -> None:
    """Lead the project to these servers: each database that is Postgres, settings.REDIS_URL, and REDIS_URL.

    For pytest-django, in a fixture `django_db_modify_db_settings` of the session.
    """
    where = urlsplit(servers.postgres_url)
    address = {
        "HOST": where.hostname,
        "PORT": where.port,
        "USER": unquote(where.username or ""),
        "PASSWORD": unquote(where.password or ""),
    }
    for alias in connections:
        if connections[alias].vendor == "postgresql":
            options = connections[alias].settings_dict["OPTIONS"]
            connections[alias].settings_dict |= address
            connections[alias].settings_dict["OPTIONS"] = {
                name: value for name, value in options.items() if name not in LIBPQ
            }
    settings.REDIS_URL = os.environ["REDIS_URL"] = servers.redis_url


class Runner(DiscoverRunner):
    """Django's own, on servers that it starts."""

    def setup_databases(self, **kwargs: Any) -> Any:
        """Make the test databases on a Postgres of their own."""
        self._servers = Servers()
        use_servers(self._servers)
        return super().setup_databases(**kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Stop the servers, and with them all that is in them."""
        super().teardown_databases(old_config, **kwargs)
        self._servers.close()
