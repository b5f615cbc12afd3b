"""`python -m pytest -p tests.support.left_open`: what a test leaves open fails that test, and not a later one.

A connection that nobody closed says so when it is collected. One that is in a cycle, as each session of ours is, is
collected at any time after, and the test that runs then fails for it. Costs 1 to 11 ms a test: for a hunt.
"""

import gc
import sys

import pytest
from _pytest.unraisableexception import collect_unraisable

_frozen = pytest.StashKey[str]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the fixtures have ended."""
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # else what a fixture gave lives until the next test
    for kept in ("last_exc", "last_value", "last_traceback"):  # else the frames of one that failed do
        vars(sys).pop(kept, None)
    gc.collect()
    collect_unraisable(item.config)
    if item.config.stash.get(_frozen, "") != str(item.path):
        item.config.stash[_frozen] = str(item.path)
        gc.freeze()  # what is there by now is not looked through after each test: 100 ms in place of 2
