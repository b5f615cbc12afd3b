"""The plain value the console is fed with: what events make of it, and how several processes become one."""

from dataclasses import replace

from dispatcher.core import events
from dispatcher.core.latencies import Latencies, summed
from dispatcher.core.process_state import RunningDispatcher, SnapshotHolder, merged
from dispatcher.telemetry.latency import LatencyHistogram
from dispatcher.telemetry.state import StateTracker


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def reader(clock: Clock) -> StateTracker:
    return StateTracker(LatencyHistogram("x", "x").snapshot, clock=clock)


def kinds(reader: StateTracker) -> list[str]:
    return [trouble.kind for trouble in reader.read().troubles]


def test_it_starts_and_then_nothing_is_wrong():
    ours = reader(Clock())
    assert kinds(ours) == ["starting"]
    ours(events.Started("host-1-a", enabled=True))
    reading = ours.read()
    assert (reading.names, reading.troubles, reading.started_at) == (("host-1-a",), (), 1000.0)


def test_counts_add_up():
    ours = reader(Clock())
    for _ in range(2):
        ours(events.Published(3, [0.1] * 3, 0.1))
        ours(events.Settled(sent=3, retried=2, dead=1, released=0, unknown=0, lost=0))
        ours(events.Ticked("ok", 0.1))
    ours(events.Ticked("error", 0.1, "SessionLost"))
    reading = ours.read()
    assert (reading.published, reading.failed, reading.dead, reading.ticks, reading.tick_errors) == (6, 6, 2, 3, 1)


def test_a_trouble_keeps_the_time_it_began_and_takes_the_latest_reason():
    clock = Clock()
    ours = reader(clock)
    ours(events.Started("a", enabled=True))
    ours(events.DatabaseChanged(False, "refused"))
    clock.now += 60
    ours(events.DatabaseChanged(False, "timeout"))
    [trouble] = ours.read().troubles
    assert (trouble.kind, trouble.reason, trouble.since) == ("database", "timeout", 1000.0)
    ours(events.DatabaseChanged(True, None))
    assert kinds(ours) == []
    ours(events.DatabaseChanged(False, "refused"))
    assert ours.read().troubles[0].since == 1060.0


def test_every_state_is_a_trouble_while_it_lasts():
    ours = reader(Clock())
    ours(events.Started("a", enabled=False))
    ours(events.ListenerChanged(False, "gone"))
    ours(events.BackpressureChanged(True, "billing", 900))
    ours(events.AuditChanged(False, "INFO is forbidden"))
    ours(events.BreakerChanged("open", "OOM"))
    ours(events.PauseChanged(True, "ada", "moving the stream"))
    assert ours.read().troubles[-1].reason == "by ada (moving the stream)"
    ours(events.PauseChanged(False, None, None))
    ours(events.PauseChanged(True, "ada", "moving the stream", 400.0))
    assert ours.read().troubles[-1].since == 400.0  # not when this process heard of it
    ours(events.Stopping("SIGTERM"))
    assert kinds(ours) == ["disabled", "listener", "backpressure", "audit", "redis", "paused", "stopping"]
    ours(events.ListenerChanged(True, None))
    ours(events.BackpressureChanged(False, "billing", 10))
    ours(events.AuditChanged(True, None))
    ours(events.BreakerChanged("closed", None))
    ours(events.PauseChanged(False, None, None))
    assert kinds(ours) == ["disabled", "stopping"]


def test_handlers_that_do_not_end_and_what_a_look_at_postgres_found_are_troubles_since_they_were_seen_first():
    clock = Clock()
    ours = reader(clock)
    ours(events.Started("a", enabled=True))
    ours(events.StuckHandlers(True, 4, ("invoice.pdf",)))
    ours(events.Sampled(5, 1.0, 0.3, 7, {}, doorbell="dropped"))
    clock.now += 60
    ours(events.Sampled(5, 1.0, 0.6, 7, {}, doorbell="dropped"))
    assert [(each.kind, each.reason, each.since) for each in ours.read().troubles] == [
        ("handlers", "4 handlers of invoice.pdf go on after their timeout, as many as there are places", 1000.0),
        ("doorbell", "dropped", 1000.0),
        ("notify-queue", "60% full", 1000.0),
    ]
    ours(events.StuckHandlers(False, 3))
    ours(events.Sampled(5, 1.0, 0.1, 7, {}))
    assert kinds(ours) == []


def test_since_when_events_are_late_does_not_move_with_the_event_that_is_the_oldest():
    clock = Clock()
    ours = reader(clock)
    ours(events.Started("a", enabled=True))
    seen = SnapshotHolder("session", "77", "ada", "report", None, None, 900)
    ours(events.Sampled(500, 6.0, 0.0, 7, {}, snapshot=seen))
    clock.now += 60
    ours(events.Sampled(400, 30.0, 0.0, 7, {}, snapshot=seen))  # the oldest came 36 s later
    assert [(each.kind, each.since) for each in ours.read().troubles] == [("late", 994.0), ("snapshot", 1000.0)]
    ours(events.Sampled(400, 30.0, 0.0, 7, {}, snapshot=replace(seen, name="78", since=1020.0)))
    assert [(each.kind, each.since) for each in ours.read().troubles] == [("late", 994.0), ("snapshot", 1020.0)]
    ours(events.Sampled(0, 0.0, 0.0, 7, {}))
    assert kinds(ours) == []


def test_redis_is_away_when_an_idle_look_finds_it_so_and_an_open_breaker_is_not_hidden_by_a_look():
    ours = reader(Clock())
    ours(events.Started("a", enabled=True))
    ours(events.Sampled(5, 1.0, 0.0, None, {}, "ConnectionError"))
    [trouble] = ours.read().troubles
    assert (trouble.kind, trouble.reason) == ("redis", "ConnectionError")
    ours(events.Sampled(5, 1.0, 0.0, 7, {"billing": 3}))
    assert kinds(ours) == []
    ours(events.BreakerChanged("open", "OOM"))
    ours(events.Sampled(5, 1.0, 0.0, 7, {"billing": 3}))
    ours(events.Published(1, [0.1], 0.1))  # another batch of before
    assert kinds(ours) == ["redis"]
    sample = ours.read().sample
    assert sample is not None
    assert (sample.backlog, sample.stream_length, sample.group_lag) == (5, 7, {"billing": 3})


def test_a_burial_is_remembered_with_its_time_and_error():
    clock = Clock()
    ours = reader(clock)
    ours(events.Buried([(7, "redis: ERR"), (8, "too large")]))
    clock.now += 1
    ours(events.Buried([]))
    assert (ours.read().buried_at, ours.read().buried_error) == (1000.0, "too large")


def test_several_processes_are_one():
    clock = Clock()
    one, two = reader(clock), reader(clock)
    for number, each in enumerate((one, two)):
        each(events.Started(f"p{number}", enabled=True))
        each(events.Published(10, [0.1] * 10, 0.1))
        each(
            events.Sampled(5 + number, 1.0, 0.0, 7, {}, dispatchers=[RunningDispatcher(f"p{number}", "h", 1, "1", 5.0)])
        )
        clock.now += 1
    one(events.BreakerChanged("open", "OOM"))
    clock.now += 1
    two(events.BreakerChanged("open", "reset"))
    two(events.ListenerChanged(False, "gone"))
    both = merged([one.read(), two.read()])
    assert (both.names, both.published, both.processes) == (("p0", "p1"), 20, 2)
    assert [(trouble.kind, trouble.reason, trouble.since, trouble.of) for trouble in both.troubles] == [
        ("redis", "OOM", 1002.0, 2),
        ("listener", "gone", 1003.0, 1),
    ]
    assert both.sample is not None
    assert both.sample.backlog == 6  # the newest look
    assert [one.name for one in both.sample.dispatchers] == ["p1"]
    assert merged([one.read()]) == one.read()


def test_latencies_are_summed_and_a_process_that_began_anew_gives_none():
    a, b = Latencies((1.0,), (3, 1), 4.0), Latencies((1.0,), (1, 0), 0.5)
    both = summed([a, b])
    assert (both.counts, both.sum_s, both.total) == ((4, 1), 4.5, 5)
    assert b.since(a) == Latencies((1.0,), (0, 0), 0.0)
