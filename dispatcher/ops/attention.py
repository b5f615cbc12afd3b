"""What needs somebody, first what does so most: of what `status` read, in the words of the console."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dispatcher.core.condition import STOPS, is_exempt
from dispatcher.core.counted import counted
from dispatcher.core.timestamps import iso, iso_of
from dispatcher.core.troubles import TROUBLES, held_words
from dispatcher.ops.groups import UNREAD_S
from dispatcher.ops.status import OutboxStatus, Status

LATE_S, VERY_LATE_S = 5.0, 60.0  # the oldest event is overdue for longer
FRESH_DEAD_S = 900.0
DECIDE = "`dispatcher dlq stats`; mend the cause, then `dlq retry`; `dlq discard` what nobody needs."
COUNTED = 10_000  # dead events are counted no further


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs somebody. `since`: RFC 3339; None: not known; of dead events, when the latest died.

    `do`: the next step.
    """

    level: Literal["warn", "bad"]
    kind: str
    what: str
    since: str | None
    do: str


def attention(found: Status) -> list[Attention]:
    """A standing stop first, then lateness, then dead events, then what works at a cost; empty: all is well."""
    listed = [*_stops(found)]
    stopped = bool(listed)
    if (outbox := found.outbox) is not None:
        if not stopped:
            listed += _late(outbox)
        listed += _dead(outbox)
        listed += _held(outbox)
        listed += [each for each in _waits(outbox) if each.kind not in STOPS]
        if outbox.doorbell == "disabled":
            listed.append(
                Attention("warn", "doorbell", "The doorbell trigger is disabled: events go out on the tick", None,
                          "ALTER TABLE messaging.message_outbox ENABLE TRIGGER message_outbox_doorbell")
            )  # fmt: skip
    return [*listed, *_unread(found)]


def _stops(found: Status) -> Iterator[Attention]:
    outbox = found.outbox
    if outbox is not None and outbox.copy:
        yield Attention("bad", "copy", outbox.copy, None, "`dispatcher accept-copy`, when it is the outbox now.")
    if outbox is not None:  # before what we cannot reach ourselves: it says since when
        yield from (each for each in _waits(outbox) if each.kind in STOPS)
    for problem in found.problems:
        yield Attention("bad", "unreachable", problem, None, "Bring it back: events wait in Postgres meanwhile.")
    if outbox is None:
        return
    if outbox.pause.paused:
        why = f" ({outbox.pause.reason})" if outbox.pause.reason else ""
        since = iso(outbox.pause.changed_at) if outbox.pause.changed_at else None
        yield Attention(
            "warn",
            "paused",
            f"Paused by {outbox.pause.changed_by}{why}, so no event is taken",
            since,
            TROUBLES["paused"][2],
        )
    if not outbox.acknowledgements:
        waiting = outbox.oldest_unsettled_age_s > LATE_S
        yield Attention(
            "bad" if waiting else "warn",
            "nobody",
            "No dispatcher runs enabled" + (", and events wait" if waiting else ""),
            iso_of(outbox.now - outbox.oldest_unsettled_age_s) if waiting else None,
            "Start one: DISPATCHER_ENABLED=true dispatcher run",
        )


def _waits(outbox: OutboxStatus) -> Iterator[Attention]:
    """What the dispatchers say of themselves, each once, since the first of them has it."""
    said: dict[tuple[str, str | None, str | None], list[tuple[str, str, str]]] = {}
    for each in outbox.acknowledgements:
        for wait in each.condition.waits:
            where = f" of stream {each.condition.stream} (MAXLEN {each.condition.maxlen})"
            what = wait.what + (where if wait.kind == "backpressure" else "")
            said.setdefault((wait.kind, wait.reason, each.condition.stream), []).append((wait.since, what, wait.do))
    for (kind, _, _), waits in said.items():
        since, what, do = min(waits)
        all_of = len(outbox.acknowledgements)
        many = f" ({len(waits)} of {all_of} dispatchers)" if all_of > 1 else ""
        yield Attention("bad" if kind in STOPS else "warn", kind, what + many, since, do)


def _late(outbox: OutboxStatus) -> Iterator[Attention]:
    age_s = outbox.oldest_unsettled_age_s
    if age_s > LATE_S:
        yield Attention(
            "bad" if age_s > VERY_LATE_S else "warn",
            "late",
            f"Events wait: the oldest is {age_s:.0f} s overdue",
            iso_of(outbox.now - age_s),
            "If the backlog falls, wait. If it grows, start another dispatcher. If it stands: `dispatcher doctor`.",
        )


def _dead(outbox: OutboxStatus) -> Iterator[Attention]:
    if not outbox.dead:
        return
    one = outbox.dead == 1
    many = f"more than {COUNTED}" if outbox.dead > COUNTED else f"{outbox.dead}"
    error = f"; the latest error: {outbox.newest_dead_error}" if outbox.newest_dead_error else ""
    fresh = outbox.newest_dead_at is not None and outbox.now - outbox.newest_dead_at < FRESH_DEAD_S
    yield Attention(
        "bad" if fresh else "warn",
        "dead",
        f"{many} event{' is dead and waits' if one else 's are dead and wait'} for a decision{error}",
        None if outbox.newest_dead_at is None else iso_of(outbox.newest_dead_at),
        DECIDE,
    )


def _held(outbox: OutboxStatus) -> Iterator[Attention]:
    if outbox.held is not None and outbox.held.aggregates:
        level, what = held_words(outbox.held)
        if level in ("warn", "bad"):
            do = "`dispatcher held list`; mend the cause, then `held retry`; `held skip` what nobody needs."
            since = iso_of(outbox.now - outbox.held.oldest_s)
            yield Attention("bad" if level == "bad" else "warn", "held", what, since, do)


def _unread(found: Status) -> Iterator[Attention]:
    exempt = next((each.condition.exempt for each in found.outbox.acknowledgements), ()) if found.outbox else ()
    for group in found.stream.groups if found.stream else ():
        age_s = group.last_read_age_s
        if group.lag and not is_exempt(group.name, exempt) and age_s is not None and age_s > UNREAD_S:
            yield Attention(
                "warn",
                "unread",
                f"Nobody reads the consumer group {group.name}: {counted(group.lag, 'entry')} unread",
                iso_of(found.now - age_s),
                "`dispatcher groups`; start its consumers, or destroy or exempt it: it will stop publishing for all.",
            )
