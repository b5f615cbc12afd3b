"""Why Postgres could not be connected to, in plain words: what a person has to mend, and what may pass."""

import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable

# What libpq says, in the server's words, when trying again cannot help. There is no SQLSTATE for a refused connection.
_REFUSALS = {
    "password authentication failed": "the user or password is wrong",
    "no password supplied": "a password is needed",
    "authentication failed": "authentication failed",
    "no pg_hba.conf entry": "the server's pg_hba.conf has no entry for this user, database and address",
    "does not exist": "the role or database does not exist",
    # A setting of ours that an older server does not know: it refuses before it can tell its version.
    'parameter "client_connection_check_interval"': "PostgreSQL 14 or later is needed, this server is older",
    "invalid connection option": "the connection string has an option libpq does not know",
    'missing "="': "the connection string is malformed",
    "invalid port": "the port is not a number between 1 and 65535",
    "for connection option": "an option, such as the port, has a value that libpq does not understand",
    "invalid sslmode": "sslmode is none of disable, allow, prefer, require, verify-ca, verify-full",
    "certificate verify failed": "the server's certificate does not match (sslmode, sslrootcert)",
    "server does not support SSL": "sslmode asks for TLS and the server has none",
}


def explain(where: str, error: psycopg.OperationalError) -> DispatcherError:
    """What to raise: Misconfigured when waiting cannot help. Nothing of libpq's text: it may quote a password."""
    text = str(error)
    for phrase, reason in _REFUSALS.items():
        if phrase in text:
            return Misconfigured(f"{where} refused the connection: {reason}. Check DATABASE_URL")
    if "session is read-only" in text or "hot standby mode" in text:  # target_session_attrs found no primary
        return Unreachable(f"{where}: no host of it that answers takes writes: a standby, or about to be one")
    if "Connection refused" in text:
        return Unreachable(f"{where} refused the connection: nothing listens there")
    if "could not translate host name" in text or "resolve host" in text or "Name or service not known" in text:
        return Unreachable(f"{where}: the host name cannot be resolved")
    if "too many" in text or "remaining connection slots" in text:
        return Unreachable(f"{where} has no connection left (max_connections or a role's limit)")
    if "starting up" in text or "shutting down" in text or "recovery" in text:
        return Unreachable(f"{where} is starting up, shutting down or recovering")
    return Unreachable(f"{where} is unreachable ({type(error).__name__})")
