"""How to install an extra of this distribution, as errors say it."""


def how_to_install(extra: str) -> str:
    """The checkout comes first: before the first release on PyPI it is the only way that works."""
    name = f"outbox-dispatcher[{extra}]"
    return f"pip install '.[{extra}]' in a checkout, or from PyPI, once released: pip install '{name}'"
