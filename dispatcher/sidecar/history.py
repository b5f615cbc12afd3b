"""The last fifteen minutes, one point every two seconds: what the console draws. Bounded in memory.

A point is the difference of two states of the process, so it asks no server.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from math import isfinite

import anyio

from dispatcher.core.findings import group_needs
from dispatcher.core.findings.needs import PROMISED_S
from dispatcher.core.findings.troubles import TROUBLES
from dispatcher.core.known_groups import MOST
from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import ProcessState, Sample

EVERY_S = 2.0  # between two points
POINTS = 450  # fifteen minutes
WINDOW = 30  # points: the minute that the figures of now are about
RATE_WINDOW = 5  # points: the ten seconds of a rate of now
FEW_EVENTS = 20  # a quantile of fewer is chance
TYPES = 10  # event types that are shown
TREND_S = 15.0  # a backlog grows or falls, as the samples of so many seconds say
SLA_S = PROMISED_S


@dataclass(frozen=True, slots=True)
class Point:
    """Two seconds. Rates in events a second, latencies and ages in seconds, `at` in Unix seconds; None: not known."""

    at: float
    events: float
    failed: float
    dead: int
    p50: float | None
    p95: float | None
    p99: float | None
    backlog: int | None
    oldest: float | None
    lag: int | None  # of the slowest consumer group


@dataclass(frozen=True, slots=True)
class RecentType:
    """The last minute of one event type. Quantiles in seconds."""

    name: str
    events_per_s: float
    count: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class RecentWindow:
    """The last minute, one figure of each kind: the console shows them as now, and the diagnosis is made of them."""

    events: float = 0.0  # a second
    others: float | None = 0.0  # that other dispatchers send, a second; None: they have not noted it twice yet
    count: int = 0  # events the quantiles are of
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    error_share: float = 0.0  # of the turns of the loop; without those up to the end of an outage or a pause
    slow_since: float | None = None  # when p95 began to exceed the promise, if it does
    p95_now: float | None = None  # of the last ten seconds, or of as many more as have FEW_EVENTS; not of an outage
    p95_now_s: float | None = None  # of how many seconds that is
    lag_rates: Mapping[str, float] = field(default_factory=dict)  # by group, entries a second that it falls behind
    put_away_rates: Mapping[str, float] = field(default_factory=dict)  # by group, events a second that it puts away
    backlog_rate: float | None = None  # events a second by which it grows; below 0: it falls
    buried: int = 0  # events given up in the fifteen minutes, and when the first of them was
    buried_since: float | None = None
    types: tuple[RecentType, ...] = ()  # those with the most events first
    more_types: int = 0  # that are not shown


FIELDS = tuple(field.name for field in fields(Point))


class History:
    """A ring of points. Written by `add_point` only, which the event loop's thread calls.

    `read` gives the reading of now, of one process or the sum of several.
    """

    def __init__(
        self,
        read: Callable[[], ProcessState],
        *,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.read = read
        self._clock = clock
        self._elapsed = elapsed
        self._readings: deque[tuple[float, ProcessState]] = deque([(elapsed(), read())], maxlen=WINDOW + 1)
        self._points: deque[str] = deque(maxlen=POINTS)  # as JSON: written once, however many ask
        self._burials: deque[tuple[float, int]] = deque()  # of the points that had any: when, how many
        self.taken = 0  # points since the start: the number of the next
        self.lately = RecentWindow()

    async def run(self) -> None:
        while True:
            await anyio.sleep(EVERY_S)
            self.add_point()

    def add_point(self) -> None:
        now, reading = self._elapsed(), self.read()
        then, before = self._readings[-1]
        self._readings.append((now, reading))
        elapsed = max(now - then, 0.001)
        latency = reading.latency.since(before.latency)
        away = any(each.kind == "database" and each.of == reading.processes for each in reading.troubles)
        sample = None if away else reading.sample  # what was counted before says nothing of now
        point = Point(
            at=round(self._clock(), 3),
            events=round(max(0, reading.published - before.published) / elapsed, 2),
            failed=round(max(0, reading.failed - before.failed) / elapsed, 2),
            dead=max(0, reading.dead - before.dead),
            p50=_short(latency, 0.5),
            p95=_short(latency, 0.95),
            p99=_short(latency, 0.99),
            backlog=sample.backlog if sample else None,
            oldest=round(sample.overdue_s, 3) if sample else None,
            lag=_most_unread(sample) if sample else None,
        )
        self._points.append(json.dumps(astuple(point), separators=(",", ":")))
        self.taken += 1
        if point.dead:
            self._burials.append((point.at, point.dead))
        while self._burials and self._burials[0][0] < point.at - POINTS * EVERY_S:
            self._burials.popleft()
        self.lately = self._look_back(now)

    def after(self, number: int) -> bytes:
        """As JSON, the points from that number on: `{"every_s", "keep", "fields", "next", "points"}`."""
        kept = len(self._points)
        skip = min(max(0, number - (self.taken - kept)), kept) if number <= self.taken else 0  # else: another start's
        points = ",".join(list(self._points)[skip:])
        head = {"every_s": EVERY_S, "keep": POINTS, "fields": FIELDS, "next": self.taken}
        return f'{json.dumps(head)[:-1]}, "points": [{points}]}}'.encode()

    def _look_back(self, now: float) -> RecentWindow:
        _, first = self._readings[0]
        _, last = self._readings[-1]
        latency = last.latency.since(first.latency)
        rate_then, rate_first = self._readings[max(0, len(self._readings) - 1 - RATE_WINDOW)]
        undisturbed = next((each for _, each in self._readings if each.past == last.past and not stopped(each)), last)
        ticks, errors = last.ticks - undisturbed.ticks, last.tick_errors - undisturbed.tick_errors
        p95 = latency.quantile(0.95)
        slow = p95 is not None and p95 > SLA_S
        p95_now, p95_now_s = self._p95_now()
        types = _types(last, first, now - self._readings[0][0])
        return RecentWindow(
            events=max(0, last.published - rate_first.published) / max(now - rate_then, 0.001),
            others=_others_rate([reading for _, reading in self._readings]),
            count=latency.total,
            p50=latency.quantile(0.5),
            p95=p95,
            p99=latency.quantile(0.99),
            error_share=max(0.0, errors / ticks) if ticks > 0 else 0.0,
            slow_since=(self.lately.slow_since or self._clock()) if slow else None,
            p95_now=p95_now,
            p95_now_s=p95_now_s,
            lag_rates=_rates([reading for _, reading in self._readings], lambda sample: sample.group_lag),
            put_away_rates=_rates([reading for _, reading in self._readings], lambda sample: sample.group_dead),
            backlog_rate=_backlog_rate([reading for _, reading in self._readings]),
            buried=sum(dead for _, dead in self._burials),
            buried_since=self._burials[0][0] if self._burials else None,
            types=types[:TYPES],
            more_types=max(0, len(types) - TYPES),
        )

    def _p95_now(self) -> tuple[float | None, float | None]:
        """The quantile, and of how many seconds. Events that an outage held up say nothing of now."""
        until, last = self._readings[-1]
        known = [each for each in self._readings if caught_up(each[1], last)]
        since_then = known[:1] if last.past is not None else []
        for since, reading in known[-1 - RATE_WINDOW :: -1] or since_then:
            recent = last.latency.since(reading.latency)
            if recent.total >= FEW_EVENTS:
                return recent.quantile(0.95), round(until - since, 1)
        return None, None


def shards_of(sample: Sample | None) -> dict[str, group_needs.SeenShard]:
    """The keys, for what groups do not read at all. Of more groups than are sampled nobody can say it."""
    if sample is None or any(len(each.group_lag) >= MOST for each in sample.streams):
        return {}
    return {
        each.name: group_needs.SeenShard(
            each.length,
            [*each.group_read_age_s],
            [name for name, age in each.group_read_age_s.items() if isfinite(age) or not each.group_lag.get(name)],
            each.oldest,
        )
        for each in sample.streams
    }


def _most_unread(sample: Sample) -> int | None:
    """Of the slowest group, with what lies in shards that it is not on."""
    left = group_needs.not_read(shards_of(sample))
    return max((lag + left.get(group, 0) for group, lag in sample.group_lag.items()), default=None)


def stopped(reading: ProcessState) -> bool:
    """Whether events have to wait for an outage or a pause."""
    return any(TROUBLES[trouble.kind].stops for trouble in reading.troubles)


def caught_up(reading: ProcessState, last: ProcessState) -> bool:
    """Whether at this reading all that waited for the end of the last outage or pause had gone out."""
    if last.past is None:
        return True
    sample = reading.sample
    if reading.past != last.past or stopped(reading) or sample is None or sample.at < last.past.until:
        return False
    return not sample.backlog or sample.at - sample.overdue_s > last.past.until


def _rates(readings: Sequence[ProcessState], of: Callable[[Sample], Mapping[str, int]]) -> dict[str, float]:
    """How fast a number of each group rose, of the first and the last sample of the minute."""
    samples = [each.sample for each in readings if each.sample is not None]
    if not samples or samples[-1].at - samples[0].at < 2 * EVERY_S:
        return {}
    first, last = samples[0], samples[-1]
    common = of(first).keys() & of(last).keys()
    return {name: (of(last)[name] - of(first)[name]) / (last.at - first.at) for name in common}


def _others_rate(readings: Sequence[ProcessState]) -> float | None:
    """Of the notes of the last quarter of a minute: each dispatcher writes one every few seconds."""
    last = readings[-1]
    if last.sample is None:
        return 0.0
    at, total, known = last.sample.at, 0.0, False
    others = [each for each in last.sample.sent if each.name not in last.names]
    for other in others:
        notes = [
            (one.events, each.sample.at - one.heard_s)
            for each in readings
            if each.sample is not None and at - each.sample.at <= TREND_S
            for one in each.sample.sent
            if one.name == other.name
        ]
        (events, then), now = notes[0], at - other.heard_s
        if now - then >= EVERY_S:
            total, known = total + max(0, other.events - events) / (now - then), True
    return total if known or not others else None


def _backlog_rate(readings: Sequence[ProcessState]) -> float | None:
    """Of the last quarter of a minute: a count is taken every five seconds, and what came in before says nothing."""
    last = readings[-1].sample
    if last is None:
        return None
    samples = [each.sample for each in readings if each.sample and last.at - each.sample.at <= TREND_S]
    first = samples[0]
    if last.at - first.at < 2 * EVERY_S:
        return None
    return (last.backlog - first.backlog) / (last.at - first.at)


def _types(last: ProcessState, first: ProcessState, elapsed: float) -> tuple[RecentType, ...]:
    found = []
    for name, latencies in last.types.items():
        recent = latencies.since(first.types[name]) if name in first.types else latencies
        if recent.total:
            rate = round(recent.total / max(elapsed, 0.001), 2)
            found.append(RecentType(name, rate, recent.total, _short(recent, 0.5), _short(recent, 0.95)))
    return tuple(sorted(found, key=lambda each: (-each.count, each.name)))


def _short(latency: Latencies, q: float) -> float | None:
    value = latency.quantile(q)
    return None if value is None else round(value, 6)
