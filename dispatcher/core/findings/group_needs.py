"""What of consumer groups needs a person: those on some shards only, those that went with the data of Redis. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from dispatcher.core.counted import counted
from dispatcher.core.findings.needs import Need, clock
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.known_groups import KEPT_S, KnownGroup, Loss
from dispatcher.core.layout import stream_of_key


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
