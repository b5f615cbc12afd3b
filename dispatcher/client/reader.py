"""The consumer's protocol without I/O: a generator of steps that Consumer and AsyncConsumer carry out.

The consumer sends each answer in and throws each error in. What a reader does in each round, GroupReader says
(dispatcher.client.group_reader), or OrderedReader (dispatcher.client.ordered_reader).
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping

from dispatcher.client.entry_taker import OF_REDIS, EntryTaker, OnError
from dispatcher.client.group import Group
from dispatcher.client.patience import MISSPELT, judge, said, wait_out
from dispatcher.client.shard import Shard
from dispatcher.client.steps import ReturnPermit, Steps
from dispatcher.core.counted import counted
from dispatcher.handlers.outages import Outages

log = logging.getLogger("dispatcher.client")


class Reader(EntryTaker):
    """The steps of one consumer, or of one of its readers. Its stop() sets `stopping`; these steps write all else.

    `_shards`: by their keys, those that one command can read: all, or in a Cluster those of one hash slot.
    """

    _shards: Mapping[str, Shard]
    server = "an unknown address"  # where Redis is, for the log; who has its client sets it

    def __init__(
        self,
        group: Group,
        outages: Outages,
        on_error: OnError | None,
        has_store: bool,
        clock: Callable[[], float],
        max_deliveries: Callable[[str], int | None],
    ) -> None:
        super().__init__(group, outages, on_error, has_store, clock, max_deliveries)
        self._start = group.start  # where the group begins if it has to be made
        self._worked = False  # whether Redis has answered as it should

    @abstractmethod
    def _round(self) -> Steps:
        """One round: what to do next. Repeated until the next stop or outage."""

    @abstractmethod
    def _leave(self) -> Steps:
        """Wait for what is in hand, and release the rest."""

    def steps(self) -> Steps:
        """Steps until a stop. Waits while Redis is away; raises errors that need a person (a password, a right)."""
        failures = 0
        group = self._group
        started = False
        while not self.stopping:
            try:
                was_there = yield from self._create_group()
                if not started:
                    log.info("reads %s in the group %s as %s", self._where(), group.group, group.consumer)
                    # In a Cluster a shard of few events may have no key yet: the reader of the first speaks for all.
                    if not was_there and group.keys[0] in self._shards:
                        log.warning("%s was not in Redis, and is made: %s", self._where(), MISSPELT)
                    started = True
                while not self.stopping:
                    yield from self._round()
                    if failures:
                        log.info("Redis answers again: it reads %s on", self._where())
                    failures, self._worked = 0, True
            except OF_REDIS as error:
                yield ReturnPermit()
                self._doubt()
                if judge(error) == "no group":
                    log.warning("the group %s of %s is gone; making it again", group.group, self._where())
                    continue
                yield from wait_out(error, failures, worked=self._worked, server=self.server)
                failures += 1
        try:
            yield from self._leave()
        except OF_REDIS as error:
            log.warning("stopped without signing off (%s); what is pending is claimed later", said(error))

    def _where(self) -> str:
        """The stream, or its one key that is read here, for the log."""
        return self._group.stream if len(self._shards) > 1 else next(iter(self._shards))

    def _doubt(self) -> None:
        """A call failed, and nobody knows whether Redis did what it was told."""

    def _say_trimmed(self, count: int) -> None:
        if count:
            log.error(
                "the group %s lost %s: trimmed or deleted before an acknowledgement; "
                "raise REDIS_STREAM_MAXLEN, then `dispatcher replay`",
                self._group.group,
                counted(count, "entry"),
            )

    def _create_group(self) -> Steps:
        """Whether one of the keys was there."""
        found = False
        for shard in self._shards.values():
            found = (yield from shard.create(self._start)) or found
        self._start = "0"  # made again, it was lost: all that is left in the stream may be new to it
        return found
