"""The difference between the servers' clocks: latencies and log times compare one with the other."""

import time
from collections.abc import Sequence

from dispatcher.core.findings.finding import Finding, bad, ok, warning
from dispatcher.infra.postgres.session import Session

BAD_S = 60.0


async def ahead_of_us(session: Session) -> float:
    """Seconds by which Postgres's clock is ahead of this machine's."""
    before = time.time()
    [(theirs,)] = await session.fetch("SELECT date_part('epoch', clock_timestamp())")
    return float(theirs) - (before + time.time()) / 2


def judge(ahead: Sequence[tuple[str, float]], warning_s: float) -> list[Finding]:
    """Judge how far each server's clock is ahead of this machine's; nothing to say with fewer than two servers."""
    by_server = dict(ahead)
    if len(by_server) < 2:
        return []
    apart = by_server["Redis"] - by_server["Postgres"]
    said = (
        f"Redis's clock is {abs(apart):.3f} s {'ahead of' if apart >= 0 else 'behind'} Postgres's "
        f"(and this machine's {0.0 - round(by_server['Postgres'], 3):+.3f} s against Postgres's)"
    )
    if abs(apart) < warning_s:
        return [ok("clocks", said)]
    remedy = "let both machines take their time from the same NTP servers (chronyc tracking)"
    return [(bad if abs(apart) >= BAD_S else warning)("clocks", said, remedy)]
