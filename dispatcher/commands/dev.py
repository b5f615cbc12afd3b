"""`dispatcher dev`: a Postgres and a Valkey to develop against, with their data kept in a folder."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

import anyio
import click
import psycopg

from dispatcher.core.errors import Unreachable
from dispatcher.demo.program import program
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.infra.postgres.migrations import migrate

DATABASE = "messaging_dev"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
def dev(data_dir: Path, postgres_port: int, redis_port: int) -> None:
    """Start Postgres 18 and Valkey 9 to develop against.

    Makes the database, applies the migrations and the doorbell, prints the two URLs, and stays until Ctrl-C. When one
    of the two servers ends, it stops the other one and says so. Needs the 'embedded' extra.
    """
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
            _say_what_next(postgres, valkey, applied)
            _stay(postgres, valkey)
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The data stays in {data_dir}")


def _make_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())


def _say_what_next(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, applied: list[str]) -> None:
    click.echo(f"Migrations applied: {', '.join(applied) or 'none, it was up to date'}")
    click.echo(
        f"""
Postgres {postgres.version} and Valkey are up. In another terminal:

export DATABASE_URL={postgres.url(DATABASE)}
export REDIS_URL={valkey.url}

DISPATCHER_ENABLED=true {program()} run      relay what is committed
{quote(str(postgres.bin("psql")))} "$DATABASE_URL"      look into the database

Ctrl-C stops both and keeps the data."""
    )


def _stay(*servers: EmbeddedPostgres | EmbeddedValkey) -> None:
    while True:
        for server in servers:
            if not server.running:
                raise Unreachable(f"{server.name} ended by itself; its log is {server.log}")
        time.sleep(0.5)


def _ignore_stop_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
