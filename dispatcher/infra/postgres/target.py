"""A database to connect to: its connection string, with our timeouts and session settings added."""

import math
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A database to connect to and how. `pooled`: behind a transaction pooler, where session settings do not last."""

    conninfo: str = field(repr=False)
    application_name: str
    connect_timeout_s: float = 10.0
    query_timeout_s: float = 30.0
    pooled: bool = False

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

    def patience_s(self) -> float:
        """How long connecting may take in all: each of several hosts may be the one that swallows everything."""
        parts = conninfo_to_dict(self.conninfo)
        more = str(parts.get("host") or parts.get("hostaddr") or "").count(",")
        return self.connect_timeout_s + more * self._host_timeout_s()

    def _host_timeout_s(self) -> int:
        return max(2, math.ceil(self.connect_timeout_s))  # libpq's least

    def full_conninfo(self, purpose: str, *, pooled: bool) -> str:
        """The connection string with our timeouts, keepalives and, unless pooled, session settings added."""
        parts = conninfo_to_dict(self.conninfo)
        extra: dict[str, Any] = {
            "application_name": f"dispatcher {purpose} {self.application_name}"[:63],
            "connect_timeout": self._host_timeout_s(),
            "client_encoding": "utf8",
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }
        if not pooled:  # a transaction pooler refuses unknown start-up parameters
            extra["options"] = " ".join(filter(None, (str(parts.get("options") or ""), self._session_settings())))
        return make_conninfo(self.conninfo, **extra)

    def _session_settings(self) -> str:
        settings = {
            # Losing an unflushed claim or settle in a crash repeats work; it never loses any.
            "synchronous_commit": "off",
            "statement_timeout": f"{round(self.query_timeout_s * 1000)}",
            "idle_in_transaction_session_timeout": "60000",
            # Whatever the role was given: a settle with a snapshot older than the lock it waited for would not see that
            # another incarnation of Redis holds the stream; a time with a zone's abbreviation is read as another time.
            "default_transaction_isolation": r"read\ committed",
            "datestyle": "ISO",
            # A prepared plan made while the table was empty must not read it all, or sort it all, when it is full.
            "enable_seqscan": "off",
            "enable_sort": "off",
            "jit": "off",
            # A vanished host must free its locks in about ten seconds, not in two hours.
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "10000",
            "client_connection_check_interval": "10000",
            "idle_session_timeout": "0",  # after the line before, which tells a server that is too old
        }
        return " ".join(f"-c {name}={value}" for name, value in settings.items())
