"""Errors that a person has to mend: one message that names the thing and the remedy, no traceback."""


class DispatcherError(Exception):
    """Base of our own errors. `str()` is shown to a person as it stands: never put a payload or a password in it."""

    exit_code = 1


class Misconfigured(DispatcherError):
    """A setting, a right, a table or a server version is not what it must be. Waiting would not help."""

    exit_code = 2


class Unreachable(DispatcherError):
    """A server does not answer. Waiting may help: `run` does, a one-shot command gives up."""

    exit_code = 1


class StreamMoved(Unreachable):
    """The incarnation of Redis changed since the rows to be settled were published or found there."""


class SessionLost(DispatcherError):
    """A Postgres session broke under a statement. Whether the statement took effect is unknown."""
