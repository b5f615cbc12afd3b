"""What `status` says of what the dispatchers tell of themselves."""

import pytest

from dispatcher.core.findings.condition import Condition, ToldTrouble
from dispatcher.ops.attention import waits

SINCE = "2026-12-01T03:00:00Z"


@pytest.mark.parametrize(
    ("old", "new", "level", "what"),
    [
        (1, 0, "bad", "Nothing is claimed for the streams: another layout"),
        (2, 0, "bad", "Nothing is claimed for the streams: another layout (2 of 2 dispatchers)"),
        (
            2,
            1,
            "warn",
            "Some dispatchers claim nothing for the streams, the others do: another layout (2 of 3 dispatchers)",
        ),
    ],
)
def test_in_the_middle_of_a_change_of_layout_those_with_the_new_one_claim(
    old: int, new: int, level: str, what: str
) -> None:
    of_old = Condition(stream="s", told=(ToldTrouble("layout", "another layout", SINCE),))
    [need] = waits([of_old] * old + [Condition(stream="s")] * new)
    assert (need.level, need.what) == (level, what)
