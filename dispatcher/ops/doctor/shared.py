"""The findings that `status` has too: no dispatcher that takes events, what is held or dead, groups nobody reads."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import psycopg

from dispatcher.core.errors import DispatcherError
from dispatcher.core.findings.finding import LEVEL_OF, Finding
from dispatcher.core.layout import Layout
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.attention import Attention, attention
from dispatcher.ops.doctor.activity import BACKLOG_DO
from dispatcher.ops.status import read_status

CHECKS = {
    "nobody": "dispatchers",
    "disabled": "dispatchers",
    "held": "held",
    "retrying": "retrying",
    "unread": "groups",
    "half-read": "groups",
    "put-away": "groups",
    "lost": "groups",
    "dead": "dead-events",
    "paused": "pause",
    "doorbell": "trigger",
    "snapshot": "snapshot",
    "notify-queue": "notify-queue",
}
REPLACED = {
    "dispatchers",
    "dead-events",
    "pause",
    "trigger",
    "notify-queue",
    "snapshot",
}  # checks that ask less than `status`


async def read_needs(where: PostgresTarget, redis_url: str, layout: Layout) -> list[Attention]:
    """What `status` would say. Empty when it cannot: the other checks say why."""
    with suppress(DispatcherError, psycopg.Error):
        return [each for each in attention(await read_status(where, redis_url, layout)) if each.kind in CHECKS]
    return []


def with_needs(found: Sequence[Finding], said: Sequence[Attention]) -> list[Finding]:
    """Both: what `status` says replaces the check of the dispatchers, and names the cause of a backlog."""
    if not said:
        return list(found)
    mine = [
        Finding(CHECKS[each.kind], LEVEL_OF[each.level], _words(each), each.do, each.page, each.needs_somebody)
        for each in said
    ]
    checks = {each.check for each in mine}
    kept = [each for each in found if each.check not in checks & REPLACED]
    if any(each.kind == "lost" for each in said):  # that there is no group is what is wrong
        kept = [each for each in kept if not (each.check == "groups" and each.found.startswith("no consumer group"))]
    if "held" in checks:  # those that are dead hold their aggregates: one thing to decide
        kept = [replace(each, remedy="see held") if each.check == "dead-events" else each for each in kept]
    causes = ", ".join(dict.fromkeys(each.check for each in mine if each.check not in ("groups", "dead-events")))
    return [
        *mine,
        *(
            replace(each, remedy=f"see {causes}")
            if causes and each.check == "backlog" and each.remedy == BACKLOG_DO
            else each
            for each in kept
        ),
    ]


def _words(need: Attention) -> str:
    since = "the latest died at" if need.kind == "dead" else "since"
    return f"{need.what}; {since} {need.since}" if need.since else need.what
