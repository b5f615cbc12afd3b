"""The verdict: nothing lost, nothing doubled, p95 under the 1.5 s of the SLA."""

from dataclasses import dataclass

from dispatcher.core.counted import counted
from dispatcher.demo.histogram import Histogram
from dispatcher.demo.tally import Tally

SLA_P95_MS = 1500.0

DemoCheck = tuple[bool, str]  # whether it speaks against the run, and the reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """Passed when there is no reason against it; `word` is for the table and for scripts."""

    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def word(self) -> str:
        return "met" if self.passed else "BROKEN"


def late(latency: Histogram, of: str = "") -> DemoCheck:
    """Fails when the p95 is not under the SLA (SLA_P95_MS, milliseconds). `of`: which events, for the text."""
    p95_ms = latency.quantile(0.95) / 1e6
    return p95_ms >= SLA_P95_MS, f"p95{of} is {p95_ms:,.0f} ms, the SLA is under {SLA_P95_MS:,.0f} ms"


def judge(tally: Tally, sent: int, exit_code: int, *others: DemoCheck) -> Verdict:
    """`sent`: rows Postgres calls sent at the end. `exit_code`: the dispatcher's, after it was asked to stop."""
    checks = (
        (tally.committed == 0, "nothing was committed"),
        (tally.lost > 0, f"{counted(tally.lost, 'committed event')} never reached the consumer"),
        (tally.duplicated > 0, f"{counted(tally.duplicated, 'entry')} reached the consumer a second time"),
        (tally.foreign > 0, f"{counted(tally.foreign, 'entry')} reached the consumer that nobody committed"),
        *others,
        (sent != tally.committed, f"marked sent: {counted(sent, 'row')}; committed: {tally.committed:,}"),
        (exit_code != 0, f"the dispatcher ended with exit code {exit_code} when asked to stop"),
    )
    return Verdict(tuple(reason for broken, reason in checks if broken))
