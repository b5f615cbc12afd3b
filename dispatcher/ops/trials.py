"""Each trial of a statement runs it as this role, and rolls back. Rights on paper are not enough.

A grant, a policy, a constraint, a trigger or a function of somebody else may refuse what the catalogue seems to allow;
events would then be published and never settled. Works on a row of its own, through a transaction pooler too, beside
dispatchers that run: no event, no notification and no lock outlives it, and a lock of others is waited for briefly.

Which statements are tried, and with which parameters, is in `trial_list.py`.
"""

from dataclasses import dataclass
from typing import Literal

import psycopg

from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.core.findings.remedies import GIVE_RIGHTS
from dispatcher.core.findings.troubles import MIGRATE
from dispatcher.infra.postgres.session import Session, describe
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.trial_list import TRIALS, Trial, of_row, parameters

UNSUPPORTED = "0A000"  # of a rule on a table of ours; a session does not outlive it

# Somebody holds a lock, the server has no room or stops: it may be well a moment later.
_PASSING = ("40", "53", "55P03", "57")
# Of an INSERT: a dispatcher can do without; `doctor` tells.
_NO_MATTER = ("23505", "42501")


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial. `words`: the server's own, with its SQLSTATE. "skipped": there was no row to try it on."""

    trial: Trial
    result: Literal["ok", "refused", "busy", "skipped"]
    words: str = ""
    sqlstate: str | None = None

    @property
    def remedy(self) -> str:
        """What to do about a refusal."""
        match (self.sqlstate or "")[:2]:
            case "42" if self.sqlstate == "42501":
                return f"{GIVE_RIGHTS}; where it names what is Postgres's own (pg_...), a superuser has to GRANT that"
            case "42" if self.sqlstate == "42P10":
                return (
                    "a publication has a part of the table: ALTER PUBLICATION ... SET (publish = 'insert'), "
                    "or leave the table out of it"
                )
            case "42":
                return f"as the owner: {MIGRATE}"
            case "55" if self.sqlstate == "55000":
                return (
                    "ALTER TABLE ... REPLICA IDENTITY DEFAULT (FULL where there is no primary key), or leave the table "
                    "out of the publication"
                )
            case _:
                return "change the constraint, column, trigger or setting that refuses it: none of ours does"


async def run_trials(session: Session, *, at_start: bool = False) -> list[Tried]:
    """Try everything. `at_start`: only what a start has to know. Raises SessionLost, or psycopg.Error."""
    async with session.exclusive():
        return await _run_trials(session, at_start)


async def _run_trials(session: Session, at_start: bool) -> list[Tried]:
    known = parameters()
    found: list[Tried] = []
    # Constraints that wait for the commit would never be checked.
    await session.script(
        "BEGIN; SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '5s'; SET CONSTRAINTS ALL IMMEDIATE"
    )
    try:
        there = True
        for trial in TRIALS:
            if at_start and not trial.at_start:
                continue
            if not there and trial.name not in ("insert", "add-event"):
                found.append(Tried(trial, "skipped", "there is no row to try it on"))
                continue
            tried = await _try(session, trial, known)
            found.append(tried)
            if trial.name == "insert" and tried.result != "ok":
                there = await _borrow(session, known)
            elif trial.name == "claim":
                there = tried.result == "ok"
    finally:
        if not session.closed:
            await session.script("ROLLBACK")
    return found


async def require_trials(session: Session, where: str) -> None:
    """Raises Misconfigured when a dispatcher would harm, or do nothing. What may pass by itself is passed over."""
    try:
        found = await run_trials(session, at_start=True)
    except SessionLost as error:
        if UNSUPPORTED not in str(error):
            raise
        raise Misconfigured(
            f"{where} refuses what a dispatcher has to do: claim: {error}. Remedy: drop the rule"
        ) from None
    refused = [tried for tried in found if tried.result == "refused" and tried.trial.needed]
    settles = any(tried.trial.name == "claim" and tried.result == "ok" for tried in found)
    # What waits in the outbox goes out, whether another row may be added or not.
    refused = [each for each in refused if each.trial.name != "insert" or not (settles or each.sqlstate in _NO_MATTER)]
    # A claim that is refused does no harm, and is tried again until somebody allows it; `/ready` says so meanwhile.
    refused = [each for each in refused if each.trial.name != "claim" or (each.sqlstate or "").startswith("42")]
    if not refused:
        return
    said = "; ".join(f"{tried.trial.name}: {tried.words}" for tried in refused)
    raise Misconfigured(
        f"{where} refuses what a dispatcher has to do (tried in a transaction that was rolled back): {said}. "
        f"Remedy: {refused[0].remedy}{await name_triggers(session)}. `dispatcher doctor` tries it again"
    )


async def name_triggers(session: Session) -> str:
    """The triggers of others that an update of the outbox fires, to be put behind a remedy. Raises SessionLost."""
    names = [name for (name,) in await session.fetch(load("triggers_of_others"), once=True)]
    return f" (it may be one of these triggers: {', '.join(names)})" if names else ""


async def _try(session: Session, trial: Trial, known: dict[str, object]) -> Tried:
    await session.script("SAVEPOINT trial")
    values = known | dict(trial.changes)
    try:
        rows = [await session.fetch(text, values) for text in trial.texts()][-1]
    except psycopg.Error as error:
        if session.closed:
            raise
        await session.script("ROLLBACK TO SAVEPOINT trial")
        if error.sqlstate is not None and error.sqlstate == trial.expect:
            return Tried(trial, "ok")
        result: Literal["busy", "refused"] = "busy" if (error.sqlstate or "").startswith(_PASSING) else "refused"
        return Tried(trial, result, _words(error), error.sqlstate)
    rows = [row for row in rows if row[:1] != (None,)]  # a trigger undid it
    kept = trial.keep and len(rows) >= trial.rows
    await session.script("RELEASE SAVEPOINT trial" if kept else "ROLLBACK TO SAVEPOINT trial")
    if trial.expect is not None:
        return Tried(trial, "refused", f"SQLSTATE {trial.expect} was expected, and it did not come")
    if len(rows) < trial.rows:
        return Tried(trial, "refused", "no row was changed, and no error said why: a trigger or a policy keeps it so")
    return Tried(trial, "ok")


async def _borrow(session: Session, known: dict[str, object]) -> bool:
    """Work on a settled row instead. False: there is none."""
    await session.script("SAVEPOINT borrow")
    try:
        rows = await session.fetch(load("trial_borrow"), known)
    except psycopg.Error:
        if session.closed:
            raise
        await session.script("ROLLBACK TO SAVEPOINT borrow")
        return False
    if rows:
        known |= of_row(rows[0][0])
    return bool(rows)


def _words(error: psycopg.Error) -> str:
    """What the server said, and which constraint or function said it. None of these quotes a row."""
    named = [
        f"{what} {name}"
        for what, name in (
            ("table", error.diag.table_name),
            ("column", error.diag.column_name),
            ("constraint", error.diag.constraint_name),
            ("in", _outermost(error.diag.context or "")),
        )
        if name
    ]
    return describe(error) + (f" ({', '.join(named)})" if named else "")


def _outermost(context: str) -> str:
    """The function that was called first. Before it statements may stand that a trigger has put together of the row."""
    function = context.rpartition("\n")[2]
    return "" if '"' in function else function
