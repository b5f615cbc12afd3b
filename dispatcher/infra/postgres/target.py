"""A database to connect to: its connection string, with our timeouts and session settings added."""

import os
from dataclasses import dataclass, field
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dispatcher.infra.postgres.pooler import PoolerCheck


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database to connect to and how. `pooled`: behind a transaction pooler, where session settings do not last.

    `pooler_check`: what finds out about a pooler that is met; None: any is taken for a transaction pooler.
    """

    conninfo: str = field(repr=False)
    application_name: str
    connect_timeout_s: float = 10.0
    query_timeout_s: float = 30.0
    pooled: bool = False
    pooler_check: PoolerCheck | None = field(default=None, repr=False, compare=False)

    def address(self) -> str:
        """host:port/database, for messages; never the user's password."""
        try:
            parts = conninfo_to_dict(self.conninfo)
        except psycopg.ProgrammingError:
            return "(unreadable connection string)"
        host = parts.get("host") or parts.get("hostaddr") or "local socket"
        if any("@" in str(parts.get(part) or "") for part in ("host", "port", "dbname")):
            return "(an address that cannot be told from the password: write @ as %40 and / as %2F in it)"
        return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"

    def secrets(self) -> list[str]:
        """What no message may show, though libpq or a server says it."""
        parts = conninfo_to_dict(self.conninfo)
        secrets = [str(parts.get(name) or "") for name in ("password", "sslpassword", "oauth_client_secret")]
        return [*secrets, *(quote(secret, safe="") for secret in secrets), os.environ.get("PGPASSWORD", "")]

    def full_conninfo(self, purpose: str) -> str:
        """The connection string with our name, timeouts and keepalives added.

        The settings of a session come after connecting: a pooler, a proxy or an older server refuses those it does not
        know, and the connection with them.
        """
        return make_conninfo(
            self.conninfo,
            application_name=f"dispatcher {purpose} {self.application_name}"[:63],
            client_encoding="utf8",
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )

    def session_settings(self, server_version: int) -> dict[str, str]:
        """What is set on each session that keeps its settings."""
        settings = {
            # Losing an unflushed claim or settle in a crash repeats work; it never loses any.
            "synchronous_commit": "off",
            "statement_timeout": f"{round(self.query_timeout_s * 1000)}",
            "idle_in_transaction_session_timeout": "60000",
            # Whatever the role was given: a settle with a snapshot older than the lock it waited for would not see that
            # another incarnation of Redis holds the stream; a time with a zone's abbreviation is read as another time.
            "default_transaction_isolation": "read committed",
            "datestyle": "ISO",
            # What a policy hides from us would wait unseen: an error says so.
            "row_security": "off",
            # A prepared plan made while the table was empty must not read it all, or sort it all, when it is full.
            "enable_seqscan": "off",
            "enable_sort": "off",
            "jit": "off",
            # A vanished host must free its locks in about ten seconds, not in two hours.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "10000",
            "client_connection_check_interval": "10000",  # a server on Windows refuses it
            # Given to the role, these would end a session that sleeps, or a migration that waits its turn.
            "idle_session_timeout": "0",
            "lock_timeout": "0",
        }
        return settings | ({"transaction_timeout": "0"} if server_version >= 170000 else {})
