"""Why Postgres could not be connected to, in plain words: what a person has to mend, and what may pass.

How far the connection came decides, and the SQLSTATE of a refusal. No word of a server does: it speaks its admin's
language. Its words are shown.
"""

from collections.abc import Sequence

from dispatcher.core.errors import DispatcherError, Misconfigured, NoConnectionLeft, Unreachable
from dispatcher.infra.postgres.dial import DialFailed

MOST_WORDS = 400
_TOO_MANY = "53300"
_OF_A_POOLER = ("08P01", "XX000")  # whatever PgBouncer, or Supavisor, refuses
_REMEDIES = {
    "28P01": "The user or password is wrong, or the password has expired (VALID UNTIL)",
    "28000": "The role does not exist, may not log in (NOLOGIN), or pg_hba.conf does not let it in from here",
    "3D000": "Create that database (createdb), or mend its name in DATABASE_URL",
    "42501": "As its owner: GRANT CONNECT ON DATABASE ... TO this role",
    "55000": "As a superuser: ALTER DATABASE ... ALLOW_CONNECTIONS true",
}
# Classes of SQLSTATE that a person has to do something about; with the others waiting helps, or nobody knows.
_FOR_A_PERSON = ("28", "3D", "42", "55", "0A", "22")
_CHECK = "Check DATABASE_URL"


def explain(where: str, failed: DialFailed, secrets: Sequence[str]) -> DispatcherError:
    """What to raise: Misconfigured when waiting cannot help. None of `secrets` is in it."""
    words = failed.words
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        words = words.replace(secret, "***")
    words = words[:MOST_WORDS]
    match failed.stage:
        case "settings":
            return Misconfigured(f"DATABASE_URL has a value that cannot be: {words}")
        case "name":
            return Unreachable(f"{where}: {words}")
        case "network":
            return Unreachable(f"{where} cannot be reached, nothing listens there: {words}")
        case "silent":
            return Unreachable(f"{where}: {words}")
        case "tls":
            return Misconfigured(f"{where}: TLS could not be agreed on: {words}. {_CHECK} (sslmode, sslrootcert)")
        case "role":
            return Unreachable(
                f"{where}: no host of it that answers is what target_session_attrs asks for (read-write: no standby): "
                f"{words}"
            )
        case "answered":
            return _refusal(where, failed, words)


def _refusal(where: str, failed: DialFailed, words: str) -> DispatcherError:
    code = failed.sqlstate
    if code is None and not failed.traced and not failed.needs_password:  # it may be a server that starts up
        return Unreachable(f"{where} takes no connection now: {words}")
    if code is None:  # libpq itself would not go on
        missing = ": a password is needed" if failed.needs_password else ""
        return Misconfigured(f"{where} could not be agreed with{missing}: {words}. {_CHECK}")
    said = f"{words} (SQLSTATE {code})"
    if code == _TOO_MANY:
        return NoConnectionLeft(f"{where} has no connection left (max_connections or the limit of a role): {said}")
    if code.startswith(_FOR_A_PERSON):
        return Misconfigured(f"{where} refused the connection: {said}. {_REMEDIES.get(code, _CHECK)}")
    if code in _OF_A_POOLER:
        return NoConnectionLeft(f"{where} takes no connection now: {said}", sure=False)
    return Unreachable(f"{where} takes no connection now: {said}")
