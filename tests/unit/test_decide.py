"""Whose failure an error is: an outage buries nothing, a row's own failure costs it one attempt."""

from datetime import datetime
from itertools import chain
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import (
    KeptBack,
    NoReply,
    NotApplied,
    Refused,
    Reply,
    RetryPolicy,
    Unpublishable,
    brief,
    decide,
    decide_batch,
)
from dispatcher.core.outages import (
    NEEDS_A_PERSON,
    NEEDS_A_PERSON_PHRASES,
    PASSING,
    PASSING_PHRASES,
    is_redis_outage,
)
from dispatcher.core.outcome import FailedAttempt, FailedForGood, Outcome, Released, Sent, Unknown
from dispatcher.core.row import ClaimedRow

POLICY = RetryPolicy(10, Backoff(0.25, 60.0))
THEN = datetime(2025, 6, 1)

texts = st.text(max_size=700)
stream_ids = st.from_regex(rb"[0-9]{1,13}-[0-9]{1,3}", fullmatch=True)
row_errors = texts.filter(lambda text: not is_redis_outage(text)).map(Refused)
sink_errors = st.one_of(
    st.builds(lambda code, text: Refused(f"{code} {text}"), st.sampled_from(sorted(PASSING | NEEDS_A_PERSON)), texts),
    st.builds(
        lambda phrase, text: Refused(f"ERR {text} {phrase}"),
        st.sampled_from(PASSING_PHRASES + NEEDS_A_PERSON_PHRASES),
        texts,
    ),
    texts.filter(brief).map(NotApplied),
    texts.map(NoReply),
)
replies = st.one_of(stream_ids, row_errors, sink_errors, texts.map(Unpublishable))
attempts = st.integers(min_value=0, max_value=10**6)
policies = st.builds(RetryPolicy, st.integers(min_value=1, max_value=1000), st.just(Backoff(0.25, 60.0)))


def row(row_id: int = 1, attempts: int = 0) -> ClaimedRow:
    return ClaimedRow(row_id, THEN, f"e{row_id}", "m", "t", "message", "a", THEN, "{}", None, attempts, 0.0)


def the(reply: Reply, attempts: int = 0, policy: RetryPolicy = POLICY) -> Outcome:
    return decide(reply, attempts, policy, Random(1))


@given(replies, attempts, policies)
def test_every_reply_has_an_outcome(reply: Reply, attempts: int, policy: RetryPolicy) -> None:
    outcome = the(reply, attempts, policy)
    assert isinstance(outcome, Sent | FailedAttempt | FailedForGood | Released | Unknown)
    if not isinstance(outcome, Sent):
        assert len(outcome.error or "") <= 500


@given(sink_errors, attempts, policies)
def test_the_sink_never_costs_a_row_anything(reply: Reply, attempts: int, policy: RetryPolicy) -> None:
    assert isinstance(the(reply, attempts, policy), Released | Unknown)


@pytest.mark.parametrize("code", sorted(PASSING | NEEDS_A_PERSON))
def test_a_code_of_the_sink_returns_the_row(code: str) -> None:
    for text in (code, f"{code} some words"):
        assert the(Refused(text), 9) == Released(f"redis: {text}")


@pytest.mark.parametrize(
    "text",
    [
        "ERR max number of clients reached",
        "ERR unknown command 'XADD', with args beginning with: 'sanctum:messages' 'MAXLEN' ",
        "ERR The ID specified in XADD must be greater than 0-0",
        "ERR The stream has exhausted the last possible ID, unable to add more items",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "CLUSTERDOWN The cluster is down",
        "NOAUTH Authentication required.",
    ],
)
def test_what_servers_say_of_themselves_returns_the_row(text: str) -> None:
    assert the(Refused(text), 9) == Released(brief(f"redis: {text}"))


@pytest.mark.parametrize("text", ["ERR syntax error", "OOMPH", "ERR OOM-like", "", "ERR value is not an integer"])
def test_what_speaks_of_the_entry_costs_an_attempt(text: str) -> None:
    outcome = the(Refused(text))
    assert isinstance(outcome, FailedAttempt)
    assert 0 <= outcome.delay_s <= 0.25


@given(row_errors, policies)
def test_a_rows_own_error_at_the_limit_is_dead_and_one_before_is_not(reply: Refused, policy: RetryPolicy) -> None:
    assert isinstance(the(reply, policy.max_attempts - 1, policy), FailedForGood)
    assert isinstance(the(reply, policy.max_attempts + 5, policy), FailedForGood)
    if policy.max_attempts > 1:
        assert isinstance(the(reply, policy.max_attempts - 2, policy), FailedAttempt)


@given(texts, policies)
def test_what_can_never_succeed_dies_at_once(reason: str, policy: RetryPolicy) -> None:
    assert the(Unpublishable(reason), 0, policy) == FailedForGood(brief(reason))


def test_a_lost_reply_is_unknown_and_an_unsent_one_is_not() -> None:
    assert the(NoReply("the connection was closed")) == Unknown("the connection was closed")
    assert the(NotApplied("redis is not connected")) == Released("redis is not connected")


@given(st.text(max_size=2000))
def test_brief_is_one_line_of_at_most_500(text: str) -> None:
    short = brief(text)
    assert len(short) <= 500
    assert len(short.splitlines()) <= 1
    assert brief(short).rstrip() == short.rstrip()


@pytest.mark.parametrize("text", ["ERR a\0b", "ERR a\ud800b"])
def test_brief_holds_nothing_that_postgres_cannot_store(text: str) -> None:
    short = brief(text)
    assert short.startswith("ERR a")
    assert "\0" not in short
    short.encode()


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_a_batch_with_another_number_of_replies_is_refused(answers: int) -> None:
    with pytest.raises(ValueError, match=f"{answers} replies for 2 rows"):
        decide_batch([row(1), row(2)], [b"1-0"] * answers, POLICY, Random(1))


@given(st.lists(st.tuples(replies, attempts), max_size=40))
def test_a_verdict_files_each_row_once_in_order_as_its_own_reply_says(answered: list[tuple[Reply, int]]) -> None:
    rows = [row(number, tried) for number, (_, tried) in enumerate(answered)]
    outcomes = decide_batch(rows, [reply for reply, _ in answered], POLICY, Random(1))
    filed = [
        outcomes.sent_ids,
        [i for i, _ in outcomes.retries],
        [i for i, _ in outcomes.dead],
        outcomes.released,
        outcomes.unknown,
    ]
    assert sorted(chain(*filed)) == [each.id for each in rows]
    assert all(ids == sorted(ids) for ids in filed)
    assert outcomes.stream_ids == [reply.decode() for reply, _ in answered if isinstance(reply, bytes)]
    assert (outcomes.sink_error is not None) == bool(outcomes.released or outcomes.unknown)


def test_a_row_that_was_taken_back_for_another_ones_sake_says_nothing_of_the_sink() -> None:
    """Within MULTI one row is refused, and so none is in the stream."""
    outcomes = decide_batch([row(1), row(2)], [Refused("ERR of its own"), KeptBack()], POLICY, Random(1))
    assert (outcomes.released, [row_id for row_id, _ in outcomes.retries], outcomes.sink_error) == ([2], [1], None)


def test_one_error_touches_one_row() -> None:
    outcomes = decide_batch([row(1), row(2), row(3)], [b"1-0", Refused("ERR syntax error"), b"2-0"], POLICY, Random(1))
    assert (outcomes.sent_ids, outcomes.stream_ids) == ([1, 3], ["1-0", "2-0"])
    assert [row_id for row_id, _ in outcomes.retries] == [2]
    assert outcomes.sink_error is None


def test_a_batch_has_the_first_reason_of_the_sink() -> None:
    said: list[Reply] = [b"1-0", Refused("OOM no memory"), Refused("READONLY a replica"), NoReply("cut")]
    outcomes = decide_batch([row(n) for n in range(4)], said, POLICY, Random(1))
    assert outcomes.sink_error == "redis: OOM no memory"
