"""A point in time as it is written, also one that Python has not."""

import pytest

from dispatcher.core.findings.needs import clock
from dispatcher.core.timestamps import iso_of

YEAR_1 = -62_135_596_800.0  # what Go and C# write for no time


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (YEAR_1, "0001-01-01T00:00:00.000Z"),
        (YEAR_1 - 0.5, "0001-01-01T00:00:00.000Z"),
        (float("-inf"), "0001-01-01T00:00:00.000Z"),
        (float("inf"), "9999-12-31T23:59:59.000Z"),
        (float("nan"), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_beyond_those_of_python(seconds: float, written: str) -> None:
    """An event of the year 1 that is late began, by a clock that is half a second behind, in the year 0."""
    assert iso_of(seconds) == written
    assert clock(seconds)
