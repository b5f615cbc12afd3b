"""`dispatcher doctor`: makes every check that an operator would make by hand, and names each remedy."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace

import anyio
import click

from dispatcher.commands.options import (
    LAYOUT,
    database,
    json_output,
    layout_of,
    postgres_target,
    redis_url,
    settings_from,
    stream_name,
)
from dispatcher.commands.tables import say
from dispatcher.core.findings.finding import SETUP, Finding
from dispatcher.core.findings.runbook import address, page_of
from dispatcher.infra.postgres.pooler import PoolerCheck
from dispatcher.ops.doctor import Examination, examine
from dispatcher.ops.doctor.guarantees import JudgedGuarantee, judge

STATEMENT_S = 10.0
WORST = ("bad", "warning", "unknown", "ok")  # the worst first: of forty lines it is the one to read
COLOURS = {"warning": "yellow", "bad": "red", "unknown": "cyan"}
ELSEWHERE = "see "  # so begins the remedy that another check has
HOLDS = {"at a cost": "yellow", "no": "red", "not known": "cyan"}


@click.command()
@click.option("--no-trigger", is_flag=True, help="The doorbell trigger is absent on purpose (migrate --no-trigger).")
@click.option("--strict", is_flag=True, help="A warning, and what could not be checked, count as bad.")
@database
@click.option(
    "--listen-url",
    metavar="URL",
    help="A direct connection, if the database URL leads to a pooler.  [DISPATCH_LISTEN_URL]",
)
@redis_url
@stream_name
@json_output
def doctor(no_trigger: bool, strict: bool, as_json: bool, **flags: str | None) -> int:
    """Check Postgres, Redis, the outbox and the stream, and name a remedy for each fault.

    Changes nothing. Run it with the dispatcher's settings and role, because it checks the rights of that role. The
    consumer groups are judged by the MAXLEN of the dispatchers that run; without one, by that of this environment.

    \b
    ok       nothing to do
    warning  works, at a cost
    bad      events are late, stopped or at risk: exit code 1
    unknown  this role or user lacks the right to check it

    Each finding says, as `status` does, whether it needs somebody: now, by
    morning, or no.

    Then it says of each guarantee whether it holds on these servers, and which
    check takes it away. With --strict the exit code is 1 unless all is ok: for
    a deployment that must not go on with less.
    """
    more = ("listen_url", "redis_url", "handlers", "unrouted", *LAYOUT, "stream_maxlen", "backpressure_except")
    settings = settings_from(flags, *more)
    database, listening = (
        postgres_target(settings, STATEMENT_S),
        postgres_target(settings, STATEMENT_S, url=settings.get("listen_url")),
    )
    check = PoolerCheck()
    findings = anyio.run(
        examine,
        Examination(
            replace(database, pooler_check=check),
            # One answer for one pooler: a small one has no room to be tried twice.
            replace(listening, pooler_check=check if listening.conninfo == database.conninfo else PoolerCheck()),
            settings.get("redis_url", ""),
            layout_of(settings),
            settings["stream_maxlen"],
            trigger=not no_trigger,
            exempt=settings["backpressure_except"],
        ),
    )
    judged = judge(findings, stream=bool(settings.get("redis_url")))
    bad = sum(finding.level == "bad" for finding in findings)
    if as_json:
        answer = {
            "bad": bad,
            "findings": [asdict(each) | {"page": _page(each), "runbook": address(_page(each))} for each in findings],
            "guarantees": [asdict(each) for each in judged],
        }
        click.echo(json.dumps(answer))
    else:
        show(sorted(findings, key=lambda each: WORST.index(each.level)), judged)
    return 1 if bad or (strict and any(finding.level != "ok" for finding in findings)) else 0


def _page(finding: Finding) -> str | None:
    """Of the runbook, where there is something to do."""
    elsewhere = finding.remedy is None or finding.remedy.startswith(ELSEWHERE)
    return None if elsewhere else finding.page or page_of(finding.check)


def show(findings: list[Finding], judged: list[JudgedGuarantee]) -> None:
    """The worst first, a line each with what to do below it; then how the servers are set up, which is the same
    tomorrow; then what is ok; then the guarantees; then the counts of the findings.
    """
    setup = [each for each in findings if each.check in SETUP and each.level == "warning"]
    told = [each for each in findings if each not in setup]
    _show_findings(each for each in told if each.level != "ok")
    if setup:
        say("notes on the setup (what to do: --json):", colour=COLOURS["warning"])
    for each in setup:
        say(f"{each.check}: {each.found}", indent="    ")
    _show_findings(each for each in told if each.level == "ok")
    for promise in judged:
        because = f" (because of: {', '.join(promise.because)})" if promise.because else ""
        say(f"holds here: {promise.holds}: {promise.says}{because}", colour=HOLDS.get(promise.holds))
    counts = {level: sum(each.level == level for each in findings) for level in reversed(WORST)}
    click.echo(", ".join(f"{count} {level}" for level, count in counts.items() if count))


def _show_findings(findings: Iterable[Finding]) -> None:
    for each in findings:
        say(f"{each.level}: {each.check}: {each.found}", colour=COLOURS.get(each.level))
        if each.remedy:
            say(each.remedy, indent="    ")
        if each.level in ("bad", "warning") and each.remedy and not each.remedy.startswith(ELSEWHERE):
            page = _page(each)
            say(f"Needs somebody: {each.needs_somebody}.{f' Runbook: {address(page)}' if page else ''}", indent="    ")
