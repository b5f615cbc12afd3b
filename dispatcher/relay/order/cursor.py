"""Where a claim in order begins: after rows before which nothing can appear any more.

A transaction that commits late has lower ids than rows already published. Its event may be followed by one of the same
aggregate that lies after the cursor; to begin there would take the second and not the first. So the cursor moves only
to rows of which this is known: every transaction that may have written one of a lower id is over, or still runs as the
claim reads the index. Until then claims begin before them, and pass over what is settled.

To know it, the highest id is read, and whoever writes then (the candidate). Once those are over it holds for all rows
up to that id (the proven position): in a backlog one such proof is enough for many claims.

    the index of work ---- position -------------- proven --------------- reached ---->
        all was read, and  |  all is committed:    |  claims have read    |  no claim has read this yet
        nothing can appear |  the next claim sees  |  this, and somebody  |
        any more           |  it, and moves        |  may still commit    |
                           |  `position` on        |  a row               |

In a backlog `proven` may also lie beyond `reached`; `position` passes neither.
"""

from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from dispatcher.core.pacing import FreshLimit, rest_after
from dispatcher.core.row import UNSCHEDULED
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import FROM_THE_START, IndexKey

START_AGAIN_S = 1.0  # what somebody put back by hand may lie anywhere
REST = 20.0
START_AGAIN_AT_MOST_S = 60.0
PROVE_EVERY_S = 0.05  # what was settled meanwhile is passed over: cheaper than a proof before each claim
PROVE_REST = 5.0
COSTLY_S = 0.003  # a claim that took longer is not made from the start each time
LONG_S = 0.2  # a transaction that runs for longer is not waited for: each claim asks whether it is over
MOST_RUNNING = 64


class Position(NamedTuple):
    """Two cursors: of fresh and of scheduled rows."""

    fresh: IndexKey = FROM_THE_START
    scheduled: IndexKey = FROM_THE_START


START = Position()


class Scan(NamedTuple):
    """What one statement read of the index of work, from the position on: fresh rows, then scheduled rows.

    It might read `limit` rows, of which `fresh_limit` fresh, and has read `fresh` and `scheduled`. Of these the claimer
    went through `done_fresh` and `done_scheduled`; `last_fresh` and `last_scheduled` are the last of them (None: none).
    """

    limit: int
    fresh_limit: int
    fresh: int
    scheduled: int
    done_fresh: int
    done_scheduled: int
    last_fresh: IndexKey | None
    last_scheduled: IndexKey | None

    @property
    def more_fresh(self) -> bool:
        """Whether there may be more fresh rows to claim."""
        return self.done_fresh < self.fresh or self.done_fresh >= self.fresh_limit

    @property
    def more_scheduled(self) -> bool:
        """Whether there may be more scheduled rows to claim."""
        return self.done_scheduled < self.scheduled or self.done_scheduled >= self.limit - self.fresh

    @property
    def more(self) -> bool:
        """Whether there may be more rows to claim."""
        return self.more_fresh or self.more_scheduled

    def covers_scheduled(self, key: IndexKey) -> bool:
        """Whether all scheduled rows up to this key were judged: only those before the last fresh row were read."""
        if self.more_fresh:
            return False
        if not self.more_scheduled and self.limit > self.fresh:
            return True
        return self.last_scheduled is not None and index_order(self.last_scheduled) >= index_order(key)


class Candidate(NamedTuple):
    """A position that is proven once all of `writers`, who wrote at `noted_at` (monotonic seconds), are over."""

    position: Position
    noted_at: float
    writers: frozenset[str]


@dataclass(slots=True)
class OrderedCursor:
    """Where claims of one set of slots begin. Used by the task whose turn it is to claim."""

    fresh_limit: FreshLimit = field(default_factory=FreshLimit)
    position: Position = START  # where the next claim begins
    running: list[str] = field(default_factory=list)  # transactions during which `position` is right
    _reached: Position = START  # how far claims have read
    _candidate: Candidate | None = None
    _proven: Position | None = None  # whoever wrote then is over: a claim from now on sees all that lies before it
    _proved_at: float = 0.0
    _proof_s: float = 0.0
    _from_start_at: float = 0.0
    _pass_s: float = 0.0  # how long it took from the start to the end, last time

    def reset(self) -> None:
        """Begin the next claim at the start: rows before the position may be claimable."""
        self.position = self._reached = START
        self.running, self._candidate, self._proven = [], None, None

    def begin(self, now: float) -> None:
        """A claim is about to begin. `now`: monotonic seconds."""
        rest_s = rest_after(self._pass_s, REST, at_most_s=START_AGAIN_AT_MOST_S)
        if self.position != START and now - self._from_start_at > max(START_AGAIN_S, rest_s):
            self.reset()
        if self.position == START and self._reached == START:
            self._from_start_at = now

    async def prove(self, session: Session, pids: list[int]) -> None:
        """Find out whether nothing can appear any more before a position that claims have reached.

        `pids`: of sessions that write no events.
        """
        now = monotonic()
        if self._is_proven or now - self._proved_at < max(PROVE_EVERY_S, PROVE_REST * self._proof_s):
            return
        rows = await session.fetch(load("writers"))
        writing = {name: xid for _, name, xid, pid in rows if name is not None and pid not in pids}
        # Whoever writes later has higher ids than this one, and than any that a claim has seen.
        reached = Position(max(fresh_key(rows[0][0]), self._reached.fresh, key=index_order), self._reached.scheduled)
        self._proved_at = monotonic()
        self._proof_s = self._proved_at - now
        if not writing:
            self._proven, self._candidate = reached, None
            return
        if self._candidate is not None:
            left = [writing[each] for each in self._candidate.writers if each in writing]
            known = [xid for xid in left if xid is not None]
            if left and (
                now - self._candidate.noted_at < LONG_S
                or len(known) < len(left)
                or len(self.running) + len(known) > MOST_RUNNING
            ):
                return
            self._proven, self.running = self._candidate.position, list(dict.fromkeys([*self.running, *known]))
        self._candidate = Candidate(reached, now, frozenset(writing))

    @property
    def _is_proven(self) -> bool:
        """Whether a proof would bring nothing: no claim has read beyond the last one."""
        if self._proven is None:
            return self._reached == self.position
        seen, proven = self._reached, self._proven
        return index_order(seen.fresh) <= index_order(proven.fresh) and seen.scheduled in (
            proven.scheduled,
            self.position.scheduled,
        )

    def note(self, scan: Scan) -> None:
        """Note how far a claim from the position on has read, and move the position as far as that is proven."""
        last_scheduled = None if scan.more_fresh else scan.last_scheduled
        self._reached = Position(
            max(scan.last_fresh or FROM_THE_START, self._reached.fresh, key=index_order),
            max(last_scheduled or FROM_THE_START, self._reached.scheduled, key=index_order),
        )
        if self._proven is not None:
            read = (scan.last_fresh or self.position.fresh) if scan.more_fresh else self._reached.fresh
            self.position = Position(
                max(min(read, self._proven.fresh, key=index_order), self.position.fresh, key=index_order),
                self._proven.scheduled if scan.covers_scheduled(self._proven.scheduled) else self.position.scheduled,
            )

    def ended(self, now: float) -> None:
        """All that is due was claimed or is held. The next claim begins at the start, if that is cheap."""
        self._pass_s = now - self._from_start_at
        if self._pass_s <= COSTLY_S:
            self.reset()


def index_order(key: IndexKey) -> tuple[datetime, int]:
    """What keys are compared by: the order of the index of work."""
    at = key.after_time
    return (datetime.min if isinstance(at, str) else at, key.after_id)


def fresh_key(row_id: int) -> IndexKey:
    """The key of a fresh row."""
    return IndexKey(UNSCHEDULED, row_id)
