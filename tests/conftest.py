"""Loads the fixtures, one file a concern. `pytest --help` lists our options under "dispatcher"."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from dispatcher.embedded import ports

# A shell ignores these for what it starts in the background, and programs that we start would ignore them too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGQUIT, signal.SIGHUP):  # and nohup the latter
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)

# A busy machine makes no property false.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def _share_of_ports() -> None:
    """Give each worker of xdist ports of its own: what one has chosen and not yet bound, another must not choose. There
    are as many shares again for workers that take the place of one that was ended."""
    shares = 2 * int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (ports._LAST - ports._FIRST + 1) // shares
    ports._FIRST += number % shares * share
    ports._LAST = ports._FIRST + share - 1


_share_of_ports()

pytest_plugins = [
    "tests.support.options",
    "tests.support.time_limit",
    "tests.support.servers",
    "tests.support.postgres",
    "tests.support.redis",
    "tests.support.clock",
    "tests.support.tls",
    "tests.support.proxy",
    "tests.support.tap",
    "tests.support.child",
    "tests.support.command",
    "tests.support.running",
    "tests.support.api",
    "tests.support.consumers",
    "tests.support.slots",
    "tests.support.browser",
    "tests.support.axe",
    "tests.support.handlers",
    "tests.support.otlp",
    "tests.support.prometheus",
    "tests.support.django",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """We run on asyncio: psycopg and redis-py do."""
    return "asyncio"
