"""A number with its noun: no sentence says "1 rows". Pure."""

_PLURALS = {"batch": "batches", "copy": "copies", "entry": "entries", "primary": "primaries", "process": "processes"}


def counted(number: int, noun: str) -> str:
    """As "1 row", "0 rows", "12,345 dead entries". `noun`: in the singular, its last word the noun itself."""
    before, space, last = noun.rpartition(" ")
    return f"{number:,} {before}{space}{last if number == 1 else _PLURALS.get(last, last + 's')}"
