"""A verdict files each outcome in the columns its settle statement takes."""

import dataclasses

import pytest

from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Outcome, Released, Sent, Unknown


def test_each_outcome_has_its_columns() -> None:
    batch = BatchOutcomes()
    outcomes: list[Outcome] = [
        Sent("1-0"),
        FailedAttempt(0.5, "ERR"),
        FailedForGood("too large"),
        Released("OOM"),
        Unknown("cut"),
        Sent("2-0"),
    ]
    for row_id, outcome in enumerate(outcomes, start=10):
        batch.add(row_id, outcome)
    assert (batch.sent_ids, batch.stream_ids) == ([10, 15], ["1-0", "2-0"])
    assert batch.retries == [(11, FailedAttempt(0.5, "ERR"))]
    assert batch.dead == [(12, FailedForGood("too large"))]
    assert (batch.released, batch.unknown) == ([13], [14])


@pytest.mark.parametrize("outcome", [Released("OOM"), Unknown("OOM")])
def test_the_first_error_of_the_sink_is_kept(outcome: Released | Unknown) -> None:
    batch = BatchOutcomes()
    batch.add(1, outcome)
    batch.add(2, Released("later"))
    batch.add(3, Unknown("later"))
    assert batch.sink_error == "OOM"


def test_a_rows_own_failure_says_nothing_of_the_sink() -> None:
    batch = BatchOutcomes()
    outcomes: list[Outcome] = [Sent("1-0"), FailedAttempt(0.5, "ERR"), FailedForGood("too large")]
    for row_id, outcome in enumerate(outcomes):
        batch.add(row_id, outcome)
    assert batch.sink_error is None


def test_verdicts_share_nothing() -> None:
    BatchOutcomes().add(1, Sent("1-0"))
    assert BatchOutcomes() == BatchOutcomes()
    assert not BatchOutcomes().sent_ids


@pytest.mark.parametrize(
    "outcome", [Sent("1-0"), FailedAttempt(0.5, "e"), FailedForGood("e"), Released("e"), Unknown("e")]
)
def test_an_outcome_cannot_be_changed(outcome: object) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(outcome, next(iter(dataclasses.fields(outcome))).name, "x")  # type: ignore[arg-type]
