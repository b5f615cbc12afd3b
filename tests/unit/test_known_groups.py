"""Which consumer groups went with the data of Redis."""

import json

from dispatcher.core.known_groups import (
    KEPT_S,
    MOST,
    TOGETHER_S,
    GroupWatch,
    KnownGroup,
    Loss,
    gone_groups,
    latest_loss,
    read_known,
)

A = {"billing": "orders"}
FAR = 10 * TOGETHER_S


def names(known: tuple[KnownGroup, ...]) -> dict[str, float | None]:
    return {each.name: each.gone for each in known}


def test_a_group_that_is_missed_at_a_loss_is_gone_until_it_is_back_or_a_day_is_over():
    watch = GroupWatch()
    assert names(watch.note_seen(A, 10, None, 1_000.0)) == {"billing": None}
    assert names(watch.note_seen({}, 10, None, 1_005.0)) == {}  # the audit may not be through yet
    assert names(watch.note_seen({}, 10, Loss(1_006.0, 3), 1_010.0)) == {"billing": 1_005.0}
    assert names(watch.note_seen({}, 10, None, 1_005.0 + KEPT_S - 1)) == {"billing": 1_005.0}
    assert names(watch.note_seen({}, 10, None, 1_005.0 + KEPT_S)) == {}
    watch.note_seen(A, 10, None, 200_000.0)
    watch.note_seen({}, 10, Loss(200_002.0, 3), 200_005.0)
    assert names(watch.note_seen(A, 10, Loss(200_002.0, 3), 200_010.0)) == {"billing": None}


def test_a_stream_that_is_empty_all_at_once_is_a_loss_though_no_row_was_put_back():
    watch = GroupWatch()
    watch.note_seen(A, 10, None, 1_000.0)
    assert names(watch.note_seen({}, 0, None, 1_005.0)) == {"billing": 1_005.0}


def test_a_group_that_is_destroyed_is_forgotten():
    watch = GroupWatch()
    watch.note_seen(A, 10, Loss(1_000.0 - FAR, 3), 1_000.0)
    assert names(watch.note_seen({}, 10, Loss(1_000.0 - FAR, 3), 1_005.0)) == {}
    assert names(watch.note_seen({}, 10, Loss(1_000.0 - FAR, 3), 1_005.0 + TOGETHER_S)) == {}
    assert names(watch.note_seen({}, 10, Loss(1_005.0 + FAR, 3), 1_005.0 + FAR)) == {}  # another loss, later


def test_a_process_begins_with_what_others_saw():
    here, gone = KnownGroup("billing", "orders", 900.0), KnownGroup("mail", "orders", 950.0, 950.0)
    assert read_known(json.loads(json.dumps([here.written(), gone.written()])), 900.0) == (here, gone)
    watch = GroupWatch([here, gone])
    assert names(watch.note_seen({}, 10, Loss(960.0, 3), 1_000.0)) == {"billing": 1_000.0, "mail": 950.0}
    assert read_known("?", 1.0) == read_known([7, {}, None], 1.0) == ()


def test_a_group_that_is_back_is_not_said_and_the_number_is_bounded():
    gone = KnownGroup("mail", "orders", 950.0, 950.0)
    assert gone_groups([gone, gone], (), 1_000.0) == [gone]
    assert gone_groups([gone], {"mail"}, 1_000.0) == gone_groups([gone], (), 950.0 + KEPT_S) == []
    assert len(GroupWatch().note_seen({f"g{n}": "orders" for n in range(MOST + 5)}, 1, None, 1.0)) == MOST


def test_losses_of_one_moment_are_one():
    assert latest_loss([]) is None
    assert latest_loss([(1.0, 9), (1_000.0, 2), (1_010.0, 3)]) == Loss(1_010.0, 5)
