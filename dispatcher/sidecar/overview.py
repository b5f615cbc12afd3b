"""What the console asks for every two seconds: `/api/overview` and `/api/history`.

No request asks Postgres or Redis. The answer is made at most once a second, so ten readers cost about as much as one.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from aiohttp import web

from dispatcher import __version__
from dispatcher.core.findings.condition import NOTE_EVERY_S
from dispatcher.core.findings.group_needs import not_read
from dispatcher.core.findings.needs import FRESH_DEAD_S, LATE_S, VERY_LATE_S, level_of
from dispatcher.core.findings.runbook import BASE
from dispatcher.core.findings.troubles import TROUBLES
from dispatcher.core.known_groups import KEPT_S
from dispatcher.core.process_state import HeldCount, ProcessState, StreamSample, Trouble, TroubleKind
from dispatcher.sidecar.diagnosis import diagnose
from dispatcher.sidecar.errors import Refusal
from dispatcher.sidecar.history import SLA_S, WINDOW, History, RecentWindow, shards_of

SILENT_S = 3.0  # nothing went out for so long although events are due: that is said
POSTGRES_KNOWS = ("listener", "paused", "layout", "slots")  # while it is away nobody does
FRESH_S = 1.0  # an answer is given again for so long


@dataclass(frozen=True, slots=True)
class Installation:
    """What tells this system from others. `database`: host:port/name; `grafana`: the address of a dashboard."""

    deployment: str | None = None
    database: str | None = None
    grafana: str | None = None


UNNAMED = Installation()


class Overview:
    """The two handlers, and the answer of the last second. Written by the event loop's thread only.

    `stream`: its key; `maxlen`: REDIS_STREAM_MAXLEN; `max_attempts`: DISPATCH_MAX_ATTEMPTS; `tick_s`: DISPATCH_TICK_MS;
    `installation`: which system this is.
    """

    def __init__(
        self,
        history: History,
        *,
        stream: str,
        maxlen: int,
        max_attempts: int | None = None,
        tick_s: float | None = None,
        installation: Installation = UNNAMED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._installation = installation
        self._history = history
        self._stream = stream
        self._maxlen = maxlen
        self._max_attempts = max_attempts
        self._tick_s = tick_s
        self._clock = clock
        self._made: tuple[float, bytes] | None = None

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/overview", self.overview), web.get("/api/history", self.history)]

    async def overview(self, request: web.Request) -> web.Response:
        now = self._clock()
        if self._made is None or not 0 <= now - self._made[0] < FRESH_S:
            self._made = (now, json.dumps(self.describe(now), separators=(",", ":")).encode())
        return web.Response(body=self._made[1], content_type="application/json")

    async def history(self, request: web.Request) -> web.Response:
        """GET /api/history?after=<next of the last answer>."""
        text = request.query.get("after", "0")
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise Refusal(400, "after must be a whole number: the `next` of the answer before")
        return web.Response(body=self._history.after(int(text)), content_type="application/json")

    def describe(self, now: float) -> dict[str, Any]:
        """The answer. Durations in seconds, moments in Unix seconds."""
        reading, lately = self._history.read(), self._history.lately
        findings = diagnose(
            reading, lately, now, maxlen=self._maxlen, max_attempts=self._max_attempts, tick_s=self._tick_s
        )
        sample = reading.sample
        return {
            "now": now,
            "level": level_of(findings),
            "findings": [asdict(each) | {"needs_somebody": each.needs_somebody} for each in findings],
            "runbook": BASE,
            **asdict(self._installation),
            "names": reading.names,
            "processes": reading.processes,
            "version": __version__,
            "started_at": reading.started_at,
            "events_per_s": round(lately.events + (lately.others or 0.0), 2),
            "others_per_s": None if lately.others is None else round(lately.others, 2),
            "silent_s": (silent_s := _silent_s(reading, now)),
            "ever_sent": _last_sent(reading, now) is not None,
            "levels": _levels(reading, lately, silent_s, now),
            "types": [asdict(each) for each in lately.types],
            "more_types": lately.more_types,
            "totals": {"published": reading.published, "failed": reading.failed, "dead": reading.dead},
            "latency": {
                "window_s": int(WINDOW * 2),
                "count": lately.count,
                "now": lately.p95_now,
                "now_s": lately.p95_now_s,
                "p50": lately.p50,
                "p95": lately.p95,
                "p99": lately.p99,
                "sla_s": SLA_S,
            },
            "error_share": round(lately.error_share, 4),
            "states": _states(reading, {each.kind: each.level for each in findings}),
            "sampled_at": sample.at if sample else None,
            "backlog": sample.backlog if sample else None,
            "oldest_age_s": sample.oldest_age_s if sample else None,
            "overdue_s": sample.overdue_s if sample else None,
            "stream": {
                "name": self._stream,
                "maxlen": self._maxlen,
                "length": sample.stream_length if sample else None,
                "groups": _groups(sample.group_lag, sample.group_read_age_s, not_read(shards_of(sample)))
                if sample
                else [],
            },
            "streams": [_stream(one) for one in sample.streams] if sample else [],
            "dispatchers": [asdict(one) for one in sample.dispatchers] if sample else None,
            "dead": sample.dead if sample else None,
            "newest_dead_at": sample.newest_dead_at if sample else None,
            "dead_groups": asdict(sample.dead_groups) if sample and sample.dead_groups else None,
            "lost_at": sample.loss.at if sample and sample.loss and now - sample.loss.at < KEPT_S else None,
            "held_head": _held_head(sample.held) if sample else None,
            "held": sample.held.aggregates if sample and sample.held else None,
        }


def _held_head(held: HeldCount | None) -> dict[str, Any] | None:
    """The event that holds the first aggregate, how many wait behind it, and for how many seconds the first of them."""
    if held is None or held.head is None:
        return None
    return {"id": held.head.id, "waiting": held.head.waiting, "oldest_s": held.oldest_s}


def _stream(one: StreamSample) -> dict[str, Any]:
    return {"name": one.name, "length": one.length, "groups": _groups(one.group_lag, one.group_read_age_s)}


def _groups(
    lags: Mapping[str, int], ages_s: Mapping[str, float], left: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """`last_read_age_s` None: nobody has read, or it is not known. `left`: in shards that a group is not on."""
    left = left or {}
    known = {name: round(age_s, 1) for name, age_s in ages_s.items() if isfinite(age_s)}
    return [
        {"name": name, "lag": lag, "last_read_age_s": known.get(name)}
        | ({"not_read": left[name]} if left.get(name) else {})
        for name, lag in lags.items()
    ]


def _silent_s(reading: ProcessState, now: float) -> float | None:
    """How long nothing went out although events are due, or nobody can know. None: none is due, or they go out."""
    sample, away = reading.sample, any(trouble.kind == "database" for trouble in reading.troubles)
    waits = sample is not None and sample.backlog and sample.overdue_s >= SILENT_S
    if not waits and not away:
        return None
    last = _last_sent(reading, now)
    silent_s = now - (reading.started_at if last is None else last)
    return round(silent_s, 1) if silent_s >= SILENT_S else None


def _last_sent(reading: ProcessState, now: float) -> float | None:
    """When any dispatcher sent the last event, as far as is known; None: it is not known that any did."""
    found = [] if reading.published_at is None else [reading.published_at]
    sample = reading.sample
    for each in sample.sent if sample else ():
        if sample is None or each.name in reading.names or each.quiet_s is None:
            continue
        noted = sample.at - each.heard_s
        found.append(noted - each.quiet_s)
        if each.quiet_s < NOTE_EVERY_S:  # it was sending: perhaps up to its next note, or until Postgres went
            away = next((one.since for one in reading.troubles if one.kind == "database"), 0.0)
            found.append(min(now, max(noted + NOTE_EVERY_S, away)))
    return max(found, default=None)


def _levels(reading: ProcessState, lately: RecentWindow, silent_s: float | None, now: float) -> dict[str, str]:
    """The colour of each figure by its own threshold: "", "warn" or "bad"."""
    sample = reading.sample
    age = sample.overdue_s if sample else 0.0
    late = lately.p95_now is not None and lately.p95_now > SLA_S
    fresh = sample is not None and sample.newest_dead_at is not None and now - sample.newest_dead_at < FRESH_DEAD_S
    dead = sample.dead if sample else 0
    return {
        "events": "bad" if silent_s is not None else "",
        "latency": "bad" if silent_s is not None or late else "",
        "backlog": "bad" if age > VERY_LATE_S else "warn" if age > LATE_S else "",
        "dead": "" if not dead else "bad" if fresh else "warn",
    }


def _states(reading: ProcessState, levels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The states that are fine or not, each with its reason, and as bad as its finding (`levels`, by kind)."""
    troubles: dict[str, Trouble] = {trouble.kind: trouble for trouble in reading.troubles}
    if silent := troubles.get("doorbell"):
        troubles.setdefault("listener", replace(silent, reason=f"the trigger is {silent.reason}"))
        levels = {"listener": levels.get("doorbell", "warn"), **levels}
    names: tuple[TroubleKind, ...] = (
        "database",
        "redis",
        "listener",
        "backpressure",
        "audit",
        "paused",
        "layout",
        "slots",
        "disabled",
    )
    away = "database" in troubles
    rare: tuple[TroubleKind, ...] = ("handlers", "notify-queue", "refused")  # said only while they are there
    return [
        {
            "kind": name,
            "ok": name not in troubles,
            "known": name in troubles or not (away and name in POSTGRES_KNOWS),
            "level": levels.get(name, TROUBLES[name].level) if name in troubles else "fine",
            "reason": troubles[name].reason if name in troubles else None,
            "since": troubles[name].since if name in troubles else None,
        }
        for name in (*names, *(kind for kind in rare if kind in troubles))
    ]
