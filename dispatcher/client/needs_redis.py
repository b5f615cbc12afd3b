"""Importing this module fails, and says what to install, where redis-py is missing.

What reads the stream imports it first: the bare ModuleNotFoundError named a module, and no package to install.
"""

from importlib.util import find_spec

if find_spec("redis") is None:
    raise ModuleNotFoundError("reading the stream needs redis-py; run: pip install redis", name="redis")
