"""What of consumer groups needs a person: those nobody reads, those on some shards only, those that went with the data
of Redis. Pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from dispatcher.core.counted import counted
from dispatcher.core.dead_stream import LastPutAway
from dispatcher.core.findings.needs import Need, about, clock, lasting
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import Severity
from dispatcher.core.known_groups import KEPT_S, KnownGroup, Loss
from dispatcher.core.layout import keys_without, stream_of_key
from dispatcher.core.pacing import HOLD_BACK_AT

UNREAD_S = 900.0  # a group with entries to read that nobody has read for so long is abandoned
GOES_ON_S = 60.0  # an event was put away within so long, of
SEVERAL = 3  # at least: one that fails is one bad event, not a consumer that fails
SOON_S = 3600.0  # a group that stops publishing for all in less is bad


def reads(age_s: float | None, unread: int, consumers: int | None = None, reader: str | None = None) -> str:
    """How a group that holds publishing back reads. `reader`: its consumer that read last."""
    last = "has never read" if age_s is None else f"has not read for {lasting(age_s)}"
    last += f" (last: {reader})" if reader and age_s is not None else ""
    many = "" if consumers is None else f", {counted(consumers, 'consumer')}"
    return f": it {last}{many}, {unread:,} unread"


def unread(
    group: str,
    lag: int,
    age_s: float | None,
    maxlen: int | None,
    at: float,
    rate: float | None = None,
    reader: str | None = None,
) -> Need:
    """A group that nobody reads. `age_s` None: nobody ever has. `rate`: entries a second that it falls behind;
    `reader`: its consumer that read last, which says whose it is.
    """
    never = age_s is None
    nobody_reads = "Nobody has ever read the consumer group" if never else "Nobody reads the consumer group"
    what = f"{nobody_reads} {group}: {counted(lag, 'entry')} unread"
    what += f"; its consumer {reader} read last" if reader and not never else ""
    if rate is None and age_s:
        rate = lag / age_s
    left_s = None if not rate or not maxlen or rate <= 0 else max(0.0, (HOLD_BACK_AT * maxlen - lag) / rate)
    if left_s is not None:
        what += f"; stops publishing for all in about {about(left_s)}"
    level: Severity = "bad" if left_s is not None and left_s < SOON_S else "note" if never else "warn"
    do = f"Start its consumers. If nobody needs it any more, `dispatcher groups destroy {quote(group)}`, or exempt it "
    do += "(DISPATCH_BACKPRESSURE_EXCEPT): at nine tenths of REDIS_STREAM_MAXLEN it stops publishing for all."
    return Need(
        level, "unread", what, None if age_s is None else float(round(at - age_s)), do, "groups", PAGES["unread"]
    )


def put_away(
    dead: Mapping[str, int],
    since: float | None,
    last: Mapping[str, LastPutAway],
    now: float,
    rates: Mapping[str, float] | None = None,
) -> Iterator[Need]:
    """What the consumers of each group gave up. `since`: when a dispatcher saw it first; `rates`: events a second.

    While it goes on it needs somebody now: more events are lost to that group with each second.
    """
    for group, events in sorted(dead.items(), key=lambda each: (-each[1], each[0])):
        what = f"Consumers of the group {group} have put {counted(events, 'event')} away: they failed too often there"
        latest, rate = last.get(group), (rates or {}).get(group, 0.0)
        goes_on = events >= SEVERAL and latest is not None and now - latest.at < GOES_ON_S
        if goes_on:
            what += f"; still going on{f', {_rate(rate)}' if rate > 0 else ''}"
        elif latest is not None:
            what += f"; the last at {clock(latest.at, now)}"
        what += f"; the last error: {latest.error}" if latest is not None and latest.error else ""
        name = quote(group)
        do = f"`dispatcher groups dead {name}` lists them. Mend the consumer, then "
        do += f"`dispatcher groups retry {name} --all`; what nobody needs: `dispatcher groups discard {name} ID`."
        yield Need("bad" if goes_on else "warn", "put-away", what, since, do, "groups", PAGES["put-away"])


def _rate(rate: float) -> str:
    return f"{rate:,.0f} a second" if rate >= 1 else f"{max(1.0, rate * 60):.0f} a minute"


@dataclass(frozen=True, slots=True)
class SeenShard:
    """One key as it is looked at: its entries, its groups, when the oldest entry was added (None: not known).

    `reading`: those of its groups that have read there, or have nothing to read.
    """

    entries: int
    groups: Collection[str]
    reading: Collection[str]
    oldest: float | None = None


def half_read(shards: Mapping[str, SeenShard]) -> Iterator[Need]:
    """Groups that read some shards of a stream, and not others that hold entries. `shards`: by key.

    That a group was made on a shard is not enough: by hand it is made in a second, and nobody reads it.
    """
    for (stream, group), without in keys_without({key: each.reading for key, each in shards.items()}).items():
        left = [shards[key] for key in without if shards[key].entries]
        if not left:
            continue
        of = sum(stream_of_key(key) == stream for key in shards)
        what = f"The consumer group {group} reads {of - len(without)} of {of} shards of {stream}: "
        what += f"{len(left)} with {counted(sum(each.entries for each in left), 'entry')} "
        what += f"{'is' if len(left) == 1 else 'are'} not read by it"
        do = (
            f"Tell its consumers the number of shards (`Group(..., shards={of})`), and start them again: they make the "
        )
        do += "group where it is missing, and read all of it. `dispatcher groups` lists the shards."
        since = min((each.oldest for each in left if each.oldest is not None), default=None)
        yield Need("warn", "half-read", what, since, do, "groups", PAGES["half-read"])


def not_read(shards: Mapping[str, SeenShard]) -> dict[str, int]:
    """By group the entries of the shards that it is not on, though it is on others: no lag counts them."""
    found = dict[str, int]()
    for (_, group), without in keys_without({key: each.groups for key, each in shards.items()}).items():
        found[group] = found.get(group, 0) + sum(shards[key].entries for key in without)
    return found


def lost(loss: Loss | None, gone: Sequence[KnownGroup], now: float) -> Need | None:
    """Redis lost data within a day. `gone`: groups that were there before, and nobody has made since."""
    if loss is not None and now - loss.at >= KEPT_S:
        loss = None
    if loss is None and not gone:
        return None
    since = loss.at if loss else min(each.gone or now for each in gone)
    what = f"Redis lost data, which was noticed at {clock(since, now)}"
    if loss is not None:
        again = "event was" if loss.rows == 1 else "events were"
        what += f": {loss.rows:,} {again} published again"
    older = "Events older than DISPATCH_AUDIT_WINDOW_S: `dispatcher replay`."
    if not gone:
        return Need("note", "lost", what, since, f"Nothing, for those. {older}", "groups", PAGES["lost"])
    names = ", ".join(each.name for each in gone)
    are = "group {} is gone: nobody reads for it" if len(gone) == 1 else "groups {} are gone: nobody reads for them"
    what += f". The consumer {are.format(names)} since then"
    do = f"Restart its consumers, or `XGROUP CREATE {gone[0].stream} {gone[0].name} 0`. {older}"
    if len(gone) > 1:
        do = f"Restart their consumers, or for each `XGROUP CREATE {gone[0].stream} {gone[0].name} 0`. {older}"
    return Need("warn", "lost", what, since, f"{do} A group that nobody needs is said for a day.", "groups",
                PAGES["lost"])  # fmt: skip
