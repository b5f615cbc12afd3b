"""The one way in which this program writes a point in time for a person or a script."""

from datetime import UTC, datetime

_FIRST_S, _LAST_S = -62_135_596_800.0, 253_402_300_799.0  # the years 1 and 9999


def iso(moment: datetime, timespec: str = "microseconds") -> str:
    """ISO 8601 in UTC: 2026-11-28T22:03:51.868105Z. `moment` must have a time zone."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def moment_of(seconds: float) -> datetime:
    """Of Unix seconds; of a time that Python has not, the nearest that it has.

    An event of 0001-01-01, which Go and C# write for none, is that old: by a clock that is behind it is of the year 0.
    """
    return datetime.fromtimestamp(min(max(_FIRST_S, seconds), _LAST_S), UTC)


def iso_of(seconds: float) -> str:
    """ISO 8601 of Unix seconds, to the millisecond."""
    return iso(moment_of(seconds), "milliseconds")


def seconds_of(written: str) -> float | None:
    """Unix seconds of an RFC 3339 time; None: it is none."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        return None
