"""Servers of the faults' own, and the world to break. Without `-m fault` only the quick ones run.

FAULTS_ORDER=none|aggregate|both tells with which DISPATCH_ORDER; when it is not set, with none, and those that are
marked `in_order` with both.
"""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from dispatcher.embedded import EmbeddedPostgres
from tests.support.faults import results
from tests.support.faults.standby import Pair, Standby, StartPair
from tests.support.faults.world import RELAY, ROLES, StartWorld, World, in_thread
from tests.support.fetched import postgres_of
from tests.support.options import server_options
from tests.support.postgres import Databases
from tests.support.redis import StartValkey
from tests.support.servers import Address
from tests.support.waiting import until

HERE = Path(__file__).parent
TIMEOUT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("fault")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what breaks a world with each order that is asked for."""
    if "fault_database_url" not in metafunc.fixturenames:
        return
    if any(mark.args[0] == "order" for mark in metafunc.definition.iter_markers("parametrize")):
        return  # it says itself with which
    chosen = os.environ.get("FAULTS_ORDER")
    if not chosen:
        chosen = "both" if any(metafunc.definition.iter_markers("in_order")) else "none"
    orders = ["none", "aggregate"] if chosen == "both" else [chosen]
    if orders != ["none"]:
        metafunc.parametrize("order", orders, indirect=True)


@pytest.fixture(autouse=True)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With which DISPATCH_ORDER the dispatchers of this test run."""
    chosen: str = getattr(request, "param", "none")
    monkeypatch.setattr(World, "in_order", chosen == "aggregate")
    return chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call" and "faults" in report.nodeid
        for line in report.capstdout.splitlines()
    ]
    if lines:
        terminalreporter.section("faults: what was measured")
        for line in lines:
            terminalreporter.line(line)
        terminalreporter.line(f"as a table: python -m tests.faults.table (from {results.results_file()})")


@pytest.fixture(scope="session")
def crashable_postgres(request: pytest.FixtureRequest, server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """One Postgres for all faults. Commits are durable against its crash, not against the machine's."""
    version = server_options(request.config).postgres[0]
    with postgres_of(version)(server_folder / "faults", version=version, options={"fsync": "off"}) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE ROLE outbox_dispatcher")
            connection.execute(f"CREATE ROLE {RELAY} LOGIN IN ROLE outbox_dispatcher")
        yield server


@pytest.fixture(scope="session")
def fault_databases(crashable_postgres: EmbeddedPostgres) -> Iterator[Databases]:
    """Databases of that server."""
    databases = Databases(Address(crashable_postgres.url()))
    yield databases
    crashable_postgres.start()
    databases.close()


@pytest.fixture
def fault_database_url(crashable_postgres: EmbeddedPostgres, fault_databases: Databases) -> Iterator[str]:
    """A fresh database with our schema, trigger and roles."""
    crashable_postgres.start()
    name = fault_databases.clone()
    url = fault_databases.url(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(ROLES.encode())
    yield url
    crashable_postgres.start()
    fault_databases.drop(name)


@pytest.fixture
def world(request: pytest.FixtureRequest, fault_database_url: str, own_valkey: StartValkey) -> StartWorld:
    """`async with world(DISPATCH_LEASE_MS="60000") as w:`; options of its Valkey as `valkey={...}`.

    Among other tests, on a busy machine, events need only flow: the SLA is for `make faults`."""
    test = request.node.nodeid.partition("[")[0]

    @asynccontextmanager
    async def start(
        *, valkey: dict[str, str] | None = None, appendonly: bool = False, admin_url: str | None = None, **env: str
    ) -> AsyncIterator[World]:
        server = own_valkey(appendonly=appendonly, options=valkey or {})
        async with World(admin_url or fault_database_url, server, test, env) as made:
            made.in_time = "not fault" not in request.config.option.markexpr
            yield made

    return start


@pytest.fixture
def pair(crashable_postgres: EmbeddedPostgres, server_folder: Path, request: pytest.FixtureRequest) -> StartPair:
    """`async with pair(w) as p:` a standby that is in step."""

    @asynccontextmanager
    async def start(w: World) -> AsyncIterator[Pair]:
        between = await w.proxy(w.admin_url)
        folder = server_folder / f"standby-{secrets.token_hex(4)}"
        standby = Standby(folder, between.via(crashable_postgres.url()), version=crashable_postgres.version)
        await in_thread(standby.start)
        try:
            made = Pair(w, crashable_postgres, standby, between)
            await until(lambda: w.ask("SELECT 1 FROM pg_stat_replication"), "it follows")
            await made.in_step()
            yield made
        finally:
            await w.load.stop()
            for process in w.processes:  # or they would go on trying while their proxies are closed
                await process.kill()
            await in_thread(standby.crash)
            await in_thread(crashable_postgres.start)
            with psycopg.connect(crashable_postgres.url(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM RESET ALL")
                connection.execute("SELECT pg_reload_conf()")

    return start
