"""Reads a stream without a group, and without I/O: the steps that Tail and AsyncTail carry out."""

import logging
from collections import deque
from collections.abc import Callable, Mapping

import redis

from dispatcher.client.entry_taker import OF_REDIS
from dispatcher.client.patience import MISSPELT, said, wait_out
from dispatcher.client.received import Malformed, receive
from dispatcher.client.steps import Call, Deliver, Steps, pages_of, sizes_of, text
from dispatcher.core.outages import reply_of, tells_nothing
from dispatcher.core.page_size import PageSize

log = logging.getLogger("dispatcher.client")
NEWEST, OLDEST = "$", "0-0"
REMEMBERED = 100  # ids of each key, where to go on if Redis loses the newest entries
LOOK_S = 5.0  # between two looks for such a loss, or 20 waits if that is less
OnMissed = Callable[[str], object]


class TailReader:
    """The steps over some keys. A stop sets `stopping`; these steps write all else."""

    server = "an unknown address"  # where Redis is, for the log; who has its client sets it
    says_empty = True  # in a Cluster the reader of the first key only: a shard of few events may be empty

    def __init__(
        self,
        after: Mapping[str, str],
        size: PageSize,
        block_ms: int,
        on_missed: OnMissed | None,
        clock: Callable[[], float],
    ) -> None:
        self.stopping = False
        # Of each key: the id of the last entry that was delivered and dealt with, and of the last one that was read.
        self.after = {key: OLDEST if position == "0" else position for key, position in after.items()}
        self._read = dict(self.after)
        self._size = size
        self._block_ms = block_ms
        self._on_missed = on_missed
        self._clock = clock
        self._replied_at = clock()
        self._unsure: set[str] = set()  # keys of which entries may have been trimmed since the last read
        self._ends = {key: deque[str](maxlen=REMEMBERED) for key in after}  # with what each of the last reads ended
        self._look_at = 0.0

    def steps(self) -> Steps:
        """Steps until a stop. Waits while Redis is away; raises errors that need a person, and says so: who reads in a
        task that nobody awaits would not see them.
        """
        try:
            yield from self._until_stop()
        except Exception as error:
            log.error("the tail of %s has ended: %s", next(iter(self.after)), said(error))
            raise

    def _until_stop(self) -> Steps:
        failures, worked = 0, False
        while not self.stopping:
            try:
                yield from self._begin(first=not worked)
                self._unsure.update(self._read)  # after a pause of unknown length
                while not self.stopping:
                    yield from self._round()
                    failures, worked = 0, True
            except OF_REDIS as error:
                self._look_at = 0.0  # it may be another server, or the same one with older data
                yield from wait_out(error, failures, worked=worked, server=self.server)
                failures += 1

    def _begin(self, *, first: bool) -> Steps:
        """Make an id of "$": asked again and again, it would pass over what comes between two reads.

        The first time look whether there is anything: a misspelt name would be read for ever in silence.
        """
        empty = first and self.says_empty
        for key, after in self._read.items():
            if after == NEWEST or empty:
                newest = yield Call("xrevrange", (key,), {"count": 1})
                empty = empty and not newest
                if after == NEWEST:
                    self._read[key] = self.after[key] = text(newest[0][0]) if newest else OLDEST
        if empty:
            log.warning("%s has no entry: %s", next(iter(self._read)), MISSPELT)

    def _round(self) -> Steps:
        """Read once and deliver."""
        count = max(1, self._size.count // len(self._read))  # of each key
        reply = yield Call("xread", (dict(self._read),), {"count": count, "block": self._block_ms})
        now = self._clock()
        # Longer than a read may wait: the process was stopped, or whoever reads took long. What came in that time is in
        # this reply or in the next, for Redis answers a read that waits with the first entry, at once.
        stood_still = now - self._replied_at > self._block_ms / 1000 + 1
        self._replied_at = now
        if stood_still:
            self._unsure.update(self._read)
        pages = pages_of(reply)
        self._size.note([size for _, entries in pages for size in sizes_of(entries)])
        for key, entries in pages:
            if key in self._unsure:
                yield from self._look_for_a_gap(key)
            if len(entries) >= count:  # there is more, and it may be trimmed before the next read
                self._unsure.add(key)
            elif not stood_still:
                self._unsure.discard(key)
            self._read[key] = text(entries[-1][0])
            self._ends[key].append(self._read[key])
            for entry_id, fields in entries:
                if self.stopping:
                    return
                yield from self._deliver(key, text(entry_id), fields)
        if now >= self._look_at:
            for key in self._read.keys() - {key for key, _ in pages}:
                yield from self._look_for_a_loss(key)
            self._look_at = now + min(LOOK_S, self._block_ms / 50)

    def _look_for_a_gap(self, key: str) -> Steps:
        """A stream loses its oldest entries first: while the last one that was read, or one before it, is there, none
        after it is gone. So `after` may be a moment too, as "<ms since 1970>-0".
        """
        last = self._read[key]
        if last == OLDEST or (yield Call("xrange", (key, "-", last), {"count": 1})):
            return
        log.warning("entries of %s after %s may have been trimmed before they were read", key, last)
        if self._on_missed is not None:
            self._on_missed(key)

    def _look_for_a_loss(self, key: str) -> Steps:
        """Ids rise, unless Redis loses its data while its clock goes back: then what is new lies below what was read,
        and would be passed over. Go on behind the newest that was read and is still there.
        """
        ends = self._ends[key]
        if not ends or ends[-1] != self._read[key] or not (yield from self._has_ended_before(key, ends[-1])):
            return
        lost = ends[-1]
        while ends and not (yield Call("xrange", (key, ends[-1], ends[-1]), {"count": 1})):
            ends.pop()
        self._read[key] = ends[-1] if ends else OLDEST
        log.warning("Redis lost entries of %s up to %s: it is read on after %s", key, lost, self._read[key])
        if self._on_missed is not None:
            self._on_missed(key)

    def _has_ended_before(self, key: str, entry_id: str) -> Steps:
        """Whether the stream has given no id as high as this one: it is not the one in which that was read."""
        try:
            newest = yield Call("xrevrange", (key,), {"count": 1})
            if newest and _number(text(newest[0][0])) >= _number(entry_id):
                return False
            found = yield Call("xinfo_stream", (key,))
        except redis.ResponseError as error:
            reply = reply_of(error) or ""
            if tells_nothing(reply):  # nobody can tell
                return False
            if "no such key" in reply:
                return True
            raise
        known = {text(name): value for name, value in found.items()}["last-generated-id"]
        return _number(text(known)) < _number(entry_id)  # else its newest entries were deleted

    def _deliver(self, key: str, entry_id: str, fields: dict[object, object]) -> Steps:
        try:
            event = receive(entry_id, fields, 1, key)
        except Malformed as error:
            log.error("entry %s of %s passed over: %s", entry_id, key, error)
        else:
            yield Deliver(event)
        self.after[key] = entry_id


def _number(entry_id: str) -> tuple[int, int]:
    """An entry id as (milliseconds, sequence): its text does not sort so, since `9-0` is before `10-0`."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
