"""A consumer that keeps the order, frozen before each of its steps or cut off after each: step by step, no time passes.

Readers are driven by hand against a real server. What would take time in life, a lease that ends, is set in Redis.
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis as sync

from dispatcher.client.commands import Commands
from dispatcher.client.consumer import Group
from dispatcher.client.ordered_reader import OrderedReader
from dispatcher.client.shard_leases import lease_of
from dispatcher.client.shard_shares import Shares
from dispatcher.client.steps import Call, CallApplication, Handle, Sleep, Step, Steps, TakePermit, advance
from tests.support.steps import flat

STREAM, GROUP = "s", "g"
LEASE = lease_of(STREAM, GROUP)
MOST_STEPS = 400


class ByHand:
    """One consumer, whose steps are carried out when the test says so."""

    def __init__(
        self, client: sync.Redis, name: str, begun: list[tuple[str, str]], *, fails: bool = False, shards: int = 1
    ) -> None:
        self.slept_s = 0.0
        self.last: Step | None = None  # the next step, not yet carried out
        self.name = name
        self._begun = begun
        self._fails = fails
        self._commands: Any = Commands(client)
        group = Group(
            stream=STREAM,
            group=GROUP,
            consumer=name,
            ordered=True,
            claim_idle=timedelta(minutes=10),
            retry=timedelta(minutes=10),
            count=2,
            shards=shards,
        )
        self.shares = Shares(name, 600.0)
        self.reader = OrderedReader(group, (), None, False, group.keys, self.shares, clock=self._clock)
        self.handed: Steps | None = None  # of an entry that a thread was handed, and has not begun
        self._steps = self._all_but_handed() if shards > 1 else flat(self.reader.steps())
        self.last = next(self._steps)

    def _clock(self) -> float:
        return time.monotonic() + self.slept_s

    def _all_but_handed(self) -> Steps:
        steps = self.reader.steps()
        answer: Any = None
        failure: Exception | None = None
        while (step := advance(steps, answer, failure)) is not None:
            answer = failure = None
            if isinstance(step, Handle):
                self.handed = step.steps
                continue
            try:
                answer = yield step
            except Exception as error:
                failure = error

    def begin_handed(self) -> None:
        """The thread begins with it, and carries out all its steps."""
        assert self.handed is not None
        answer: Any = None
        failure: Exception | None = None
        while (step := advance(self.handed, answer, failure)) is not None:
            answer = failure = None
            try:
                answer = self._do(step)
            except Exception as error:
                failure = error

    def go(self, *, lose_reply: bool = False, lose_call: bool = False) -> None:
        """Carry out the next step."""
        step = self.last
        try:
            if lose_call and isinstance(step, Call):
                raise sync.ConnectionError
            answer = self._do(step)
            if lose_reply and isinstance(step, Call):
                raise sync.ConnectionError
        except Exception as error:
            self.last = self._steps.throw(error)
        else:
            self.last = self._steps.send(answer)

    def until_idle(self) -> None:
        """Until it has nothing to do but wait for new entries or for a lease, twice."""
        idle = 0
        for _ in range(MOST_STEPS):
            waits = isinstance(self.last, Sleep) or (isinstance(self.last, Call) and self.last.method == "xread")
            idle = idle + 1 if waits else idle
            if idle == 3:
                return
            if waits:
                self.slept_s += 1.0  # and looks at the leases after that
            self.go()
        raise AssertionError("it never waits")

    def _do(self, step: Step | None) -> Any:
        match step:
            case CallApplication("handle", event):
                self._begun.append((self.name, event.entry_id))
                if self._fails:
                    raise LookupError
            case TakePermit():
                return True
            case Call("xread", arguments, options):
                return self._commands.xread(*arguments, **(options | {"block": 1}))
            case Call(method, arguments, options):
                return getattr(self._commands, method)(*arguments, **options)
        return None


@pytest.fixture
def client(redis_url: str) -> Iterator[sync.Redis]:
    with sync.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


def publish(client: sync.Redis, *names: str, key: str = STREAM) -> list[str]:
    fields = {
        "event_id": "00000000-0000-0000-0000-000000000001",
        "message_id": "00000000-0000-0000-0000-000000000002",
        "event_type": "a",
        "aggregate_type": "b",
        "occurred_at": "2025-06-01T12:00:00+00:00",
        "payload": "{}",
    }
    pairs = [{**fields, "aggregate_id": name} for name in names]
    return [client.xadd(key, each).decode() for each in pairs]  # type: ignore[arg-type, union-attr]


def first_times(begun: list[tuple[str, str]]) -> list[str]:
    """The entries in the order in which they were begun first."""
    return list(dict.fromkeys(entry_id for _, entry_id in begun))


def in_order(begun: list[tuple[str, str]], *lines: list[str]) -> bool:
    """Whether each of these aggregates was begun in its order, and wholly."""
    order = first_times(begun)
    return all([entry for entry in order if entry in line] == line for line in lines)


def steps_of_a_run(client: sync.Redis) -> int:
    """How many steps a consumer takes that is left alone."""
    begun: list[tuple[str, str]] = []
    one = ByHand(client, "one", begun)
    publish(client, "x", "y", "x", "x", "y")
    for steps in range(MOST_STEPS):
        if len(begun) == 5 and isinstance(one.last, Call) and one.last.method == "xread":
            return steps
        one.go()
    raise AssertionError("it does not read all")


@pytest.mark.parametrize("slept_s", [1_000.0, 0.2])  # 0.2: by its own clock, which may have stood still with it
def test_frozen_before_any_step_and_its_lease_taken(client: sync.Redis, slept_s: float) -> None:
    for number in range(steps_of_a_run(client)):
        client.flushall()
        begun: list[tuple[str, str]] = []
        frozen = ByHand(client, "frozen", begun)
        ids = publish(client, "x", "y", "x", "x", "y")
        for _ in range(number):
            frozen.go()
        in_handler = isinstance(frozen.last, CallApplication)
        client.hset(LEASE, mapping={"until": 1, f"c:{frozen.shares.me}": 1})
        other = ByHand(client, "other", begun)
        other.until_idle()
        ids += publish(client, "x", "y", "z")
        taken = len(begun)

        frozen.slept_s += slept_s  # it wakes up
        frozen.until_idle()
        woken = begun[taken:]
        assert len(woken) == in_handler, f"step {number}: it begins {woken}"
        acknowledged = client.xpending_range(STREAM, GROUP, "-", "+", 100)
        assert acknowledged == [], f"step {number}"

        other.until_idle()
        mine = [entry for name, entry in begun if name == "other"]
        assert in_order(begun, [ids[0], ids[2], ids[3], ids[5]], [ids[1], ids[4], ids[6]], [ids[7]]), f"step {number}"
        assert len(mine) == len(set(mine)), f"step {number}: twice by the one who was awake"
        assert client.xpending_range(STREAM, GROUP, "-", "+", 100) == [], f"step {number}"
        assert client.hget(LEASE, "holder") == other.shares.me.encode(), f"step {number}"


def test_frozen_before_any_step_it_acknowledges_nothing_of_the_other(client: sync.Redis) -> None:
    """The other has begun, and failed: an acknowledgement by the one that wakes up would lose its next try."""
    for number in range(steps_of_a_run(client)):
        client.flushall()
        frozen = ByHand(client, "frozen", [])
        publish(client, "x", "y", "x", "x", "y")
        for _ in range(number):
            frozen.go()
        client.hset(LEASE, mapping={"until": 1, f"c:{frozen.shares.me}": 1})
        begun: list[tuple[str, str]] = []
        other = ByHand(client, "other", begun, fails=True)
        other.until_idle()
        before = client.xpending_range(STREAM, GROUP, "-", "+", 100)
        frozen.slept_s += 1_000.0
        frozen.until_idle()
        after = client.xpending_range(STREAM, GROUP, "-", "+", 100)
        failed = {entry_id.encode() for entry_id in first_times(begun)}
        assert [each["message_id"] for each in after] == [each["message_id"] for each in before], f"step {number}"
        assert {each["consumer"] for each in after if each["message_id"] in failed} <= {b"other"}


@pytest.mark.parametrize("what", ["the call", "the reply"])
def test_cut_off_at_any_step(client: sync.Redis, what: str) -> None:
    """It finds again what Redis had delivered, and begins it in order; only what it had done may come twice."""
    for number in range(steps_of_a_run(client)):
        client.flushall()
        begun: list[tuple[str, str]] = []
        one = ByHand(client, "one", begun)
        ids = publish(client, "x", "y", "x", "x", "y")
        for _ in range(number):
            one.go()
        try:
            one.go(lose_call=what == "the call", lose_reply=what == "the reply")
        except sync.ConnectionError:
            continue  # it has never reached the server
        one.until_idle()
        assert in_order(begun, [ids[0], ids[2], ids[3]], [ids[1], ids[4]]), f"step {number}: {begun}"
        assert len(begun) <= 6, f"step {number}"
        assert client.xpending_range(STREAM, GROUP, "-", "+", 100) == [], f"step {number}"


def test_a_take_over_before_any_step_of_the_one_who_takes(client: sync.Redis) -> None:
    """Two who want one lease that is free: whatever the order of their steps, one has it."""
    for number in range(12):
        client.flushall()
        begun: list[tuple[str, str]] = []
        one, two = ByHand(client, "one", begun), ByHand(client, "two", begun)
        ids = publish(client, "x", "x", "x")
        for _ in range(number):
            one.go()
        two.until_idle()
        one.until_idle()
        two.until_idle()
        assert begun == [(begun[0][0], entry_id) for entry_id in ids], f"step {number}"


def handed_and_not_begun(client: sync.Redis, begun: list[tuple[str, str]]) -> tuple[ByHand, str, str]:
    """A reader of two shards that has handed an entry to a thread; the key of that, and its id."""
    one = ByHand(client, "one", begun, shards=2)
    key = f"{STREAM}:{{0}}"
    one.until_idle()
    [entry_id] = publish(client, "x", key=key)
    for _ in range(MOST_STEPS):
        if one.handed is not None:
            return one, key, entry_id
        one.go()
    raise AssertionError("it hands nothing")


def test_a_shard_is_not_given_up_under_an_entry_that_a_thread_has_not_begun(client: sync.Redis) -> None:
    begun: list[tuple[str, str]] = []
    one, key, entry_id = handed_and_not_begun(client, begun)
    other = ByHand(client, "other", begun, shards=2)
    other.until_idle()  # it takes part, and finds no shard that is free
    one.until_idle()
    other.until_idle()
    holders = [client.hget(lease_of(each, GROUP), "holder") for each in (key, f"{STREAM}:{{1}}")]
    assert holders == [one.shares.me.encode(), other.shares.me.encode()]
    one.begin_handed()
    assert begun == [("one", entry_id)]
    assert client.xpending_range(key, GROUP, "-", "+", 100) == []


def test_an_entry_that_a_thread_has_not_begun_is_left_with_the_lease(client: sync.Redis) -> None:
    begun: list[tuple[str, str]] = []
    one, key, _ = handed_and_not_begun(client, begun)
    one.slept_s += (
        1.0  # and looks at the leases, of which it has lost this one right after a word of Redis that it has it
    )
    one.reader._leased[key].sure_until = one._clock() + 60.0
    client.hset(lease_of(key, GROUP), mapping={"holder": "other.1", "until": 2**50, "lasts": 2**50})
    while one.reader._leased[key].token:
        one.go()
    one.begin_handed()
    assert begun == []
