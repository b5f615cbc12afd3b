"""The dispatcher's own errors. Their message names the thing that failed, and is shown without a traceback.

A person has to correct what Misconfigured names. The others may pass by themselves: `run` catches them and tries again;
a command that runs once ends with the message.
"""


class DispatcherError(Exception):
    """Base of our own errors. `str()` is shown to a person as it stands: never put a payload or a password in it."""

    exit_code = 1


class Misconfigured(DispatcherError):
    """A setting, a right, a table or a server version is not what it must be. Waiting would not help."""

    exit_code = 2


class Unreachable(DispatcherError):
    """A server does not answer. Waiting may help: `run` does, a one-shot command gives up."""

    exit_code = 1


class NoConnectionLeft(Unreachable):
    """The server, the database or the role has as many connections as it may have.

    Not `sure`: a pooler refused, which has one code for that and for a server that is away. `silent`: it is not sure
    either, for the connection was taken, and nothing was answered.
    """

    def __init__(self, words: str, *, sure: bool = True, silent: bool = False) -> None:
        super().__init__(words)
        self.sure = sure and not silent
        self.silent = silent


class IncarnationChanged(Unreachable):
    """The incarnation of Redis changed since the rows to be settled were published or found there."""


class ClaimUndone(DispatcherError):
    """Postgres said that rows are claimed, and a trigger had undone it: to publish them would never end."""


class SettleUndone(DispatcherError):
    """Rows were settled without an error, and are claimed by us as before: a trigger undid it."""


class SessionLost(DispatcherError):
    """A Postgres session broke under a statement. Whether the statement took effect is unknown."""
