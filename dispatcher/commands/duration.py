"""Durations as a person types them: 7d, 12h, 30m, 0s."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_S = 36_500 * 86_400


def seconds_of(text: str) -> float | None:
    """The duration in seconds; None when the text is no duration, or one of more than a hundred years."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw])", text)
    if not found:
        return None
    seconds = float(found[1]) * _UNITS[found[2]]
    return seconds if seconds <= _LONGEST_S else None


def duration(seconds: float) -> str:
    """The inverse: in the largest unit, up to days, of which it is a whole number."""
    for unit in "dhm":
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"
