"""Keeps what is held as the table has it: loads it with the slots, and checks whether somebody else has changed it."""

from collections.abc import Collection
from contextlib import suppress
from time import monotonic

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.held import Held, HoldReason
from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import OwnedSlots, mask_of
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import EventTypeFilter

EVERY_S = 1.0
AT_ONCE = 5_000  # rows that one statement asks for
CHECKED = frozenset(HoldReason) - {HoldReason.OUR_CLAIM}
MOST_DEAD = 10_000  # dead events that are read, of those that no entry has named yet


class HeldWatch:
    """Used by the task whose turn it is to claim; `check_soon()` by anyone. `event_types`: that the relay claims."""

    def __init__(self, event_types: EventTypeFilter | None = None) -> None:
        types = None if event_types is None else list(event_types.types)
        self._event_types: dict[str, object] = {
            "types": types,
            "handled": event_types is not None and event_types.only_these,
        }
        self._soon = False
        self._check_at = 0.0  # when to check next

    def check_soon(self) -> None:
        """A person may have retried or skipped something."""
        self._soon = True

    async def check(self, session: Session, slots: OwnedSlots, held: Held, claims: Collection[str]) -> bool:
        """Load what is held in slots that we gained, check what is held, write down which dead events were named.

        Returns whether rows may be claimed that lie before the claims' cursors.

        Raises SessionLost or psycopg.Error.
        """
        if gained := slots.gained:
            await self._load(session, gained, held, claims)
            slots.loaded(gained)
        if held.announced:
            await self._write_announced(session, held)
        if not len(held) or (not self._soon and monotonic() < self._check_at):
            return bool(gained)  # another one may have owned them since our cursors passed their rows
        return await self._check_rows(session, held, claims) or bool(gained)

    async def write_announced(self, postgres: ReconnectingSession, held: Held) -> None:
        """Write down which dead events the entries after them named. A failure is tried again with the next check."""
        if (session := postgres.session) is not None:
            with suppress(SessionLost, psycopg.Error):
                await self._write_announced(session, held)

    async def _write_announced(self, session: Session, held: Held) -> None:
        done = list(held.announced)
        await session.fetch(load("mark_announced"), {"ids": done})
        held.announced = [each for each in held.announced if each not in done]

    async def _load(self, session: Session, gained: Collection[int], held: Held, claims: Collection[str]) -> None:
        held.forget(gained)
        mask = "\\x" + mask_of(gained).to_bytes(SLOTS // 8, "little").hex()
        parameters = {"mask": mask, "claims": list(claims), "hold": held.hold, "most": MOST_DEAD, **self._event_types}
        for row_id, key, kind, event_id in await session.fetch(load("held_load"), parameters):
            if kind == "after":  # a dead event that no entry has named yet: see held_load.sql
                held.note_died(row_id, key, event_id)
            elif held.reason(row_id) is None:
                held.add(row_id, key, HoldReason(kind))

    async def _check_rows(self, session: Session, held: Held, claims: Collection[str]) -> bool:
        again, self._soon = False, False
        rows = sorted(held.rows(*CHECKED))
        for first in range(0, len(rows), AT_ONCE):
            asked = rows[first : first + AT_ONCE]
            found = await session.fetch(load("held_check"), {"ids": asked, "claims": list(claims), **self._event_types})
            again |= held.note_checked([(row_id, kind, event_id) for row_id, kind, event_id in found], asked)
        self._check_at = monotonic() + EVERY_S
        return again
