"""`dispatcher dev`: a Postgres and a Valkey to develop against, with their data kept in a folder."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

import anyio
import click
import psycopg
from click.core import ParameterSource

from dispatcher.core.errors import Unreachable
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.demo.program import program
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.embedded.ports import require_free
from dispatcher.infra.postgres.migrations import migrate

DATABASE = "messaging_dev"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Variables of a shell that would lead the dispatcher to other servers.
SERVERS = ("DATABASE_URL", "POSTGRES_URL", "REDIS_URL", "DISPATCH_LISTEN_URL")
_PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path(".dispatcher-dev"),
    show_default=True,
    help="Folder that keeps the data of both.",
)
@click.option("--postgres-port", type=_PORT, default=5433, show_default=True, help="Port of Postgres on 127.0.0.1.")
@click.option("--redis-port", type=_PORT, default=6380, show_default=True, help="Port of Valkey on 127.0.0.1.")
@click.option("--run", "runs", is_flag=True, help="Run a dispatcher as well, with its console.")
@click.option("--http-port", type=_PORT, default=8080, show_default=True, help="With --run: port of its console.")
@click.pass_context
def dev(
    context: click.Context, /, data_dir: Path, postgres_port: int, redis_port: int, runs: bool, http_port: int
) -> None:
    """Start Postgres 18 and Valkey 9 to develop against.

    Makes the database, applies the migrations and the doorbell, prints the two URLs, and stays until Ctrl-C. When one
    of the two servers ends, it stops the other one and says so. Needs the 'embedded' extra.

    With --run a dispatcher works between the two, in a process of its own. It obeys the DISPATCH_... variables of this
    shell, handlers included: DISPATCH_HANDLERS=shop.handlers dispatcher dev --run
    """
    if not runs and context.get_parameter_source("http_port") == ParameterSource.COMMANDLINE:
        raise click.UsageError("--http-port needs --run")
    if runs:
        require_free(http_port, "--http-port")
    data_dir = data_dir.absolute()
    postgres = EmbeddedPostgres(data_dir / "postgres", port=postgres_port)
    valkey = EmbeddedValkey(data_dir / "valkey", port=redis_port, appendonly=True)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            click.echo(f"Starting Postgres and Valkey, data in {data_dir} ...")
            stack.enter_context(postgres)
            stack.enter_context(valkey)
            # Runs first on the way out: a second Ctrl-C must not interrupt the stopping.
            stack.callback(_ignore_stop_signals)
            _make_database(postgres.url())
            applied = anyio.run(migrate, postgres.url(DATABASE))
            dispatcher = stack.enter_context(_dispatcher(postgres, valkey, http_port)) if runs else None
            if dispatcher is not None:
                dispatcher.wait_ready()
            _say_what_next(postgres, valkey, applied, dispatcher)
            _stay(postgres, valkey, dispatcher)
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The data stays in {data_dir}")


def _make_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())


def _dispatcher(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, http_port: int) -> DispatcherProcess:
    """What the shell says of a dispatcher holds, but for where its servers are: those are ours."""
    settings = {"DISPATCH_DEPLOYMENT": os.environ.get("DISPATCH_DEPLOYMENT", "dev")}
    settings |= connected(postgres.url(DATABASE), valkey.url, http_port)
    return DispatcherProcess(settings, postgres.data_dir.parent / "dispatcher.log", without=SERVERS)


def _say_what_next(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, applied: list[str], dispatcher: DispatcherProcess | None
) -> None:
    click.echo(f"Migrations applied: {', '.join(applied) or 'none, it was up to date'}")
    if dispatcher is None:
        up, stops, relay = "Postgres {} and Valkey are up. ", "both", "      relay what is committed"
        relay = f"DISPATCHER_ENABLED=true {program()} run{relay}\n"
    else:
        up, stops, relay = "Postgres {}, Valkey and a dispatcher are up.", "all three", ""
        up += f"\n\nConsole: http://127.0.0.1:{dispatcher.port}/\nIts log: {dispatcher.log}\n\n"
    click.echo(
        f"""
{up.format(postgres.version)}In another terminal:

export DATABASE_URL={postgres.url(DATABASE)}
export REDIS_URL={valkey.url}

{relay}{quote(str(postgres.bin("psql")))} "$DATABASE_URL"      look into the database

Ctrl-C stops {stops} and keeps the data."""
    )


def _stay(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, dispatcher: DispatcherProcess | None) -> None:
    while True:
        if dispatcher is not None:
            dispatcher.check()
        for server in (postgres, valkey):
            if not server.running:
                raise Unreachable(f"{server.name} ended by itself; its log is {server.log}")
        time.sleep(0.5)


def _ignore_stop_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
