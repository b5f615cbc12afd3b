"""The order: whether dispatchers with these settings may own slots, and whether each slot has an owner."""

from dispatcher.core.counted import counted
from dispatcher.core.findings.finding import Finding, bad, ok, warning
from dispatcher.core.layout import SLOTS, Layout
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

MOMENT_S = 10.0  # a handover takes less


async def order(session: Session, ours: Layout) -> Finding:
    """Check the owners of the slots. Only with an order."""
    if session.pooled:
        return bad(
            "order",
            "DATABASE_URL leads through a transaction pooler, behind which a dispatcher that froze cannot be cut off: "
            "with an order none starts there",
            "a direct connection in DATABASE_URL, and no DISPATCH_LISTEN_URL; or DISPATCH_ORDER=none",
        )
    rows = await session.fetch(load("slots_summary"))
    owned = sum(count for _, _, state, count, _ in rows if state == "owned")
    owners = len({owner for owner, _, state, _, _ in rows if state == "owned"})
    said = f"{ours.order}: {owned} of {SLOTS} slots have an owner, {counted(owners, 'dispatcher')}"
    if owned == SLOTS:
        return ok("order", said)
    others = "; ".join(
        f"{count} {state}{f', of {name or owner}' if owner else ''}"
        for owner, name, state, count, _ in rows
        if state != "owned"
    )
    if min(age_s for _, _, state, _, age_s in rows if state != "owned") < MOMENT_S:
        return warning("order", f"{said} ({others}), since a moment ago", "run it again: a handover takes a second")
    return warning(
        "order",
        f"{said} ({others}): events of the others wait",
        "start a dispatcher that is no canary; if one runs, see docs/runbook/slots-without-owner.md",
    )
