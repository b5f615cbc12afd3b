"""Opens a Postgres session, and says in plain words why it could not."""

from typing import Any

import anyio
import psycopg

from dispatcher.core.errors import Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.connect_errors import explain
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget

MINIMUM_VERSION = 140000


async def connect(target: PostgresTarget, purpose: str) -> Session:
    """Open a session.

    Raises Misconfigured (wrong password, unknown database, server too old ...: waiting does not help) or Unreachable.
    """
    where = f"Postgres at {target.address()}"
    pooled = target.pooled
    try:
        with anyio.fail_after(target.patience_s()):
            try:
                connection = await _open(target, purpose, pooled=pooled)
            except psycopg.OperationalError as error:
                if "unsupported startup parameter" not in str(error):
                    raise
                pooled = True  # PgBouncer's words
                connection = await _open(target, purpose, pooled=True)
    except TimeoutError:
        raise Unreachable(f"{where} did not answer within {target.patience_s():g} s") from None
    except psycopg.ProgrammingError:
        raise Misconfigured(
            "DATABASE_URL is neither a postgresql:// URL nor libpq key/value pairs such as 'host=db dbname=app user=me'"
        ) from None
    except psycopg.OperationalError as error:
        raise explain(where, error) from None
    session = Session(connection, target.query_timeout_s + 2.0)
    if pooled:
        session.treat_as_pooled()
    if (version := connection.info.server_version) < MINIMUM_VERSION:
        await session.close()
        major = f"{version // 10000}.{version % 10000}" if version >= 100000 else str(version // 10000)
        raise Misconfigured(f"{where} runs PostgreSQL {major}; PostgreSQL 14 or later is needed")
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        await session.close()
        raise Misconfigured(f"{where} has no encoding (SQL_ASCII); a database with ENCODING 'UTF8' is needed")
    try:
        [(pid,)] = await session.fetch("SELECT pg_backend_pid()")
    except (SessionLost, psycopg.Error) as error:
        await session.close()
        raise Unreachable(f"{where}: {describe(error)}") from None
    if pid != session.backend_pid:
        session.treat_as_pooled()  # a pooler invents the process id it announces
    return session


async def _open(target: PostgresTarget, purpose: str, *, pooled: bool) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(target.full_conninfo(purpose, pooled=pooled), autocommit=True)
