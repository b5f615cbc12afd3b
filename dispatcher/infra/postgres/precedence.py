"""Which sessions come first where the server, the database or the role has fewer connections than we would open."""

from collections.abc import Callable, Sequence
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

    `told(purpose, reason)` is called once when a session is missing for want of a connection, and with None when it is
    there again.
    """

    def __init__(self, sessions: Sequence["ReconnectingSession"], told: TellMissing) -> None:
        self._sessions = list(sessions)
        self._told = told
        self._short: set[str] = set()  # purposes of sessions that found no connection left
        self.missing: set[str] = set()  # of those and of the ones that wait for them; written here
        self._gave_way_at = float("-inf")
        # By purpose of a session that another one gave way to: the purposes of those that were open after that.
        self._got_one: dict[str, set[str]] = {}
        self._changed = anyio.Event()  # replaced at each change

    @property
    def any_open(self) -> bool:
        """Whether one of them is open: so the server is there."""
        return bool(self._open())

    def ahead(self, one: "ReconnectingSession") -> str | None:
        """The purpose of a more important session that has found no connection; None: this one may try."""
        before = self._sessions[: self._sessions.index(one)]
        return next((other.purpose for other in before if other.purpose in self._short), None)

    async def wait_turn(self, one: "ReconnectingSession") -> None:
        """Wait until no more important session is short of a connection."""
        while (ahead := self.ahead(one)) is not None:
            self._note_missing(one.purpose, f"there is no connection left for it: {ahead} comes first")
            await self._changed.wait()

    def found_none(self, one: "ReconnectingSession", reason: str) -> None:
        """Hear that this session found no connection left: the least important of the open ones gives way."""
        self._short.add(one.purpose)
        self._note_missing(one.purpose, reason)
        if monotonic() - self._gave_way_at < FREED_S:
            return
        if one.purpose in self._got_one and self._open() <= self._got_one[one.purpose]:
            return
        behind = self._sessions[self._sessions.index(one) + 1 :]
        for other in reversed(behind):
            if other.session is not None:
                self._gave_way_at = monotonic()
                other.replace(f"there is no connection left: {one.purpose} comes first")
                self._got_one[one.purpose] = self._open()
                return

    def found_one(self, one: "ReconnectingSession") -> None:
        """Hear that this session is open, or failed for another reason."""
        self._short.discard(one.purpose)
        if one.session is not None:
            self._got_one.pop(one.purpose, None)
        if one.session is not None and one.purpose in self.missing:
            self.missing.discard(one.purpose)
            self._told(one.purpose, None)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _open(self) -> set[str]:
        return {each.purpose for each in self._sessions if each.session is not None}

    def _note_missing(self, purpose: str, reason: str) -> None:
        if purpose not in self.missing:
            self.missing.add(purpose)
            self._told(purpose, reason)
