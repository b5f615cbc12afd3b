"""What to say of dispatchers that ended without signing off, or froze. Pure; asks no server."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from dispatcher.core.counted import counted
from dispatcher.core.findings.needs import Need, clock
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.process_state import EndedDispatcher

UNKNOWN = "unknown"  # the owner of rows that no dispatcher's row names
ENDED_S = 3600.0  # a dispatcher that died is said for so long
AGAIN, AGAIN_S = 4, 600.0  # so many within that time is no accident; the alert DispatcherRestarting has the same


def ended(
    found: Iterable[EndedDispatcher], living: Collection[str], now: float, started: Iterable[float] = ()
) -> Iterator[Need]:
    """Dispatchers of which rows were taken over within an hour. One that lost its session only lives on: `living`.

    `started`: when each that lives was started: one that was started after another died stands in for it.
    """
    by_name: dict[str, EndedDispatcher] = {}
    for each in found:
        known = by_name.get(each.name)
        rows = each.rows + known.rows if known else each.rows
        by_name[each.name] = replace(each, at=max(each.at, known.at) if known else each.at, rows=rows)
    gone = [each for each in by_name.values() if each.name not in living and each.name != UNKNOWN]
    gone = sorted((each for each in gone if now - each.at < ENDED_S), key=lambda one: one.at, reverse=True)
    lately = [each for each in gone if now - each.at < AGAIN_S]
    if len(lately) >= AGAIN:
        yield _again_and_again(lately, now)
        return
    new = sorted(started)
    for each in gone:
        again = new.pop() if new and new[-1] > each.at else None
        yield _once(each, again, now)


def _again_and_again(lately: list[EndedDispatcher], now: float) -> Need:
    """The newest comes first. That another one was started since is no answer: it ends as those did."""
    newest, first = lately[0], lately[-1]
    what = f"Dispatchers end again and again: {len(lately)} or more since {clock(first.at, now)}, "
    what += f"the last one {newest.name} at {clock(newest.at, now)}; their rows were taken over"
    do = (
        "Find out what ends them: `worker_ended` in the log has the exit code, or the signal with a minus (-9: killed, "
    )
    do += "most often for memory). No event is lost, but events are late, and handlers that had begun run again."
    return Need("warn", "ended", what, first.at, do, page="restarting")


def _once(each: EndedDispatcher, again: float | None, now: float) -> Need:
    """`again`: when another one was started in its place; None: none was."""
    how = "ended without signing off" if each.died else "gave no sign of life for the length of a lease"
    were = "was" if each.rows == 1 else "were"
    taken = f"; its {counted(each.rows, 'row')} {were} taken over" if each.rows else ", and had no rows"
    what = f"The dispatcher {each.name} {how}{taken}, at {clock(each.at, now)}"
    do = "Start it again, if so many are meant to run. Its log says why it ended, unless it was killed. Its events "
    do += "go out by others."
    if again is not None:
        what += f"; another was started since, at {clock(again, now)}"
        do = "Nothing to do."
    return Need("note", "ended", what, each.at, do, page=PAGES["ended"])
