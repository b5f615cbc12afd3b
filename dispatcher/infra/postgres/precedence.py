"""Which sessions come first where the server, the database or the role has fewer connections than we would open."""

from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from dispatcher.infra.postgres.reconnecting import ReconnectingSession

FREED_S = 2.0  # a session that gave way has left the server by then

TellMissing = Callable[[str, str | None], None]


class Precedence:
    """Of `sessions`, the most important first. One that finds no connection left gets that of the least important.

    It gets one, until it is open again: when somebody else takes that one, the next would go there too. When a session
    of ours takes it, because the important one failed for another reason meanwhile, it gets one again.

    `direct`: purposes of sessions that have a path of their own to Postgres (DISPATCH_LISTEN_URL). That it is silent
    may be want of a connection there, or an outage of that path; a connection of another path would help with neither.

    `told(purpose, reason)` is called once when a session is missing for want of a connection, and with None when it is
    there again.
    """

    def __init__(
        self, sessions: Sequence["ReconnectingSession"], told: TellMissing, direct: Collection[str] = ()
    ) -> None:
        self._sessions = list(sessions)
        self._told = told
        self._direct = frozenset(direct)
        self._short: dict[str, bool] = {}  # by purpose of a session that found no connection left: by silence alone
        self.missing: set[str] = set()  # of those and of the ones that wait for them; written here
        self._gave_way_at = float("-inf")
        # By purpose of a session that another one gave way to: the purposes of those that were open after that.
        self._got_one: dict[str, set[str]] = {}
        self._changed = anyio.Event()  # replaced at each change

    def server_is_there(self, one: "ReconnectingSession", *, silent: bool) -> bool:
        """Whether a session is open: so the server is there. `silent`: one of the same path as this one."""
        return bool(self._open(one, silent=silent))

    def ahead(self, one: "ReconnectingSession") -> str | None:
        """The purpose of a more important session that has found no connection; None: this one may try."""
        for other in self._sessions[: self._sessions.index(one)]:
            silent = self._short.get(other.purpose)
            if silent is not None and self._may_help(one, other, silent=silent):
                return other.purpose
        return None

    async def wait_turn(self, one: "ReconnectingSession") -> None:
        """Wait until no more important session is short of a connection."""
        while (ahead := self.ahead(one)) is not None:
            self._note_missing(one.purpose, f"there is no connection left for it: {ahead} comes first")
            await self._changed.wait()

    def found_none(self, one: "ReconnectingSession", reason: str, *, silent: bool = False) -> None:
        """Hear that this session found no connection left: the least important of the open ones gives way.

        `silent`: the connection was taken, and nothing was answered. Then only one of the same path gives way.
        """
        self._short[one.purpose] = silent
        if silent:  # those of the other path, which waited for it until now
            self._note_change()
        self._note_missing(one.purpose, reason)
        if monotonic() - self._gave_way_at < FREED_S:
            return
        if one.purpose in self._got_one and self._open(one, silent=silent) <= self._got_one[one.purpose]:
            return
        behind = self._sessions[self._sessions.index(one) + 1 :]
        for other in reversed(behind):
            if other.session is not None and self._may_help(other, one, silent=silent):
                self._gave_way_at = monotonic()
                other.replace(f"there is no connection left: {one.purpose} comes first")
                self._got_one[one.purpose] = self._open(one, silent=silent)
                return

    def found_one(self, one: "ReconnectingSession") -> None:
        """Hear that this session is open, or failed for another reason."""
        self._short.pop(one.purpose, None)
        if one.session is not None:
            self._got_one.pop(one.purpose, None)
        if one.session is not None and one.purpose in self.missing:
            self.missing.discard(one.purpose)
            self._told(one.purpose, None)
        self._note_change()

    def _note_change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _may_help(self, other: "ReconnectingSession", one: "ReconnectingSession", *, silent: bool) -> bool:
        """Whether one may get the connection that the other gives up."""
        return not silent or (other.purpose in self._direct) == (one.purpose in self._direct)

    def _open(self, one: "ReconnectingSession", *, silent: bool) -> set[str]:
        """The purposes of those that are open, and whose connection may help this one."""
        return {
            each.purpose
            for each in self._sessions
            if each.session is not None and self._may_help(each, one, silent=silent)
        }

    def _note_missing(self, purpose: str, reason: str) -> None:
        if purpose not in self.missing:
            self.missing.add(purpose)
            self._told(purpose, reason)
