"""What of consumer groups needs a person: those nobody reads, those on some shards only, those that went with the data
of Redis. Pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from shlex import quote

from dispatcher.core.counted import counted
from dispatcher.core.findings.needs import Need, about, clock, lasting
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import Severity
from dispatcher.core.known_groups import KEPT_S, KnownGroup, Loss
from dispatcher.core.layout import stream_of_key
from dispatcher.core.pacing import HOLD_BACK_AT

UNREAD_S = 900.0  # a group with entries to read that nobody has read for so long is abandoned
SOON_S = 3600.0  # a group that stops publishing for all in less is bad


def reads(age_s: float | None, unread: int, consumers: int | None = None) -> str:
    """How a group that holds publishing back reads."""
    last = "has never read" if age_s is None else f"has not read for {lasting(age_s)}"
    many = "" if consumers is None else f", {counted(consumers, 'consumer')}"
    return f": it {last}{many}, {unread:,} unread"


def unread(group: str, lag: int, age_s: float | None, maxlen: int | None, at: float, rate: float | None = None) -> Need:
    """A group that nobody reads. `age_s` None: nobody ever has. `rate`: entries a second that it falls behind."""
    never = age_s is None
    nobody_reads = "Nobody has ever read the consumer group" if never else "Nobody reads the consumer group"
    what = f"{nobody_reads} {group}: {counted(lag, 'entry')} unread"
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


def put_away(dead: Mapping[str, int], since: float | None) -> Iterator[Need]:
    """What the consumers of each group gave up. `since`: when a dispatcher saw it first."""
    for group, events in sorted(dead.items(), key=lambda each: (-each[1], each[0])):
        what = f"Consumers of the group {group} have put {counted(events, 'event')} away: they failed too often there"
        name = quote(group)
        do = f"`dispatcher groups dead {name}` lists them. Mend the consumer, then "
        do += f"`dispatcher groups retry {name} --all`; what nobody needs: `dispatcher groups discard {name} ID`."
        yield Need("warn", "put-away", what, since, do, "groups", PAGES["put-away"])


def half_read(streams: Mapping[str, tuple[int, Collection[str]]]) -> Iterator[Need]:
    """Groups on some shards of a stream and not on others that hold entries. `streams`: by key, entries and groups."""
    shards: dict[str, list[tuple[int, Collection[str]]]] = {}
    for key, found in streams.items():
        shards.setdefault(stream_of_key(key), []).append(found)
    for stream, each in shards.items():
        for group in sorted({name for _, names in each for name in names}):
            left = [entries for entries, names in each if group not in names and entries]
            if not left:
                continue
            on = sum(group in names for _, names in each)
            what = f"The consumer group {group} reads {on} of {len(each)} shards of {stream}: "
            what += f"{len(left)} with {counted(sum(left), 'entry')} {'is' if len(left) == 1 else 'are'} not read by it"
            do = f"Let its consumers read all shards (`Group(..., shards={len(each)})`), or make the group on each key "
            do += "that `dispatcher layout` lists."
            yield Need("warn", "half-read", what, None, do, "groups", PAGES["half-read"])


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
