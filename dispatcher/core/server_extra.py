"""Importing this module fails, and says what to install, where a dependency of the server is missing.

Each package of the server imports it first: without it the first import that fails would name some library, not the
extra to install.
"""

from importlib.util import find_spec

from dispatcher.core.install import how_to_install

# Import names of the extra `server` in pyproject.toml.
NEEDED = (
    "aiohappyeyeballs",
    "aiohttp",
    "anyio",
    "click",
    "hiredis",
    "loguru",
    "prometheus_client",
    "psycopg",
    "redis",
    "rich",
)

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ImportError(f"the server is not installed; run: {how_to_install('server')} (missing: {', '.join(missing)})")
