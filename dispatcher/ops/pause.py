"""Pauses or resumes all dispatchers, and waits until each running one has acknowledged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Any

import anyio

from dispatcher.core.errors import DispatcherError
from dispatcher.core.findings.condition import Condition
from dispatcher.core.known_groups import KnownGroup
from dispatcher.core.process_state import EndedDispatcher, SentBy
from dispatcher.core.timestamps import iso
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession, ask, operator

POLL_S = 0.05
LATELY_S = 15.0  # a note so young speaks for a living dispatcher; each writes one every 6 s
DOUBT_S = 8.0  # so long an older one is watched: its age is of a clock, which may have been set since


@dataclass(frozen=True, slots=True)
class PauseSwitch:
    """The row of messaging.pause. Generation 0: nobody has ever paused."""

    generation: int = 0
    paused: bool = False
    changed_at: datetime | None = None
    changed_by: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        """since <time> by <person> (<reason>)."""
        why = f" ({self.reason})" if self.reason else ""
        return f"since {iso(self.changed_at, 'seconds') if self.changed_at else '?'} by {self.changed_by}{why}"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The newest answer of a running dispatcher to the switch. None: it has never answered, like an older release."""

    name: str
    version: str | None
    registered: bool  # has a row in messaging.dispatcher; one without a listener has none
    generation: int | None
    in_flight: int | None  # batches
    heard_s: float | None  # seconds since the answer, by Postgres's clock
    alive: bool  # holds its lock
    said_at: str | None  # when it answered, as Postgres wrote it
    condition: Condition = field(default_factory=Condition)  # what it says of itself

    @property
    def lately(self) -> bool:
        """Whether it answered lately, if Postgres's clock is right."""
        return self.heard_s is not None and abs(self.heard_s) <= LATELY_S

    def obeys(self, switch: PauseSwitch) -> bool:
        """Whether it knows the switch's newest state and, if that is a pause, has nothing in flight."""
        return self.generation == switch.generation and not (switch.paused and self.in_flight)


class NoteWatch:
    """Who lives of those that hold no lock: who wrote lately, or writes while we watch. By our monotonic clock."""

    def __init__(self) -> None:
        # When it wrote, since when we know, while we watched.
        self._notes: dict[str, tuple[str | None, float, bool]] = {}
        self._looked = False

    def sort(self, found: Sequence[Acknowledgement], now: float) -> tuple[list[Acknowledgement], list[Acknowledgement]]:
        """Those that live, and those of which it is not known yet. The dead are in neither."""
        living, doubtful = [], []
        for each in found:
            said_at, since, watched = self._notes.get(each.name, (each.said_at, now, self._looked))
            if said_at != each.said_at:
                said_at, since, watched = each.said_at, now, True
            self._notes[each.name] = said_at, since, watched
            if each.alive or (now - since < LATELY_S and (watched or each.lately)):
                living.append(each)
            elif now - since < DOUBT_S:
                doubtful.append(each)
        self._looked = True
        return living, doubtful


class PauseSession(OperatorSession):
    """`async with PauseSession(target) as pausing:` to switch, and to wait for the acknowledgements."""

    async def switch(self, *, paused: bool, reason: str | None) -> tuple[PauseSwitch, bool]:
        """Pause or resume. Returns the state after it, and whether that is a change."""
        with self.explained():
            return await switch(self.session.fetch, paused=paused, by=operator(), reason=reason)

    async def end_pause(self, reason: str) -> None:
        """Resume, if what is in force is a pause of this person for this reason. Raises DispatcherError."""
        with self.explained():
            now = await read_switch(self.session.fetch)
        if now.paused and (now.changed_by, now.reason) == (operator(), reason):
            await self.switch(paused=False, reason=None)

    async def wait(
        self, switch: PauseSwitch, timeout_s: float, progress: Callable[[Sequence[Acknowledgement]], None]
    ) -> Sequence[Acknowledgement]:
        """Wait until all have acknowledged, at most `timeout_s` seconds; returns the newest acknowledgements.

        Those of which it is not known yet whether they live are among them, if they do not obey. `progress` gets the
        others at each poll. Raises DispatcherError when somebody else switched meanwhile.
        """
        deadline = monotonic() + timeout_s
        notes = NoteWatch()
        while True:
            with self.explained():
                acknowledgements, doubtful = notes.sort(await _read_all(self.session.fetch), monotonic())
                progress(acknowledgements)
                open_doubts = [each for each in doubtful if not each.obeys(switch)]
                done = not open_doubts and all(each.obeys(switch) for each in acknowledgements)
                if done or monotonic() >= deadline:
                    return [*acknowledgements, *open_doubts]
                now = await read_switch(self.session.fetch)
            if now.generation != switch.generation:
                raise _overtaken(now)
            await anyio.sleep(POLL_S)


async def switch(fetch: Fetch, *, paused: bool, by: str, reason: str | None) -> tuple[PauseSwitch, bool]:
    """Pause or resume. Returns the state after it, and whether that is a change. Raises as `fetch` does."""
    changed = bool(await fetch(load("pause_set"), {"paused": paused, "changed_by": by, "reason": reason}))
    now = await read_switch(fetch)
    if now.paused != paused:
        raise _overtaken(now)
    return now, changed


async def read_switch(fetch: Fetch) -> PauseSwitch:
    """The state of the switch. Raises as `fetch` does."""
    [row] = await fetch(load("pause_state"), None)
    return PauseSwitch(*row[:5])


async def read_layout(fetch: Fetch) -> str:
    """The fingerprint of the layout that stands; "": one stream. Raises as `fetch` does."""
    [row] = await fetch(load("pause_state"), None)
    return str(row[5])


async def read_acknowledgements(fetch: Fetch) -> list[Acknowledgement]:
    """One for each running, enabled dispatcher, as Postgres's clock has it. Raises as `fetch` does."""
    return (await read_notes(fetch))[0]


async def read_conditions(where: PostgresTarget) -> list[Condition]:
    """What each enabled dispatcher that runs says of itself, if it does. Raises DispatcherError."""
    found = await ask(where, "ask what the dispatchers say", lambda session: read_acknowledgements(session.fetch))
    return [each.condition for each in found if each.condition != Condition()]


async def read_notes(fetch: Fetch) -> tuple[list[Acknowledgement], list[Acknowledgement]]:
    """The same, and all that is written, also of the dead. Raises as `fetch` does."""
    found = await _read_all(fetch)
    return [each for each in found if each.alive or each.lately], found


async def read_known_groups(fetch: Fetch) -> list[KnownGroup]:
    """What all that wrote a note saw of consumer groups, also those that live no more. Raises as `fetch` does."""
    return [each for note in await _read_all(fetch) for each in note.condition.groups]


async def read_ended_and_sent(fetch: Fetch) -> tuple[list[EndedDispatcher], list[SentBy]]:
    """Which dispatchers ended, as all say that wrote a note; and what each sent that wrote one lately. Raises as
    `fetch` does.
    """
    notes = await _read_all(fetch)
    sent = [
        SentBy(each.name, *each.condition.sent, max(0.0, each.heard_s))
        for each in notes
        if each.condition.sent is not None and each.heard_s is not None and each.lately
    ]
    return [one for each in notes for one in each.condition.ended], sent


async def _read_all(fetch: Fetch) -> list[Acknowledgement]:
    return [_acknowledgement(row) for row in await fetch(load("pause_progress"), None)]


def _acknowledgement(row: tuple[Any, ...]) -> Acknowledgement:
    found = Acknowledgement(*row[:-1])
    at = datetime.fromisoformat(found.said_at).timestamp() if found.said_at else 0.0
    return replace(found, condition=Condition.read(row[-1], at))


def _overtaken(now: PauseSwitch) -> DispatcherError:
    did = "paused" if now.paused else "resumed"
    return DispatcherError(f"{now.changed_by or 'somebody'} {did} all dispatchers meanwhile, and that is in force now")
