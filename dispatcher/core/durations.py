"""Times that a program gives as timedeltas: a number has no unit."""


def no_timedelta(name: str, given: object) -> str:
    """The message for something else than a timedelta, with what to write in its place."""
    seconds = f"{given:g}" if isinstance(given, int | float) and not isinstance(given, bool) else "5"
    return f"{name} must be a timedelta, not {type(given).__name__}: {name}=timedelta(seconds={seconds})"
