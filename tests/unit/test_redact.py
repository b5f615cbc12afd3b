"""What an exception quotes of a payload is not kept."""

import json
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
