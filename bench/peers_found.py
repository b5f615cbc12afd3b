"""What `peers` finds of each relay, and what follows from it."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.report import Target, complete

OURS = "dispatcher"
AHEAD = 1.6
RATES = (50.0, 500.0)


@dataclass(slots=True)
class Found:
    """What was measured of one peer."""

    per_second: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    postgres_s_per_1000: list[float] = field(default_factory=list)
    latency_ms: dict[float, list[tuple[float, float]]] = field(default_factory=dict)  # by rate: p50 and p99 of each leg
    cores: dict[float, list[tuple[float, float]]] = field(default_factory=dict)  # by rate: its own and Postgres's share

    def at(self, rate: float, which: int) -> float | None:
        """The median p50 (0) or p99 (1) at this rate, ms; None: it fell behind."""
        return median(leg[which] for leg in self.latency_ms[rate]) if rate in self.latency_ms else None

    lost: int = 0
    duplicated: int = 0

    def row(self, name: str) -> dict[str, str]:
        """A line of the table."""

        def shown(rate: float, which: int) -> str:
            ms = self.at(rate, which)
            return "fell behind" if ms is None else f"{ms:.2f}"

        def share(rate: float) -> str:
            legs = self.cores.get(rate, [])
            return " / ".join(f"{median(leg[which] for leg in legs):.0%}" for which in (0, 1)) if legs else ""

        return {
            "relay": name,
            "backlog, events/s": f"{median(self.per_second):,.0f}",
            "CPU s / 1,000: its own / Postgres's": (
                f"{median(self.cpu_s_per_1000):.4f} / {median(self.postgres_s_per_1000):.4f}"
            ),
            **{f"{rate:g}/s p50 ms": shown(rate, 0) for rate in RATES},
            **{f"{rate:g}/s p99 ms": shown(rate, 1) for rate in RATES},
            **{f"{rate:g}/s CPU: its own / Postgres's": share(rate) for rate in RATES},
            "lost": f"{self.lost:,}",
            "doubled": f"{self.duplicated:,}",
        }

    def raw(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "per_second": self.per_second,
            "cpu_s_per_1000": self.cpu_s_per_1000,
            "postgres_s_per_1000": self.postgres_s_per_1000,
            "latency_ms": {f"{rate:g}": [self.at(rate, 0), self.at(rate, 1)] for rate in self.latency_ms},
            "legs_ms": {f"{rate:g}": legs for rate, legs in self.latency_ms.items()},
            "cores": {f"{rate:g}": legs for rate, legs in self.cores.items()},
            "lost": self.lost,
            "duplicated": self.duplicated,
        }


def judged(found: dict[str, Found]) -> list[Target]:
    """Ours against the best of the others."""
    ours, others = found[OURS], {name: each for name, each in found.items() if name != OURS}
    best = max(others, key=lambda name: median(others[name].per_second))
    ratio = median(ours.per_second) / median(others[best].per_second)
    targets = [
        complete("ours:", ours.lost, ours.duplicated),
        Target(f"{ratio:.2f} times the backlog rate of the best peer ({best}), wanted ≥ {AHEAD:g}", ratio >= AHEAD),
    ]
    for rate in RATES:
        for which, name in enumerate(("p50", "p99")):
            rivals = [ms for each in others.values() if (ms := each.at(rate, which)) is not None]
            mine = ours.at(rate, which) or float("inf")
            if rivals:
                text = f"{rate:g}/s: {name} {mine:.2f} ms, the best peer's {min(rivals):.2f}"
                targets.append(Target(text, mine < min(rivals)))
    return targets
