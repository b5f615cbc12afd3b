"""What a consumer does next, step by step on a clock of the test's own: leases, and the settings of a group."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from dispatcher.client.group import Group
from dispatcher.client.group_reader import GroupReader
from dispatcher.client.steps import Call, CallApplication, Sleep, Step, Steps, TakePermit, advance, pages_of
from dispatcher.client.tail import Tail
from tests.support.steps import flat

FIELDS = {
    "event_id": "00000000-0000-0000-0000-000000000001",
    "message_id": "00000000-0000-0000-0000-000000000002",
    "event_type": "a",
    "aggregate_type": "b",
    "aggregate_id": "c",
    "occurred_at": "2025-06-01T12:00:00+00:00",
    "payload": "{}",
}


def alone(steps: Steps) -> Steps:
    """The steps of a reader that always has a permit."""
    inner = flat(steps)
    answer: Any = None
    failure: Exception | None = None
    while (step := advance(inner, answer, failure)) is not None:
        answer, failure = True, None
        if not isinstance(step, TakePermit):
            try:
                answer = yield step
            except Exception as error:
                failure = error


class Slow:
    """Carries out the steps of a reader over one read of three entries; the handler takes `seconds` for each."""

    def __init__(self, seconds: list[float]) -> None:
        self.now = 0.0
        self.claimed: list[list[str]] = []
        self.handled: list[str] = []
        self.acknowledged: list[str] = []
        self._seconds: Iterator[float] = iter(seconds)
        group = Group(stream="s", group="g", consumer="me", claim_idle=timedelta(minutes=1))
        self._reader = GroupReader(group, (), None, has_store=False, clock=lambda: self.now)
        self._reads = 0

    def run(self) -> None:
        """Until the second read."""
        steps = alone(self._reader.steps())
        step = next(steps)
        try:
            while True:
                step = steps.send(self._do(step))
        except StopIteration:
            return

    def _do(self, step: Step) -> Any:
        match step:
            case CallApplication("handle", event):
                self.handled.append(event.entry_id)
                self.now += next(self._seconds)
            case Call("xautoclaim"):
                return ["0-0", [], []]
            case Call("xreadgroup"):
                self._reads += 1
                if self._reads > 1:
                    self._reader.stopping = True
                    return []
                return [["s", [(entry_id, FIELDS) for entry_id in ("1-0", "2-0", "3-0")]]]
            case Call("xclaim", (_, _, _, _, ids)):
                self.claimed.append(ids)
            case Call("xack", (_, _, *ids)):
                self.acknowledged += [str(entry_id) for entry_id in ids]
        return []


def test_entries_that_wait_are_claimed_again_when_half_their_time_is_over() -> None:
    slow = Slow([31.0, 1.0, 1.0])
    slow.run()
    assert slow.claimed == [["2-0", "3-0"]]
    assert slow.acknowledged == ["1-0", "2-0", "3-0"]


def test_a_claim_again_gives_them_all_their_time_again() -> None:
    slow = Slow([31.0, 31.0, 31.0])
    slow.run()
    assert slow.claimed == [["2-0", "3-0"], ["3-0"]]
    assert slow.handled == ["1-0", "2-0", "3-0"]


def test_what_waited_longer_than_its_claim_is_left_to_others(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow([61.0])
    slow.run()
    assert (slow.handled, slow.acknowledged, slow.claimed) == (["1-0"], ["1-0"], [])
    assert "2 entries waited too long" in caplog.text


def test_an_outage_of_redis_while_a_handler_waits_costs_no_delivery() -> None:
    errors: list[Exception] = []
    group = Group(stream="s", group="g", consumer="me", claim_idle=timedelta(minutes=1), max_deliveries=1)
    now = 0.0
    reader = GroupReader(group, (), lambda _, error: errors.append(error), has_store=False, clock=lambda: now)
    steps = alone(reader.steps())
    called: list[str] = []
    step: Step = next(steps)
    while not called or called[-1] != "xack":
        match step:
            case Sleep():
                now += 12.0
                step = steps.send(None)
            case CallApplication():
                called.append("handle")
                step = steps.throw(redis.ConnectionError()) if called.count("handle") < 5 else steps.send(None)
            case Call("xclaim"):
                called.append("xclaim")
                step = steps.throw(redis.ConnectionError()) if called.count("xclaim") < 2 else steps.send([])
            case Call("xautoclaim"):
                step = steps.send(["0-0", [], []])
            case Call("xreadgroup"):
                step = steps.send([["s", [("1-0", FIELDS)]]])
            case Call(method):
                called += [method] if method != "xgroup_create" else []
                step = steps.send([])
    steps.close()
    assert called == ["handle", "handle", "handle", "xclaim", "handle", "xclaim", "handle", "xack"]
    assert errors == []


def test_redis_6_does_not_say_which_entry_was_trimmed(caplog: pytest.LogCaptureFixture) -> None:
    """It gives (None, None) for it, and leaves it pending: without an acknowledgement it is claimed again for ever."""
    reader = GroupReader(Group(stream="s", group="g", consumer="me"), (), None, has_store=False, clock=lambda: 0.0)
    steps = alone(reader.steps())
    step: Step = next(steps)
    acknowledged: list[object] = []
    while not acknowledged:
        match step:
            case Call("xautoclaim"):
                step = steps.send(["3-0", [(None, None)]])
            case Call("xpending_range", _, {"min": "0-0", "max": "3-0"}):
                step = steps.send([{"message_id": "1-0"}, {"message_id": b"2-0"}])
            case Call("xrange", (_, entry_id, _)):
                step = steps.send([("1-0", FIELDS)] if entry_id == "1-0" else [])
            case Call("xack", (_, _, *ids)):
                acknowledged = ids
                step = steps.send(1)
            case _:
                step = steps.send([])
    steps.close()
    assert acknowledged == ["2-0"]
    assert "lost 1 entry: trimmed" in caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        [["s", [("1-0", {}), ("2-0", {})]]],
        {"s": [("1-0", {}), ("2-0", {})]},
        {"s": [[("1-0", {}), ("2-0", {})]]},
    ],
)
def test_every_shape_of_a_reply_is_read(reply: Any) -> None:
    assert pages_of(reply) == [("s", [("1-0", {}), ("2-0", {})])]


@pytest.mark.parametrize("reply", [[], {}, None])
def test_nothing_new(reply: Any) -> None:
    assert pages_of(reply) == []


@pytest.mark.parametrize(
    ("settings", "words"), [({"stream": ""}, "stream must not be empty"), ({"count": 0}, "count must be 1 or more")]
)
def test_a_setting_that_cannot_be_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Group(**({"stream": "s", "group": "g"} | settings))


def test_pauses_double_up_to_the_claim() -> None:
    group = Group(stream="s", group="g", retry=timedelta(seconds=1), claim_idle=timedelta(seconds=5))
    assert [group.delay_ms(deliveries) for deliveries in (1, 2, 3, 4, 1000)] == [1000, 2000, 4000, 5000, 5000]


def test_two_consumers_never_share_a_name() -> None:
    assert Group(stream="s", group="g").consumer != Group(stream="s", group="g").consumer


def test_times_are_timedeltas_and_the_old_names_warn() -> None:
    group = Group(stream="s", group="g", block=timedelta(milliseconds=50), claim_idle=timedelta(minutes=2))
    assert (group.block_millis, group.claim_idle_millis, group.retry_millis) == (50, 120_000, 1000)
    assert dataclasses.replace(group, count=1).block == timedelta(milliseconds=50)
    with pytest.warns(DeprecationWarning, match=r"_ms is .* now") as warned:
        old = Group(stream="s", group="g", consumer=group.consumer, block_ms=50, claim_idle_ms=5000, retry_ms=10)
    assert {each.filename for each in warned} == {__file__}
    assert "claim_idle_ms is claim_idle now: give claim_idle=timedelta(milliseconds=5000)" in map(
        str, (each.message for each in warned)
    )
    assert old == Group(
        stream="s", group="g", consumer=group.consumer, block=timedelta(milliseconds=50),
        claim_idle=timedelta(seconds=5), retry=timedelta(milliseconds=10),
    )  # fmt: skip
    with pytest.warns(DeprecationWarning, match="block_ms is block now") as warned:
        Tail(redis.Redis(socket_timeout=5), "s", block_ms=50)
    assert {each.filename for each in warned} == {__file__}


@pytest.mark.parametrize("make", [partial(Group, stream="s", group="g"), partial(Tail, redis.Redis(), "s")])
def test_a_number_is_no_time(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"block must be a timedelta, not int: block=timedelta\(seconds=60\)"):
        make(block=60)
    with pytest.raises(ValueError, match="block must be a millisecond or more"):
        make(block=timedelta(0))
