"""What an exception quotes of a payload is not kept."""

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.redact import redact

PAYLOAD = json.dumps({"name": "Jane Roe", "card": 4111222233334444, "tags": ["vip", "ü\n"], "ok": True, "n": 7})


def test_values_are_blotted_out_and_names_stay() -> None:
    assert redact("no field 'name' in order", PAYLOAD) == "no field 'name' in order"
    assert redact("Jane Roe has no account", PAYLOAD) == "*** has no account"
    assert redact(f"bad: {json.loads(PAYLOAD)}", PAYLOAD) == (
        "bad: {'name': '***', 'card': ***, 'tags': ['***', '***'], 'ok': True, 'n': ***}"
    )
    assert redact(f"bad: {PAYLOAD}", PAYLOAD).count("***") == 5
    assert redact("card 41112222333...", PAYLOAD) == "card ***..."  # shown in part
    assert redact("took 70 s", PAYLOAD) == "took 70 s"  # 7 is no word in it
    assert redact("token abc", PAYLOAD, '{"auth": "abc"}') == "token ***"  # headers too


def test_what_cannot_be_told_apart_is_left_out() -> None:
    assert "not kept" in redact("secret", json.dumps("x" * 70_000))
    assert "not kept" in redact("secret", "[" * 100_000)


def test_short_values_are_blotted_out_as_whole_words() -> None:
    assert redact("a b a b a, ab, _a, a.", '["a b a"]') == "***, ab, _a, a."
    assert redact("x 1.50 and 1.5, not 11.5 nor 1.55", "[1.50]") == "x *** and ***, not 11.5 nor 1.55"
    assert redact("at (-7), -70 and ü-7", "[-7]") == "at (***), -70 and ü-7"


@pytest.mark.parametrize("values", [range(100_000, 108_000), [f"s{n}" for n in range(7_000)]], ids=["numbers", "texts"])
def test_many_values_cost_little_each(values: Any) -> None:
    """It runs on the event loop: ten handlers that fail at once with such payloads must not stop it for a lease."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    payload = json.dumps(list(values))
    assert len(payload) > 60_000
    sys.setprofile(count)
    try:
        kept = redact("cannot do 100007 nor s7", payload)
    finally:
        sys.setprofile(None)
    assert kept.count("***") == 1
    assert calls < 50 * len(values)


def test_what_postgres_cannot_store_is_gone() -> None:
    assert redact("a\x00b\ud800", "{}") == "ab?"


@pytest.mark.promise("handler-failure")
@given(st.recursive(st.text(min_size=4) | st.integers(10_000), lambda inner: st.lists(inner, max_size=4), max_leaves=6))
def test_no_value_survives(data: Any) -> None:
    def values(node: Any) -> list[str]:
        return [found for each in node for found in values(each)] if isinstance(node, list) else [str(node)]

    kept = redact(f"cannot do {data!r} nor {json.dumps(data)}", json.dumps(data))
    for value in values(data):
        if len(value.strip()) >= 4 and value.isascii() and value.isalnum():
            assert value not in kept.removeprefix("cannot do ").replace(" nor ", "|")
