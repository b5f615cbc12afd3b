"""The one way in which this program writes a point in time for a person or a script."""

from datetime import UTC, datetime


def iso(moment: datetime, timespec: str = "microseconds") -> str:
    """ISO 8601 in UTC: 2026-11-28T22:03:51.868105Z. `moment` must have a time zone."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def iso_of(seconds: float) -> str:
    """The same for Unix seconds, to the millisecond."""
    return iso(datetime.fromtimestamp(seconds, UTC), "milliseconds")


def seconds_of(written: str) -> float | None:
    """Unix seconds of an RFC 3339 time; None: it is none."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        return None
