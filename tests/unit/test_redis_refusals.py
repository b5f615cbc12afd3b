"""What to do about a reply of Redis stands in one table, and none of core/outages.py is missing there."""

import pytest

from dispatcher.core import outages
from dispatcher.core.findings.redis_refusals import REFUSALS, remedy_of

NAMES = [name for each in REFUSALS for name in each.names]
CODES = outages.PASSING | outages.NEEDS_A_PERSON
PHRASES = outages.PASSING_PHRASES + outages.NEEDS_A_PERSON_PHRASES


@pytest.mark.parametrize("reply", [*sorted(CODES), *[f"ERR so it is: {each}." for each in PHRASES]])
def test_each_reply_that_is_an_outage_has_a_remedy(reply: str) -> None:
    assert remedy_of(reply, "orders")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_in_the_table(name: str) -> None:
    assert outages.is_redis_outage(name if name.isupper() else f"ERR {name}")
    assert NAMES.count(name) == 1


def test_a_code_comes_before_a_part_of_the_text() -> None:
    [busy] = [each.do for each in REFUSALS if "BUSY" in each.names]
    assert remedy_of("BUSY the backend runs a script", "orders") == busy


def test_the_remedy_is_for_this_stream() -> None:
    reply = "NOPERM this user has no permissions to run the 'xadd' command"
    assert remedy_of(reply, "orders") == "give its user the right: `ACL SETUSER <user> ~orders +xadd`"
    assert remedy_of(f"EXECABORT Transaction discarded because of: {reply}", "orders") == remedy_of(reply, "orders")


def test_nobody_knows_it() -> None:
    assert remedy_of("ERR something else", "orders") is None
    assert remedy_of("", "orders") is None
