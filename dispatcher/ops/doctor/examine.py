"""Runs every check, on both servers at once. A check that fails is a finding, and the others still run.

It has no OperatorSession: missing tables, a read-only server and a refused connection are findings here, not errors.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.findings.condition import Condition
from dispatcher.core.findings.finding import Finding, bad, unknown
from dispatcher.core.layout import Layout
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.doctor import activity, clocks, listening, order, schema, sessions, storage
from dispatcher.ops.doctor import postgres as server
from dispatcher.ops.doctor.cluster import look_at_all
from dispatcher.ops.doctor.redis import RedisFacts
from dispatcher.ops.doctor.shared import read_needs, with_needs
from dispatcher.ops.doctor.stream import of_streams
from dispatcher.ops.layout import standing_layout
from dispatcher.ops.pause import read_acknowledgements

DoctorCheck = Callable[[Session], Awaitable[Finding]]


@dataclass(frozen=True, slots=True)
class Examination:
    """What to check. `trigger`: whether it should be installed. `redis_url` "": no event goes to the stream."""

    database: PostgresTarget
    listening: PostgresTarget
    redis_url: str
    layout: Layout
    maxlen: int
    trigger: bool = True
    exempt: tuple[str, ...] = ()  # groups that hold nothing back
    snapshot_warning_s: float = 300.0
    snapshot_bad_s: float = 3600.0
    listen_timeout_s: float = 10.0
    clock_warning_s: float = 1.0
    dead_rows: int = 50_000  # fewer dead row versions are no problem
    redis_full: float = 0.9  # the share of maxmemory from which it counts as full


async def examine(wanted: Examination) -> list[Finding]:
    """All findings, in the order to read them. Never raises: a server that is away is a finding too."""
    ours, wanted = wanted.layout, replace(wanted, layout=await standing_layout(wanted.database, wanted.layout))
    postgres: list[Finding] = []
    redis: list[Finding] = []
    clock: list[tuple[str, float]] = []
    conditions: list[Condition] = []
    seen: list[dict[str, RedisFacts]] = []

    async def ask_postgres() -> None:
        postgres.extend(await _postgres(wanted, ours, clock, conditions))

    async def ask_redis() -> None:
        findings, facts = await look_at_all(
            wanted.redis_url,
            wanted.layout.keys,
            wanted.database.connect_timeout_s,
            full_share=wanted.redis_full,
            in_order=wanted.layout.order != "none",
        )
        redis.extend(findings)
        if facts:
            seen.append(facts)
            first = next(iter(facts.values()))
            if first.ahead_s is not None:
                clock.append(("Redis", first.ahead_s))

    async with anyio.create_task_group() as both:
        both.start_soon(ask_postgres, name="Postgres")
        if wanted.redis_url:
            both.start_soon(ask_redis, name="Redis")
    for facts in seen:
        redis += _stream(facts, wanted, conditions)
    # Not beside the others: its session would be one of those that `sessions` looks at.
    needs = await read_needs(wanted.database, wanted.redis_url, wanted.layout)
    if not wanted.trigger:  # its absence is wanted
        needs = [each for each in needs if each.kind != "doorbell"]
    return with_needs([*postgres, *redis, *clocks.judge(clock, wanted.clock_warning_s)], needs)


def _stream(facts: Mapping[str, RedisFacts], wanted: Examination, conditions: Sequence[Condition]) -> Sequence[Finding]:
    """Judged by the settings of the dispatchers that run; where none says them, by those of this environment."""
    said = next((each for each in conditions if each.stream == wanted.layout.stream and each.maxlen), None)
    maxlen, exempt = (said.maxlen, said.exempt) if said and said.maxlen else (wanted.maxlen, wanted.exempt)
    return of_streams(facts, maxlen, exempt)


async def _postgres(
    wanted: Examination, ours: Layout, clock: list[tuple[str, float]], conditions: list[Condition]
) -> list[Finding]:
    """`ours`: the layout of the settings, which may be another one than that of the examination, which stands."""
    try:
        session = await connect(wanted.database, "doctor")
    except DispatcherError as error:
        return [
            bad("postgres", str(error), "start Postgres, or correct what the message names; nothing else was checked")
        ]
    try:
        found = [*await server.check_server(session, wanted.database)]
        if not any(each.check == "primary" and each.level == "bad" for each in found):
            found.append(
                await _safely(
                    "listen",
                    partial(listening.check_listening, target=wanted.listening, timeout_s=wanted.listen_timeout_s),
                    session,
                )
            )
        found.append(tables := await _safely("tables", schema.tables, session))
        if tables.level != "ok":
            return found
        for name, check in _checks(wanted, ours, found):
            found.append(await _safely(name, check, session))
        with suppress(psycopg.Error):  # `dispatchers` says why
            conditions += [each.condition for each in await read_acknowledgements(session.fetch)]
            found += activity.waits(conditions)
        try:
            found.extend(await schema.trials(session))
        except psycopg.Error as error:
            found.append(unknown("try-claim", f"could not be tried: {describe(error)}", "run it again"))
        clock.append(("Postgres", await clocks.ahead_of_us(session)))
    except (SessionLost, psycopg.Error) as error:
        found.append(
            bad("postgres", f"the connection broke: {describe(error)}", "run it again; see the log of Postgres")
        )
    finally:
        await session.close()
    return found


def _checks(wanted: Examination, ours: Layout, found: Sequence[Finding]) -> list[tuple[str, DoctorCheck]]:
    """What is asked of a server that has our tables, in this order. `found`: what was found so far, as it grows."""
    return [
        ("rights", schema.rights),
        ("home", schema.home),
        ("trigger", partial(schema.trigger, wanted=wanted.trigger)),
        ("indexes", schema.indexes),
        ("sequences", schema.sequences),
        ("durability", storage.durability),
        ("fsync", storage.fsync),
        ("storage", storage.settings),
        ("autovacuum", storage.autovacuum),
        ("dead-rows", partial(storage.dead_rows, few=wanted.dead_rows)),
        (
            "snapshot",
            lambda session: activity.snapshot(
                session,
                warning_s=wanted.snapshot_warning_s,
                bad_s=wanted.snapshot_bad_s,
                piled_up=any(each.check == "dead-rows" and each.level != "ok" for each in found),
            ),
        ),
        ("notify-queue", activity.notify_queue),
        ("dispatchers", activity.dispatchers),
        ("sessions", sessions.sessions),
        ("pause", activity.pause),
        ("layout", partial(activity.layout, ours=ours, used=bool(wanted.redis_url))),
        *([("order", partial(order.order, ours=wanted.layout))] if wanted.layout.order != "none" else []),
        ("backlog", activity.backlog),
        ("dead-events", activity.dead_events),
        ("losses", activity.losses),
    ]


async def _safely(name: str, check: DoctorCheck, session: Session) -> Finding:
    try:
        return await check(session)
    except psycopg.errors.InsufficientPrivilege as error:
        return bad(
            name,
            f"this role may not check: {describe(error)}",
            "grant it the role outbox_dispatcher (`dispatcher sql roles`)",
        )
    except psycopg.Error as error:
        return unknown(name, f"could not be checked: {describe(error)}", "run it again, as a role that has the right")
