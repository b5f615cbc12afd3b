"""The oracle: what must hold after any fault, by the ledger, the table, the stream, the dead letters and the audit."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg

from tests.support.faults.claims import Claims
from tests.support.faults.load import Ledger
from tests.support.faults.order import Place, find_disorder
from tests.support.faults.results import Measured

SLA_S = 1.5
BUCKET_S = 0.25
SLACK_S = 10.0  # what a busy machine may add to a limit of the product


@dataclass(frozen=True, slots=True)
class Allowance:
    """What this fault may cost. By default nothing."""

    duplicates: int = 0
    dead: int = 0
    attempts: bool = False  # the fault is the rows' own
    stolen: bool = False  # from outside, the living look dead: their sessions were cut
    phantoms: bool = False  # the stream may hold what Postgres itself lost
    disorder: bool = True  # within an aggregate: not with DISPATCH_ORDER=aggregate


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything there is to see, once all is quiet. Times of the wall clock."""

    ledger: Ledger
    rows: dict[str, tuple[str, int]]  # status and attempts by event_id
    dead_letters: set[str]
    stream: list[tuple[str, float]]  # event_id and when it was added
    claims: Claims
    lease_s: float
    healed: float
    places: dict[str, Place] = field(default_factory=dict)  # of the events, within their aggregates


async def read_rows(db: psycopg.AsyncConnection[Any]) -> dict[str, tuple[str, int]]:
    """Status and attempts by event_id."""
    cursor = await db.execute("SELECT event_id::text, status, attempts FROM messaging.message_outbox")
    return {event: (status, attempts) for event, status, attempts in await cursor.fetchall()}


def judge(seen: Seen, allowed: Allowance, fault: str, test: str) -> tuple[Measured, list[str]]:
    """What was measured, and every promise that does not hold."""
    in_stream = Counter(event for event, _ in seen.stream)
    delivered = in_stream.keys() | seen.dead_letters
    must = seen.ledger.acknowledged.keys() | seen.rows.keys()
    missing = must - delivered
    doubled = in_stream.total() - len(in_stream)
    dead = [event for event, (status, _) in seen.rows.items() if status == "dead"]
    phantoms = in_stream.keys() - seen.rows.keys()
    unsettled = {event: status for event, (status, _) in seen.rows.items() if status not in ("sent", "dead")}
    tried = [event for event, (status, attempts) in seen.rows.items() if attempts and status != "dead"]
    problems = []
    if missing:
        problems.append(f"{len(missing)} committed events are neither in the stream nor dead: {_some(missing)}")
    if lost := seen.ledger.acknowledged.keys() - seen.rows.keys():
        problems.append(f"Postgres lost {len(lost)} acknowledged events: {_some(lost)}")
    if phantoms and not allowed.phantoms:
        problems.append(f"{len(phantoms)} events in the stream were never committed: {_some(phantoms)}")
    if ghosts := in_stream.keys() & seen.ledger.rolled_back:
        problems.append(f"{len(ghosts)} events in the stream were rolled back: {_some(ghosts)}")
    if doubled > allowed.duplicates:
        twice = [event for event, times in in_stream.items() if times > 1]
        problems.append(f"{doubled} duplicates, {allowed.duplicates} allowed: {_some(twice)}")
    if len(dead) > allowed.dead:
        problems.append(f"{len(dead)} dead rows, {allowed.dead} allowed: {_some(dead)}")
    if unsettled:
        problems.append(f"{len(unsettled)} rows are not settled: {Counter(unsettled.values())}")
    if tried and not allowed.attempts:
        problems.append(f"{len(tried)} rows were charged an attempt: {_some(tried)}")
    if seen.claims.longest_held_s > seen.lease_s + 1.0 + SLACK_S:
        problems.append(f"a claim was held for {seen.claims.longest_held_s:.1f} s, the lease is {seen.lease_s:g} s")
    if seen.claims.stolen and not allowed.stolen:
        problems.append(f"{len(seen.claims.stolen)} rows taken from the living: {seen.claims.stolen[:3]}")
    problems += seen.claims.broken[:3]
    order = find_disorder((event for event, _ in seen.stream), seen.places)
    if order.overtaken and not allowed.disorder:
        some = [f"{event} {seen.places[event]}" for event in order.overtaken[:3]]
        problems.append(f"{len(order.overtaken)} events came after a later one of their aggregate: {some}")
    disordered = None if allowed.disorder else len(order.overtaken)
    measured = replace(_measure(seen, fault, test, len(missing), doubled, len(dead)), disordered=disordered)
    return measured, problems


def _measure(seen: Seen, fault: str, test: str, missing: int, doubled: int, dead: int) -> Measured:
    added: dict[str, float] = {}
    for event, at in seen.stream:
        added.setdefault(event, at)
    committed = sorted((at, event) for event, at in seen.ledger.acknowledged.items() if event in added)
    new = [(at, added[event] - at) for at, event in committed if at > seen.healed]
    old = [added[event] for at, event in committed if at <= seen.healed]
    after = [at for _, at in seen.stream if at > seen.healed]
    recovered = recovered_at(new, seen.healed)
    late = [latency for at, latency in new if recovered is not None and at >= recovered]
    return Measured(
        fault=fault,
        test=test,
        committed=len(seen.ledger.acknowledged),
        missing=missing,
        doubled=doubled,
        dead=dead,
        first_s=round(min(after) - seen.healed, 3) if after else None,
        caught_up_s=round(max(0.0, max(old) - seen.healed), 3) if old else None,
        recovered_s=None if recovered is None else round(recovered - seen.healed, 3),
        p95_s=round(max(0.0, p95(late)), 4) if late else None,
        held_s=round(max(0.0, seen.claims.longest_held_s), 3),
    )


def recovered_at(new: list[tuple[float, float]], healed: float) -> float | None:
    """When, by time of commit, p95 was under the SLA for good: the end of the last quarter of a second it was not.

    `new`: (committed at, latency) of events committed after the heal. None when it never was.
    """
    buckets: dict[int, list[float]] = {}
    for at, latency in new:
        buckets.setdefault(int((at - healed) / BUCKET_S), []).append(latency)
    if not buckets:
        return None
    slow = [number for number, latencies in buckets.items() if p95(latencies) >= SLA_S]
    if not slow:
        return healed
    return None if max(slow) == max(buckets) else healed + (max(slow) + 1) * BUCKET_S


def p95(values: list[float]) -> float:
    """The 95th percentile: the smallest value that at least 95 % do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]


def _some(events: Any) -> str:
    return ", ".join(sorted(events)[:3])
