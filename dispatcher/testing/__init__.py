"""For the tests of applications: what a transaction added, a relay that publishes once, a consumer of one event.

    pytest_plugins = ["dispatcher.testing"]    # conftest.py: the fixtures `outbox` and `outbox_servers`

    from dispatcher.testing import published, run_one

Needs what the extra `testing` brings: the dispatcher, Postgres and Valkey. Nothing here needs pytest but the fixtures.
PYTEST_DONT_REWRITE: an application's conftest.py may import this before pytest looks at it.
"""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
from dispatcher.testing.consumer import received, run_one, run_one_async
from dispatcher.testing.published import published, published_async
from dispatcher.testing.relay import NotPublished, relay_once
from dispatcher.testing.servers import Servers

__all__ = [
    "NotPublished",
    "Servers",
    "published",
    "published_async",
    "received",
    "relay_once",
    "run_one",
    "run_one_async",
]

pytest_plugins = ["dispatcher.testing.fixtures"]
