"""What befalls a dispatcher of the doorbell's model from outside: the tick, a refused statement, a broken session."""

from tests.model.dispatcher import Dispatcher, read_answer

_STATEMENTS = ("doze: answer", "LISTEN", "UNLISTEN", "due check: answer")


def tick(us: Dispatcher) -> Dispatcher | None:
    """After the tick has passed; None where nobody waits for it."""
    if us.at == "wait_readable":
        return us._replace(at="hear", position="")
    return us._replace(at="claim") if us.at in ("tick pause", "refused") else None


def refused(us: Dispatcher) -> Dispatcher | None:
    """After Postgres refused the statement (timed out, cancelled): the tick once. None where there is no statement."""
    if us.session != "up" or us.at not in _STATEMENTS:
        return None
    return read_answer(us)._replace(at="refused", owns_key=us.owns_key and us.holds_key, due=False, position="")


def broken(us: Dispatcher) -> Dispatcher:
    """Postgres ended the session: K is free, nobody listens. The program finds out when it uses the session."""
    return us._replace(session="broken", owns_key=False, shares_key=False, listening=False, socket=False)
