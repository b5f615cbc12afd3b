"""What counts as missed and as twice when each event goes to many browsers."""

from bench.browsers import TWICE, RoomTally

MS = 1_000_000


def test_each_member_of_a_room_has_to_get_each_event_once() -> None:
    tally = RoomTally(2)
    tally.add_received([(1 * MS, [b"a"])])  # before its commit call had returned
    tally.add_committed([(2 * MS, b"a"), (3 * MS, b"b")])
    assert (tally.lost, tally.matched, tally.early) == (3, 1, 1)
    tally.add_received([(7 * MS, [b"a"]), (8 * MS, [b"b"]), (9 * MS, [TWICE + b"b"])])
    assert (tally.lost, tally.matched, tally.duplicated) == (1, 3, 1)
    tally.add_received([(10 * MS, [b"b"])])
    assert tally.lost == 0
    assert tally.trace == [(2 * MS, 1 * MS), (2 * MS, 7 * MS), (3 * MS, 8 * MS), (3 * MS, 10 * MS)]
