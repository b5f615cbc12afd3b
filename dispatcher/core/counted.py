"""A number with its noun: no sentence says "1 rows". Pure."""

_PLURALS = {"entry": "entries", "key": "keys", "copy": "copies"}


def counted(number: int, noun: str) -> str:
    """As "1 row", "0 rows", "12,345 entries". `noun`: in the singular."""
    return f"{number:,} {noun if number == 1 else _PLURALS.get(noun, noun + 's')}"
