"""With 100,000 rows waiting and as many settled behind them, no statement touches more than a few times its batch.

Each file of sql/statements is planned by the real session, as a plan made while the table was empty, as a generic plan
with statistics and as a custom plan. A new file fails until it says here what it may touch.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dispatcher.infra import sqlfiles
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.stages.claim import new_claim_id
from tests.support.rows import STREAM, insert_events

pytestmark = pytest.mark.both_versions

WAITING, SETTLED, BATCH, WINDOW = 100_000, 100_000, 256, 1000
OURS, STOOD_STILL = new_claim_id(), new_claim_id()
CLAIMS = ["claim filtered", "claim split", "claim filtered split", "claim sharded", "settle_sent sharded"]
CLAIMS += ["claim filtered split handlers"]
OWNED = ["due_check owned", "doze owned"]
IN_ORDER = ["claim split sharded ordered", "claim_chosen sharded ordered", "peek ordered"]
INSERTS = {"prove_insert", "trial_insert"}  # read nothing, or the newest twenty rows
FILES = sorted(
    [
        *(
            {path.stem for path in (sqlfiles._folder("sql") / "statements").glob("*.sql")}
            - INSERTS
            - {"peek", "claim_chosen"}
        ),
        *CLAIMS,
        *OWNED,
        *IN_ORDER,
    ]
)

# Rows of message_outbox that one run may touch.
MAY_TOUCH = {
    "claim": 6 * BATCH,  # passes the rows that are held, locks its batch, updates it
    "claim filtered": 6 * BATCH,  # when the other types have nothing waiting; else pacing.FilteredScan
    "claim split": 6 * BATCH,
    "claim filtered split": 6 * BATCH,
    "claim filtered split handlers": 6 * BATCH,
    "claim sharded": 6 * BATCH,
    "claim split sharded ordered": 6 * BATCH,
    "claim_chosen sharded ordered": 2 * BATCH,
    "peek ordered": 6 * BATCH,
    "held_load": WAITING + 2 * BATCH + 2000,  # what is unsettled, and what is dead; once slots were got
    "held_check": BATCH,
    "mark_announced": 0,
    "settle_sent sharded": 2 * BATCH,
    "layout_set": WAITING + 2 * BATCH,  # what is unsettled; a person sets it
    "layout_state": 0,
    "subscriptions": 0,
    "read_row": BATCH,
    "trial_borrow": 400,  # its own bound; at a start
    "trial_settled": 1,
    "doctor_stranded": 10_000,  # its own bound
    "highest_id": 1,
    "writers": 1,
    "renew_claims": 2 * BATCH,
    "settle_sent": 2 * BATCH,
    "settle_retry": 2 * BATCH,
    "settle_dead": 2 * BATCH,
    "release": 2 * BATCH,
    "release everything": 2 * (WAITING + 2 * BATCH),  # what is unsettled; rare
    "due_check": 3 * BATCH,  # passes the rows that are held
    "doze": 3 * BATCH,
    "due_check owned": 3 * BATCH + 1000,  # and a window of foreign rows
    "doze owned": 3 * BATCH + 1000,
    "ring_owners": 3 * BATCH + 2 * 64,
    "slots_free": WAITING + 2 * BATCH,  # what is unsettled; once a dispatcher that died
    "list_claims": 3 * WINDOW,
    "adopt": 2 * (WAITING + 2 * BATCH),  # what is unsettled; rare
    "claims_of": WAITING + 2 * BATCH,  # what is unsettled; once a dispatcher that died
    "sequences_behind": 2,
    "deregister": WAITING + SETTLED + 2 * BATCH,  # what is unsettled; once a dispatcher
    "crash_since": 2 * (WAITING + 2 * BATCH),  # what is unsettled; after a crash
    "settle_found": 2 * BATCH,
    "sample": 5000 + 1000 + 400,  # its own bounds: the count, the first thousand, the first hundred of each kind
    "prune_outbox": 2 * WINDOW,  # one window, of which nothing is old: test_retention has the rest
    "prune_dlq": 0,
    "replay": 3 * BATCH,
    "replay_unsent": 2 * BATCH,
    "doctor_durability": 0,
    "dead_list": 2 * (100 + 1000),  # no further than the page, once from the rows and once beside the copies
    "dead_show": 2,
    "dead_stats": 1000 + 1000,  # every dead row, and beside every copy; a person asks
    "held": 5000 + 5000 + 1000 + BATCH,  # its own bounds, and with `hold` the dead rows; a person asks
    "retrying": 1000 + 5000 + 100 + 1000 + 1000,  # its own bounds; 5000, and the dead rows, with an order only
    "held_count": 5000 + 5000 + 1000,  # the same, for the gauges, only with order
    "held_retry": 3 * BATCH,
    "held_skip": 3 * BATCH,
    "count_dead": 1000 + 1000 + 100,  # the same up to its bound, and the hundred newest copies; while somebody watches
    "dead_retry": 4 * BATCH,
    "dead_discard": 5 * BATCH,
    "event_due": 2 * WINDOW,
    "event_walk": 2 * WINDOW,
    "event_discarded": 0,
    "event_show": 2,
    "event_counts": 5000,
    "event_copies": 0,
    "dead_retry_copy": 0,  # of rows that are there: their copies are replayed already
    "replay_find": WAITING + SETTLED + 2 * BATCH,  # a person asks; test_replay shows what a time range reads
    "prune_bounds": 4,
    "prune_count": WAITING + SETTLED + 2 * BATCH,  # a person asks
    "prove_rows": 2 * BATCH,
    "prove_clean": 2 * (WAITING + 2 * BATCH),  # what is unsettled; once a proof
    "status_counts": WAITING + SETTLED + 2 * BATCH,  # a person asks; documented so
} | dict.fromkeys([
        "audit_stream",  # of the run that is known; test_stream_audit has the rest
        "saw_stream", "note_stream", "status_losses", "why_copy", "accept_copy", "stream_elsewhere",
        "count_dispatchers", "ring_all", "rings_waiting",
        "note_newest", "mark_unbroken", "all_dispatchers",
        "dead_dispatchers", "end_sessions", "end_former", "not_at_work", "enrol", "evict", "enrol_again",
        "fence", "id_taken", "rights", "status_dispatchers", "status_doorbell", "status_idle",
        "slots_state", "slots_take", "slots_release", "slots_revoke", "slots_fenced", "slots_summary", "sessions_of",
        "pause_state", "pause_set", "pause_acknowledge", "pause_forget", "pause_progress",
        "doctor_server", "doctor_trigger", "doctor_indexes", "doctor_storage", "doctor_durability",
        "doctor_sessions", "doctor_snapshots", "triggers_of_others", "subscriptions",
    ],
    0,
)  # fmt: skip

PARAMETERS: dict[str, object] = {
    "now": None,
    "dispatcher": 7,
    "claim_id": OURS,
    "claim_ids": [OURS],
    "floor": "1748779200000-5",
    "mark": None,
    "after_time": "-infinity",
    "after_us": None,
    "before_us": None,
    "after_id": 0,
    "fresh_time": "-infinity",
    "fresh_id": 0,
    "fresh": BATCH,
    "slots": 256,
    "mask": "\\x" + "ff" * 32,
    "owned": 256,
    "epochs": 0,
    "running": [],
    "parked": [],
    "waiting_types": [],
    "by_id": [],
    "most": 1000,
    "limit": BATCH,
    "most_bytes": 1_048_576,
    "due": "0001-01-01 00:00:00+00",
    "usage": True,
    "lows": [0],
    "highs": [255],
    "wanted": [1],
    "at_epochs": [1],
    "may_own": 256,
    "seen_at": None,
    "proof_events": False,
    "json": "{}",
    "types": ["mail.sent"],
    "handled": False,
    "since_s": None,
    "window": WINDOW,
    "older_than_s": 604_800.0,
    "outbox_s": 604_800.0,
    "dlq_s": 604_800.0,
    "marks": [0] * BATCH,
    "ours": "2030-06-01 00:00:00+00",
    "since": None,
    "until": None,
    "event_types": None,
    "aggregate_types": None,
    "aggregate_ids": None,
    "event_ids": None,  # dead_retry: of rows known by their ids
    "before_id": None,
    "event_id": None,
    "event_type": None,
    "of_others": True,
    "aggregate_type": None,
    "last_error": None,
    "error_code": None,
    "error_like": None,
    "hold": True,
    "holds": True,
    "heads": True,
    "ordered": True,
    "status": "retry",
    "any_id": "nobody",
    "message_id": None,
    "aggregate_id": None,
    "offset": 1000,
    "payload": False,
    "groups": 100,
    "batch": WINDOW,
    "errors": ["ERR"] * BATCH,
    "places": [None] * BATCH,
    "by": "test",
    "costs": [1] * BATCH,
    "delays": [1.0] * BATCH,
    "stream_ids": ["9-1"] * BATCH,
    "bound": 5000,
    "pids": [1],
    "self": 7,
    "owner": None,
    "claims": [OURS],
    "picked_without_claim": False,
    "still_claims": [STOOD_STILL],
    "still_at": ["2025-06-01 00:00:00+00"],
    "rows": [1],
    "picked_at": ["2025-06-01 00:00:00+00"],
    "token": "deadbeef",
    "id": 1,
    "stream": STREAM,
    "streams": [STREAM],
    "run_ids": ["run"],
    "replids": ["data set"],
    "lives": [0],
    "newest_ids": ["0-0"],
    "entries": [0],
    "seen_marks": [None],
    "keys": [STREAM] * BATCH,
    "key": None,
    "layout": "",
    "is_default": True,
    "fingerprint": "0",
    "spec": "{}",
    "former": [STREAM],
    "first": False,
    "run_id": "run",
    "replid": "data set",
    "several": False,
    "may_fall": False,
    "left_out": [1],
    "escaped": False,
    "address": "localhost:6379/0",
    "settle": True,
    "life": 0,
    "newest_id": "0-0",
    "added": 0,
    "turn": None,
    "below": None,
    "why": None,
    "so_far": 0,
    "last_id": "0-0",
    "since_id": "0-0",
    "window_s": 60.0,
    "at_most": BATCH,
    "name": "test",
    "paused": True,
    "changed_by": "test",
    "reason": None,
    "generation": 1,
    "in_flight": 0,
    "condition": None,
    "host": "test",
    "pid": 1,
    "version": "1",
}


class Planner:
    """Prepares each statement on one session, as psycopg would, and reads the plan of one run that is undone."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._arguments: dict[str, list[str]] = {}

    async def prepare(self, name: str) -> None:
        names: list[str] = []

        def number(match: re.Match[str]) -> str:
            if match[1] not in names:
                names.append(match[1])
            return f"${names.index(match[1]) + 1}"

        statement = sqlfiles.load(
            name.split(" ")[0],
            filtered=" filtered" in name,
            split=" split" in name,
            handlers=" handlers" in name,
            sharded=" sharded" in name,
            owned=" owned" in name,
            ordered=" ordered" in name,
        )
        text = re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%")
        self._arguments[name] = names
        await self._session.script(f'PREPARE "{name}" AS {text}')

    async def plan(self, name: str, parameters: dict[str, object]) -> dict[str, Any]:
        values = [f"{sql.Literal(parameters[each]).as_string()}" for each in self._arguments[name]]
        arguments = f"({', '.join(values)})" if values else ""
        await self._session.fetch("BEGIN")
        [(plans,)] = await self._session.fetch(
            f'EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE "{name}" {arguments}'.replace("%", "%%")
        )
        await self._session.fetch("ROLLBACK")
        plan: dict[str, Any] = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
        return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def touched(plan: dict[str, Any]) -> int:
    """Rows of message_outbox that the plan's scans read, kept or not."""
    rows: float = sum(
        node["Actual Loops"]
        * (
            node["Actual Rows"]
            + node.get("Rows Removed by Filter", 0)
            + node.get("Rows Removed by Index Recheck", 0)
            + node.get("Rows Removed by Join Filter", 0)
        )
        for node in nodes(plan)
        if node.get("Relation Name") == "message_outbox" and node["Node Type"] != "ModifyTable"
    )
    return round(rows)


def scans_all(plan: dict[str, Any]) -> bool:
    return any(
        node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "message_outbox" for node in nodes(plan)
    )


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    session = await connect(PostgresTarget(database_url, "test"), "lane")
    session.treat_as_pooled()  # psycopg throws all prepared statements away at a ROLLBACK, ours too
    yield session
    await session.close()


async def fill(db: psycopg.AsyncConnection[Any]) -> list[int]:
    """Settled rows, overdue and held ones, our own batch, and what waits; returns the ids of our batch."""
    await db.execute("SET dispatcher.doorbell = off")
    await insert_events(db, SETTLED - 1000, status="sent", sent_at="9000-01-01 00:00:00+00")
    await insert_events(db, 1000, status="dead")
    held = {"status": "picked", "picked_by": 7}
    await insert_events(db, BATCH, claim_id=STOOD_STILL, picked_at="2025-06-01 00:00:00+00", **held)
    ours = await insert_events(db, BATCH, claim_id=OURS, picked_at="9000-01-01 00:00:00+00", **held)
    await insert_events(db, WAITING)
    return ours


@pytest.mark.timeout(400)
@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed while empty"])
async def test_no_statement_touches_more_than_it_must(session, db, analyzed):
    assert {*FILES, "release everything"} == {*MAY_TOUCH}, "say in MAY_TOUCH what a new statement may touch"
    await db.execute("ALTER TABLE messaging.message_outbox SET (autovacuum_enabled = off)")
    await db.execute(
        "INSERT INTO messaging.stream_server (stream, run_id, replid, last_id) VALUES (%s, 'run', 'data set', '0-0')",
        (STREAM,),
    )
    await db.execute("UPDATE messaging.slot_owner SET owner = 7")
    planner = Planner(session)
    empty = PARAMETERS | {"ids": [1]}
    await session.fetch("SET plan_cache_mode = force_generic_plan")
    if analyzed:  # an outbox is empty most of the time, and that is when autovacuum looks at it
        await db.execute("VACUUM ANALYZE messaging.message_outbox")
    for name in FILES:
        await planner.prepare(name)
        await planner.plan(name, empty)
    ours = await fill(db)

    found: list[str] = []

    async def check(phase: str) -> None:
        for name, may_touch in MAY_TOUCH.items():
            parameters = PARAMETERS | {"ids": None if name == "release everything" else ours}
            if name == "renew_claims":
                parameters["claim_ids"] = [OURS] * len(ours)
            plan = await planner.plan(name.removesuffix(" everything"), parameters)
            rows, everything = (
                touched(plan),
                scans_all(plan) and name not in ("status_counts", "replay_find", "prune_count"),
            )
            if rows > may_touch or everything:
                found.append(f"{phase}: {name} touches {rows} rows, may {may_touch}; sequential scan: {everything}")
            if name in (
                "claim",
                *CLAIMS,
                "claim split sharded ordered",
                "peek ordered",
                "renew_claims",
                "settle_sent",
                "settle_retry",
                "settle_dead",
                "release",
                "list_claims",
            ):
                assert rows >= BATCH, f"{phase}: {name} had nothing to do, which proves nothing"

    await check("planned while empty")
    if analyzed:
        assert not found, "\n".join(found)
        return  # the rest is the same as without
    await db.execute("ANALYZE messaging.message_outbox")
    await check("generic")
    await session.fetch("SET plan_cache_mode = force_custom_plan")
    await check("custom")
    assert not found, "\n".join(found)
