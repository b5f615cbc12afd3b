"""The stream: whether the key is one, and how near each group is to losing unread entries to trimming."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dispatcher.core.counted import counted
from dispatcher.core.decide import Refused
from dispatcher.core.findings.condition import is_exempt
from dispatcher.core.findings.finding import Finding, bad, ok, unknown, warning
from dispatcher.core.pacing import HOLD_BACK_AT
from dispatcher.infra.redis.replies import text_of
from dispatcher.ops.doctor.redis import RedisFacts

LAGS = 0.5  # share of MAXLEN


def of_streams(facts: Mapping[str, RedisFacts], maxlen: int, exempt: Sequence[str]) -> list[Finding]:
    """What is found of each stream; of several that are well, one finding for all of them."""
    found = [
        (name, finding)
        for name, each in facts.items()
        for finding in [stream_type(each, name), *groups(each, name, maxlen, exempt)]
    ]
    if len(facts) == 1:
        return [finding for _, finding in found]
    told = [
        replace(finding, found=f"{name}: {finding.found}") if finding.check == "groups" else finding
        for name, finding in found
        if finding.level != "ok"
    ]
    lengths = [each.replies["XLEN"] for each in facts.values()]
    if all(finding.level == "ok" for _, finding in found if finding.check == "stream"):
        entries = sum(length for length in lengths if isinstance(length, int))
        told.insert(0, ok("stream", f"{counted(len(facts), 'key')} hold {counted(entries, 'entry')}"))
    if all(finding.level == "ok" for _, finding in found if finding.check == "groups"):
        names = {group["name"] for each in facts.values() for group, _ in each.groups}
        told.append(
            ok("groups", f"none of {counted(len(names), 'group')} lags" if names else "no consumer group on any key")
        )
    return told


def stream_type(facts: RedisFacts, name: str) -> Finding:
    """Check that the key is a stream, and stays."""
    length, expires_ms = facts.replies["XLEN"], facts.replies["PTTL"]
    if isinstance(expires_ms, int) and expires_ms >= 0:
        said = f"the key '{name}' expires in {expires_ms / 1000:.0f} s: every entry goes, the unread ones too"
        return bad("stream", said, f"PERSIST {name}, and find out who sets it to expire")
    if isinstance(length, int):
        said = (
            f"'{name}' holds {counted(length, 'entry')}"
            if length
            else f"'{name}' is empty or not there yet; the first event makes it"
        )
        return ok("stream", said)
    text = length.text if isinstance(length, Refused) else ""
    if text.startswith("WRONGTYPE"):
        remedy = f"set another DISPATCH_STREAM_NAME, or RENAME '{name}' (TYPE '{name}' says what it is)"
        return bad("stream", f"the key '{name}' is not a stream: nothing can be published", remedy)
    return unknown("stream", f"could not be asked: {text.split(' ', 1)[0]}", f"ACL SETUSER <user> ~{name} +xlen")


def groups(facts: RedisFacts, name: str, maxlen: int, exempt: Sequence[str] = ()) -> Iterator[Finding]:
    """One finding a group, the slowest first; one finding when there is no group.

    `maxlen`, `exempt`: as the running dispatchers have them.
    """
    found = facts.replies["XINFO"]
    if isinstance(found, Refused) and "no such key" not in found.text:
        if not found.text.startswith("WRONGTYPE"):
            yield unknown(
                "groups", f"could not be asked: {found.text.split(' ', 1)[0]}", f"ACL SETUSER <user> ~{name} +xinfo"
            )
        return
    if not facts.groups:
        yield ok("groups", "no consumer group: what a reader without one misses, MAXLEN trims unseen")
        return
    lags = sorted(((lag, group) for group, lag in facts.groups), key=lambda pair: -pair[0])
    for lag, group in lags:
        called = text_of(group["name"])
        if is_exempt(called, exempt):
            lost = "; what it has not read is trimmed" if lag >= maxlen else ""
            yield ok(
                "groups",
                f"group {called} has {counted(lag, 'entry')} to read; it is exempt, and holds nothing back{lost}",
            )
        else:
            yield _group(called, lag, group, maxlen)


def _group(name: str, lag: int, group: dict[str, Any], maxlen: int) -> Finding:
    unread = f"{counted(lag, 'entry')} to read, {lag / maxlen:.1%} of MAXLEN {maxlen}"
    said = f"group {name} has {unread}; {group['pending']} read and not acknowledged"
    remedy = "start or speed up its consumers; a group nobody uses: "
    remedy += f"`dispatcher groups destroy {name}`, or exempt it (DISPATCH_BACKPRESSURE_EXCEPT)"
    if lag >= HOLD_BACK_AT * maxlen:
        return bad("groups", f"{said}: claiming waits for it", remedy)
    if lag >= LAGS * maxlen:
        return warning("groups", said, remedy)
    if lag and not group["consumers"]:
        return warning("groups", f"{said}; it has no consumer", remedy)
    if group["pending"] >= LAGS * maxlen:
        remedy = "let its consumers acknowledge (XACK) and take over what was abandoned (XAUTOCLAIM)"
        return warning("groups", said, remedy)
    return ok("groups", said)
