"""How many rows to ask for and from where, how to be woken at which rate, how long to pause."""

from dataclasses import dataclass, field
from math import exp, inf

# Bytes of payloads and headers in UTF-8. In Python's memory a text with one emoji takes four bytes a character.
CLAIM_BYTES = 4 * 1024 * 1024  # that one claim brings, as claim.sql and read_row.sql have it
HANDLER_BYTES = 12 * 1024 * 1024  # of all rows that are claimed for handlers and not settled
HOLD_BACK_AT = 0.9  # of MAXLEN unread by the slowest group: backpressure begins
GO_ON_BELOW = 0.8  # and there it ends


def rest_after(worked_s: float, rest: float, *, at_least_s: float = 0.0, at_most_s: float = inf) -> float:
    """Seconds to rest after so many seconds of work, `rest` for each: what is costly must not take all of a server."""
    return min(max(rest * worked_s, at_least_s), at_most_s)


@dataclass(slots=True)
class BatchSizer:
    """Rows to ask for in one claim: more as long as claims come back full, fewer when they do not.

    Large ones cost less a row; small ones keep a cold start from claiming hundreds of rows of a megabyte, and giving
    them back. Of rows that are known to be large only as many are asked for as fit in the budget of bytes. The budget
    itself is kept by the claim, which knows the sizes; this is only a guess. Written by whoever has the turn to claim.
    """

    batch_size: int  # rows, at most
    budget_bytes: int = CLAIM_BYTES
    first: int = 64  # rows, at a cold start
    # Up to so many rows may fill the budget, more only a quarter of it: a text of more than budget / rows is read by a
    # second statement.
    usual: int = 256
    _rows: int = 0  # asked for while the rows are small
    _mean_bytes: float = 0.0

    def limit(self) -> int:
        """Rows the next claim may take, at least 1."""
        rows = min(max(self._rows, self.first), self.batch_size)
        if not self._mean_bytes:
            return rows
        fit = self.budget_bytes / self._mean_bytes
        return max(1, min(rows, int(max(min(fit, self.usual), fit / 4))))

    def note(self, rows: int, size: int, *, full: bool = False) -> None:
        """Note a claim of `rows` rows and `size` characters of payload; `full`: more may follow.

        The mean size rises at once, and falls slowly.
        """
        asked = max(self._rows, self.first)
        if not full:
            self._rows = min(asked, 2 * rows)
        elif 2 * rows > asked:  # not one that was small for another reason
            self._rows = min(2 * asked, self.batch_size)
        if rows:
            mean = size / rows
            self._mean_bytes = mean if mean > self._mean_bytes else self._mean_bytes * 0.9 + mean * 0.1


@dataclass(slots=True)
class PollBackoff:
    """Pauses between due checks while some writer holds the doorbell's key: short at first, doubling up to the tick.

    A writer in the middle of its commit will not ring for what it wrote, so the due check is repeated. Written by
    whoever waits at the doorbell: one task at a time. Seconds.
    """

    tick_s: float
    first_s: float = 0.002
    _next_s: float = 0.0

    def pause_s(self) -> float:
        """The next pause; each is twice the one before."""
        pause = min(self._next_s or self.first_s, self.tick_s)
        self._next_s = min(pause * 2, self.tick_s)
        return pause

    def reset(self) -> None:
        """Rows were found, or the key was got: the next pause is short again."""
        self._next_s = 0.0


# Between two claims while nobody rings, in seconds: an event waits for half of the first on average.
POLL_S, LONGEST_POLL_S = 0.0015, 0.008
SLOW_COMMITS_POLL_S = 0.005  # while commits that ring would wait for one another


@dataclass(slots=True)
class ArrivalRate:
    """How fast rows come, and from that how to be woken: interrupts when idle, polling when busy.

    A commit that rings holds a lock of the whole server until it is flushed, and is on a standby where commits wait for
    one. So commits that ring run one at a time: where a flush takes 20 ms they are 50 a second, however many writers
    there are. A few a second may ring. Hundreds must not, nor may they when they wait for one another
    (`note_rings_wait`). And to be rung and to sleep again costs five statements an event, where a claim every POLL_S
    costs less than two, however many rows it finds. Written by whoever waits at the doorbell, and by the handler relay,
    on one event loop. Monotonic seconds.
    """

    window_s: float = 0.1
    poll_above: float = 150.0  # rows a second: take the key no more, claim every POLL_S
    ring_again_below: float = 100.0  # lower than poll_above, so that a rate between the two does not flap
    commits_may_queue_above: float = 15.0  # rows a second: slower than this no commits wait for one another for long
    no_ring_for_s: float = 2.0  # nobody has to ring for so long once commits were seen to wait
    polling: bool = False
    _rate: float = 0.0
    _at: float = -inf
    _row_at: float = -inf
    _no_ring_until: float = -inf

    def note(self, rows: int, now: float) -> None:
        """Note that a claim took so many rows."""
        self._rate = self.rate(now) + rows / self.window_s
        self._at = now
        if rows:
            self._row_at = now
        if now < self._no_ring_until:
            return
        if self._rate < self.ring_again_below or now - self._row_at > self.quiet_s():
            self.polling = False
        elif self._rate > self.poll_above:
            self.polling = True

    def commits_may_queue(self, now: float) -> bool:
        """Whether commits that ring may be waiting for one another: they come one by one, but not seldom."""
        return not self.polling and self.rate(now) > self.commits_may_queue_above

    def note_rings_wait(self, now: float) -> None:
        """Note that commits that ring wait for one another: rows come only as fast as such commits end."""
        self.polling, self._no_ring_until = True, now + self.no_ring_for_s

    def rate(self, now: float) -> float:
        """Rows a second, averaged over the last window with older ones fading."""
        return self._rate * exp((self._at - now) / self.window_s) if self._rate else 0.0

    def quiet_s(self) -> float:
        """Polling ends after so long without a row: six should have come by then. It ends soon after a bulk insert."""
        return min(max(6.0 / self._rate, 0.005), 0.025) if self._rate else 0.025

    def poll_s(self, now: float, claimed_s: float = 0.0) -> float:
        """How long to pause between claims while polling; `claimed_s`: how long the last one took.

        POLL_S at any usual rate: from 500 rows a second on most claims find some. Above 9,500 rows a second, where
        writers fill the machine, it grows to LONGEST_POLL_S. It is as long as the claim before it, up to that: a claim
        that passes rows of others takes long. While commits that ring would wait, it is SLOW_COMMITS_POLL_S.
        """
        if self._rate < self.ring_again_below and now < self._no_ring_until:
            return SLOW_COMMITS_POLL_S
        return min(max(POLL_S, (self.rate(now) - 8000.0) * 1e-6, claimed_s), LONGEST_POLL_S)


@dataclass(slots=True)
class FreshLimit:
    """How many rows of a claim may be fresh: fresh rows come first, and must not starve scheduled rows that fell due.

    While claims take fresh rows only, every ninth claim keeps a part for scheduled rows; every claim does, while
    scheduled rows fill that part. Rows that one kind does not use go to the other kind. Written by one claimer only.
    """

    scheduled: float = 0.25  # part of the rows, while both kinds wait
    keep_every: int = 8  # after so many claims without room for scheduled rows one claim keeps it
    _without_room: int = 0  # claims in a row that had no room for scheduled rows
    _scheduled_wait: bool = False
    _reserved: float = 0.0  # rows, for scheduled ones; less than one where claims are of one row, as for handlers

    def limit(self, rows: int) -> int:
        """How many fresh rows a claim of so many rows may take."""
        if self._scheduled_wait:
            self._reserved += rows * self.scheduled
        elif self._without_room >= self.keep_every:
            self._reserved = max(1.0, rows * self.scheduled)
        kept = min(int(self._reserved), rows)
        self._reserved -= kept
        return rows - kept

    def note(self, rows: int, fresh_limit: int, fresh: int, scheduled: int) -> None:
        """Hear what a claim of `rows` rows took: `fresh` rows, of at most `fresh_limit`, and `scheduled` rows."""
        room = rows - fresh
        if room:
            self._without_room, self._scheduled_wait = 0, scheduled >= room
            if fresh < fresh_limit or not self._scheduled_wait:
                self._reserved = 0.0
        elif not self._scheduled_wait:
            self._without_room += 1


@dataclass(slots=True)
class PrefetchLimit:
    """How many rows to claim for handlers: as many as have a place, and as many as end in a tenth of a second.

    More would keep them from other dispatchers; fewer would let a place wait for a claim. Written by the tasks of
    the handler relay, on one event loop.
    """

    parallel: int
    most: int  # of one claim
    ahead_s: float = 0.1
    _mean_s: float = inf

    def limit(self, in_flight: int, stuck: int = 0) -> int:
        """Rows the next claim may take; 0: none now. `stuck`: handlers that go on after their timeout."""
        if stuck >= self.parallel:
            return 0
        ahead = int(min(self.most, self.parallel * self.ahead_s / max(self._mean_s, 1e-6)))
        room = self.parallel + ahead - in_flight
        if room <= 0 or (in_flight >= self.parallel and room < ahead / 2):
            return 0
        return min(room, self.most)

    def note(self, seconds: float) -> None:
        """Note how long a handler took. Rises at once, falls slowly: a guess too high only costs a claim."""
        mean = self._mean_s
        self._mean_s = seconds if seconds > mean or mean == inf else mean * 0.95 + seconds * 0.05


@dataclass(slots=True)
class FilteredScan:
    """Limits how often a filtered claim scans the index from its start.

    To pass 100,000 rows that wait for handlers takes 30 ms. So after a scan that took more than `costly_s`, claims read
    only what fell due or was inserted since then, until `rest` times the scan's time has passed. What was inserted
    is told by its id: before a scan, if the one before was costly, the highest id is noted. Monotonic seconds.
    """

    costly_s: float = 0.003
    rest: float = 20.0
    slack_s: float = 1.0  # a row may be committed so long after the time it is due at, and still be seen at once
    rest_s: float = 0.0  # how long to begin no scan from the start
    _scanned_at: float = -inf
    _again_at: float = -inf
    _highest: list[tuple[float, int]] = field(default_factory=list)  # when, and the highest id then; ascending

    @property
    def wants_highest_id(self) -> bool:
        """Whether the highest id is to be noted before the scan that is about to begin: a later one may begin there."""
        return self.rest_s > 0.0

    def note_highest(self, now: float, row_id: int) -> None:
        """Note the highest id there is."""
        self._highest.append((now, row_id))
        # What is between the first and the last that is old enough no scan will ask for: a backlog may last for days.
        while len(self._highest) > 2 and self._highest[2][0] <= now - self.slack_s:
            del self._highest[1]

    def since(self, now: float) -> tuple[int, float] | None:
        """Claim only ids above this one, and what fell due in the last so many seconds; None: scan everything."""
        if now >= self._again_at:
            return None
        while len(self._highest) > 1 and self._highest[1][0] <= self._scanned_at - self.slack_s:
            del self._highest[0]
        if not self._highest or self._highest[0][0] > self._scanned_at:
            return None
        return self._highest[0][1], now - self._scanned_at + self.slack_s

    def note_scan(self, began: float, took_s: float, *, to_the_end: bool) -> None:
        """Note a scan from the start. `to_the_end`: it read everything, and did not stop at a full batch."""
        self.rest_s = rest_after(took_s, self.rest) if took_s > self.costly_s else 0.0
        if to_the_end:
            self._scanned_at, self._again_at = began, began + self.rest_s

    def reset(self) -> None:
        """Scan everything next: a row that fell due long ago was put back."""
        self.rest_s, self._again_at = 0.0, -inf
