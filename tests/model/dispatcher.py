"""A dispatcher of the doorbell's model: stages/doorbell/wake.py, each statement in the steps others can come between.

A statement is a snapshot and, later, an answer; with the answer rings that arrived meanwhile leave the socket for the
session's list of notices. `at` is where the loop stands, by the names of wake.py.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

DispatcherFlaw = Literal[
    "no second due check",
    "drain after the due check",
    "a ring that came with an answer is not read",
    "LISTEN after the second due check",
    "a reconnect is no wake-up",
    "what was known of the old session is believed of the new",
    "asleep on a key that writers hold",
    "no LISTEN after one that was refused",
]
At = Literal[
    "claim", "wait", "poll pause", "tick pause",
    "hear", "doze", "doze: K exclusively", "doze: K shared", "doze: answer",
    "LISTEN", "UNLISTEN", "due check", "due check: answer", "_listen", "wait_readable", "refused", "dead",
]  # fmt: skip
# Where the control session is not used: only the next use of it finds out that it broke.
_WITHOUT_SESSION = ("claim", "wait", "poll pause", "tick pause", "refused", "dead")


class Dispatcher(NamedTuple):
    """One dispatcher and its control session."""

    at: At = "claim"
    # The session as Postgres knows it.
    session: Literal["up", "broken", "down"] = "up"  # broken: gone, and we have not noticed
    owns_key: bool = False
    shares_key: bool = False  # for an instant, inside doze.sql
    listening: bool = False
    socket: bool = False  # a ring lies on our socket
    # What the program knows.
    holds_key: bool = False  # _holds_key
    listens: bool = False  # _listens
    new_session: bool = False  # link.session is not self._session
    notices: bool = False  # a ring lies in the session's list
    due: bool = False  # the last snapshot showed a row
    position: Literal["", "asleep", "writers", "peer"] = ""  # the answer of doze.sql


class Sees(NamedTuple):
    """What a dispatcher can see of the others: a visible unclaimed row, who has K."""

    row: bool
    key_taken: bool  # exclusively
    key_shared: bool


class DispatcherStep(NamedTuple):
    """What is done, the dispatcher after it, and whether it claims every visible row."""

    what: str
    after: Dispatcher
    claims: bool = False


def dispatcher_steps(us: Dispatcher, sees: Sees, flaw: str | None) -> Iterator[DispatcherStep]:
    """What the dispatcher may do next by itself; the tick and a break of its session are not among it."""
    if us.session == "broken" and us.at not in _WITHOUT_SESSION:
        lost = us._replace(at="claim", session="down", notices=False, due=False, position="")
        if flaw != "what was known of the old session is believed of the new":
            lost = lost._replace(holds_key=False, listens=False)
        yield DispatcherStep("finds its session lost, wakes up", lost)
        return
    if us.session == "down":
        yield _reconnect(us, flaw)
    match us.at:
        case "claim":
            yield DispatcherStep("claims", us._replace(at="wait"), claims=True)
        case "wait" if us.new_session:
            yield DispatcherStep("has a new session: wakes up", us._replace(at="claim", new_session=False))
        case "wait" if us.session == "down":
            yield DispatcherStep("has no session: waits for one, or the tick", us._replace(at="tick pause"))
        case "wait":
            yield DispatcherStep("wants to sleep", us._replace(at="hear"))
            if us.holds_key:
                yield DispatcherStep("releases K, as rows come fast", us._replace(owns_key=False, holds_key=False))
            else:
                yield DispatcherStep("polls, as rows come very fast: pauses", us._replace(at="poll pause"))
        case "poll pause":
            yield DispatcherStep("has paused", us._replace(at="claim"))
        case "hear":
            cleared = us if flaw == "drain after the due check" else us._replace(socket=False, notices=False)
            yield DispatcherStep("drains its notices", cleared._replace(at=_first_statement(us, flaw)))
        case "doze":
            yield DispatcherStep("doze: takes the snapshot", us._replace(at="doze: K exclusively", due=sees.row))
        case "doze: K exclusively" if not sees.key_taken and not sees.key_shared:
            got = us._replace(at="doze: answer", position="asleep", owns_key=True)
            yield DispatcherStep("doze: gets K", got)
        case "doze: K exclusively":
            yield DispatcherStep("doze: does not get K", us._replace(at="doze: K shared"))
        case "doze: K shared" if sees.key_taken:
            yield DispatcherStep("doze: K shared neither", us._replace(at="doze: answer", position="peer"))
        case "doze: K shared":
            yield DispatcherStep(
                "doze: gets K shared", us._replace(at="doze: answer", position="writers", shares_key=True)
            )
        case "doze: answer":
            yield DispatcherStep(f"doze: the answer is {us.position}", _after_doze(read_answer(us), flaw))
        case "LISTEN":
            heard = read_answer(us)._replace(listening=True, listens=True)
            if flaw == "no second due check" or flaw == "LISTEN after the second due check":
                yield DispatcherStep("LISTEN", _decide(heard))
            else:
                yield DispatcherStep("LISTEN", heard._replace(at="due check"))
        case "UNLISTEN":
            yield DispatcherStep("UNLISTEN", _decide(read_answer(us)._replace(listening=False, listens=False)))
        case "due check":
            yield DispatcherStep("due check: takes the snapshot", us._replace(at="due check: answer", due=sees.row))
        case "due check: answer":
            checked = read_answer(us)
            late = flaw == "LISTEN after the second due check" and not us.listens
            what = "due check: a row is due" if us.due else "due check: nothing is due"
            yield DispatcherStep(what, checked._replace(at="LISTEN") if late else _decide(checked))
        case "_listen":
            yield from _begin_to_wait(us, flaw)
        case "wait_readable":
            if us.socket:
                yield DispatcherStep("is rung", _awake(us))
            elif us.position == "writers":
                yield DispatcherStep("has paused for the writers", us._replace(at="hear", position=""))
        case "tick pause" | "refused" | "dead":
            return


def _first_statement(us: Dispatcher, flaw: str | None) -> At:
    if not us.holds_key:
        return "doze"
    return "due check" if us.listens or flaw == "no LISTEN after one that was refused" else "LISTEN"


def read_answer(us: Dispatcher) -> Dispatcher:
    """The answer is read from the socket, and rings with it; the statement's own locks go."""
    return us._replace(notices=us.notices or us.socket, socket=False, shares_key=False)


def _after_doze(us: Dispatcher, flaw: str | None) -> Dispatcher:
    if us.position == "asleep":
        us = us._replace(holds_key=True, due=us.due and flaw == "no second due check")  # what doze saw is older than K
        if us.listens or flaw == "LISTEN after the second due check":
            return _decide(us) if flaw == "no second due check" else us._replace(at="due check")
        return us._replace(at="LISTEN")
    if us.position == "writers" and flaw == "asleep on a key that writers hold":
        us = us._replace(position="asleep")
    if us.position == "peer" and us.listens:
        return us._replace(at="UNLISTEN")
    return _decide(us)


def _decide(us: Dispatcher) -> Dispatcher:
    """A row was due: claim. None: wait, not for long if it is for writers."""
    return _awake(us) if us.due else us._replace(at="_listen", position="writers" if us.position == "writers" else "")


def _awake(us: Dispatcher) -> Dispatcher:
    return us._replace(at="claim", socket=False, notices=False, due=False, position="")


def _begin_to_wait(us: Dispatcher, flaw: str | None) -> Iterator[DispatcherStep]:
    if us.socket:
        # With or without need: any statement takes rings off the socket.
        yield DispatcherStep("pings itself", read_answer(us))
    if flaw == "drain after the due check":
        yield DispatcherStep("drains its notices, waits", us._replace(at="wait_readable", socket=False, notices=False))
    elif flaw == "a ring that came with an answer is not read":
        yield DispatcherStep("waits", us._replace(at="wait_readable"))
    elif us.socket or us.notices:
        yield DispatcherStep("finds a ring before it waits", _awake(us))
    else:
        yield DispatcherStep("waits", us._replace(at="wait_readable"))


def _reconnect(us: Dispatcher, flaw: str | None) -> DispatcherStep:
    """The link has a new session, and nudges: a pause without a session ends (service.py, `_listener_changed`)."""
    if flaw == "a reconnect is no wake-up":
        return DispatcherStep("has a new session", us._replace(session="up"))
    if flaw == "what was known of the old session is believed of the new":
        return DispatcherStep("has a new session", us._replace(session="up", at=_nudged(us)))
    return DispatcherStep("has a new session", us._replace(session="up", new_session=True, at=_nudged(us)))


def _nudged(us: Dispatcher) -> At:
    return "claim" if us.at == "tick pause" else us.at
