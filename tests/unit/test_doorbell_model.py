"""The doorbell by model: in every order of steps no committed row waits for the tick, and no part of it is too much.

The model is in tests/model/. `pytest -s` shows, for each part left out, the shortest way to a row that waits.
"""

import re
from typing import get_args

import pytest

from dispatcher.infra.sqlfiles import load
from dispatcher.stages.doorbell import wake
from tests.model.dispatcher import At, DispatcherFlaw
from tests.model.doorbell import Doorbell, Flaw
from tests.model.writer import WriterFlaw
from tests.support.readme import ROOT


@pytest.mark.promise("wake")
@pytest.mark.parametrize(("writers", "dispatchers"), [(2, 1), (3, 1), (2, 2)])
def test_no_committed_row_waits_for_the_tick(writers: int, dispatchers: int) -> None:
    assert Doorbell(writers, dispatchers).check().trace == []


def test_nor_later_when_a_statement_was_refused_and_every_step_was_walked() -> None:
    explored = Doorbell(1, 2, statements_are_refused=True).check()
    assert explored.trace == []
    walked = {us.at for state in explored.states for us in state.dispatchers}
    assert walked == set(get_args(At)) - {"dead"}


@pytest.mark.promise("wake")
@pytest.mark.parametrize("flaw", [*get_args(DispatcherFlaw), *get_args(WriterFlaw)])
def test_nothing_can_be_left_out(flaw: Flaw) -> None:
    trace = Doorbell(1, 1, statements_are_refused=True, flaw=flaw).check().trace
    assert trace
    print(f"\n{flaw}:", *trace, sep="\n  ")  # noqa: T201


def test_why_there_is_a_second_due_check() -> None:
    assert Doorbell(1, 1, flaw="no second due check").check().trace == [
        "writer 1 inserts",
        "writer 1 begins its commit: gets K shared, silent",
        "dispatcher 1 claims",
        "dispatcher 1 wants to sleep",
        "dispatcher 1 drains its notices",
        "dispatcher 1 doze: takes the snapshot",
        "writer 1 makes its row visible",
        "writer 1 ends its commit: releases K",
        "dispatcher 1 doze: gets K",
        "dispatcher 1 doze: the answer is asleep",
        "dispatcher 1 LISTEN",
        "dispatcher 1 waits",
    ]


@pytest.mark.promise("wake")
def test_the_limit_who_stands_by_finds_on_its_tick_what_the_holder_of_the_key_left_when_it_died() -> None:
    trace = Doorbell(1, 2, sessions_break=False, dispatchers_die=True).check().trace
    assert trace[-1].endswith("dies")
    assert any(step.endswith("the answer is peer") for step in trace)


def test_the_steps_are_those_of_the_code() -> None:
    """Whoever renames, removes or reorders a step of wake.py is led here: the model has to follow."""
    source = (ROOT / "dispatcher" / "stages" / "doorbell" / "wake.py").read_text(encoding="utf-8")
    position = source[source.index("async def _take_key") : source.index("async def _listen")]
    assert re.findall(r'load\("(\w+)"|f"(\w+) \{DOORBELL\}"|(_due_check\.due_s|_RELEASE)', position) == [
        ("", "", "_due_check.due_s"),  # while the notification queue fills up: see below
        ("doze", "", ""),
        ("", "UNLISTEN", ""),
        ("", "LISTEN", ""),
        ("", "", "_due_check.due_s"),
        ("", "", "_RELEASE"),
    ]
    sleep = source[source.index("async def _sleep") : source.index("async def _take_key")]
    assert sleep.index(".hear(session)") < sleep.index("._take_key(") < sleep.index("._listen(")
    listen = source[source.index("async def _listen") : source.index("async def _pause")]
    assert listen.index(".hear(session)") < listen.index(".when_readable)")
    # "filling" is outside the model: K is not held, nobody has to ring, and rows do wait for the tick.
    assert set(get_args(wake.KeyState)) == {"asleep", "writers", "peer", "filling"}
    doze = load("doze")
    exclusively, shared = doze.index("pg_try_advisory_lock("), doze.index("pg_try_advisory_lock_shared(")
    assert exclusively < shared < doze.index("FROM ONLY messaging.message_outbox")
