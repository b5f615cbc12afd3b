"""The steps of a tail, without a Redis: what it asks after it stood still."""

from typing import Any

import pytest
import redis

from dispatcher.client.steps import Call, Deliver, advance
from dispatcher.client.tailing import TailReader
from dispatcher.core.page_size import PageSize

KEY, OTHER = "stream:{0}", "stream:{1}"
FIELDS = {
    "event_id": "0f5c1a52-7b7e-4c43-9f0e-1b7a3c9d2e10",
    "message_id": "0f5c1a52-7b7e-4c43-9f0e-1b7a3c9d2e10",
    "event_type": "order.placed",
    "aggregate_type": "order",
    "aggregate_id": "7",
    "occurred_at": "2026-01-01T00:00:00+00:00",
    "payload": "{}",
}


class Reading:
    """A tail over two keys, its clock, and what it asks."""

    def __init__(self) -> None:
        self.now, self.missed = 0.0, list[str]()
        after = {KEY: "1-0", OTHER: "1-0"}
        self.steps = TailReader(after, PageSize(100), 50, self.missed.append, lambda: self.now).steps()
        self.step = advance(self.steps, None, None)
        assert self.asked() == ("xrevrange", KEY)  # whether there is anything
        self.answer([("1-0", FIELDS)])

    def answer(self, given: Any, *, after_s: float = 0.0) -> None:
        self.now += after_s
        self.step = advance(self.steps, given, None)

    def asked(self) -> tuple[str, ...]:
        """Which command, and for a look at a gap behind which entry of which key."""
        if isinstance(self.step, Deliver):
            return "deliver", self.step.event.entry_id
        assert isinstance(self.step, Call)
        if self.step.method in ("xrevrange", "xinfo_stream"):
            return (self.step.method, self.step.arguments[0])
        return ("xread",) if self.step.method == "xread" else ("gap", self.step.arguments[0], self.step.arguments[2])

    def reads(self, *ids: str, key: str = KEY, look_behind: str | None = None, kept: bool = True, **more: Any) -> None:
        """It reads these, and looks for a gap behind that entry, or not."""
        assert self.asked() == ("xread",)
        self.answer([[key, [(entry_id, FIELDS) for entry_id in ids]]], **more)
        if look_behind is not None:
            assert self.asked() == ("gap", key, look_behind)
            self.answer([(look_behind, FIELDS)] if kept else [])
        for entry_id in ids:
            assert self.asked() == ("deliver", entry_id)
            self.answer(None)


def test_it_looks_for_a_gap_once_and_not_between_reads_that_follow_each_other() -> None:
    reading = Reading()
    reading.reads("2-0", look_behind="1-0")
    reading.reads("3-0")
    reading.reads("4-0", after_s=0.05)
    reading.reads("2-0", key=OTHER, look_behind="1-0")  # the first of this key
    reading.reads("3-0", key=OTHER)
    assert reading.missed == []


def test_what_was_trimmed_while_the_process_stood_still_is_noticed_behind_the_entry_that_woke_it() -> None:
    """Redis answers a read that waits at once, with the first entry. The others come and go while nobody looks."""
    reading = Reading()
    reading.reads("2-0", look_behind="1-0")
    reading.reads("3-0", look_behind="2-0", after_s=3_600)
    reading.reads("9-0", look_behind="3-0", kept=False)
    assert reading.missed == [KEY]
    reading.reads("9-1")


def test_what_was_trimmed_while_an_event_was_dealt_with_is_noticed() -> None:
    reading = Reading()
    reading.reads("2-0", look_behind="1-0")
    reading.now += 3_600  # as long as the body of the loop took
    reading.reads("9-0", look_behind="2-0", kept=False)
    assert reading.missed == [KEY]


def test_what_was_trimmed_of_a_key_that_was_empty_is_noticed_when_something_comes() -> None:
    reading = Reading()
    assert reading.asked() == ("xread",)
    reading.answer([])
    reading.reads("9-0", look_behind="1-0", kept=False)
    assert reading.missed == [KEY]


@pytest.mark.parametrize("given", ["3-0", "2-9", None])
def test_a_stream_whose_newest_entries_were_deleted_is_no_loss(given: str | None) -> None:
    """It has given ids as high as what was read."""
    reading = Reading()
    reading.answer([])
    reading.reads("3-0", look_behind="1-0")
    reading.answer([], after_s=3_600)
    assert reading.asked() == ("xrevrange", KEY)
    reading.answer([] if given is None else [(given, FIELDS)])
    if given != "3-0":
        assert reading.asked() == ("xinfo_stream", KEY)
        reading.answer({"last-generated-id": b"3-0"})
    assert reading.asked() == ("xread",)
    assert reading.missed == []


def test_a_moment_that_is_not_yet_there_is_no_loss() -> None:
    """`after` may be a time to come: only what was read can be lost."""
    reading = Reading()
    reading.answer([], after_s=3_600)
    assert reading.asked() == ("xread",)


def test_who_may_not_look_for_a_loss_reads_on() -> None:
    reading = Reading()
    reading.answer([])
    reading.reads("3-0", look_behind="1-0")
    reading.answer([], after_s=3_600)
    reading.step = advance(reading.steps, None, redis.exceptions.NoPermissionError("no permission for xrevrange"))
    assert reading.asked() == ("xread",)
    assert reading.missed == []
