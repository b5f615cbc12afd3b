"""What a group has to read, from what Redis tells, what is remembered and what is counted."""

from typing import Any

import pytest

from dispatcher.core.incarnation import id_after, id_before
from dispatcher.infra.redis.positions import PAGE, StreamPositions

Entries = list[tuple[str, dict[str, str]]]


async def no_reading(begin: str, end: str, count: int) -> Entries | None:
    raise AssertionError("nothing had to be counted")


async def forbidden(begin: str, end: str, count: int) -> Entries | None:
    return None


@pytest.mark.parametrize(
    ("group", "stream", "unread"),
    [
        ({"lag": 7}, {}, 7),
        ({"last-delivered-id": "9-0"}, {"last-generated-id": "9-0", "length": 4}, 0),
        ({"last-delivered-id": "10-0"}, {"last-generated-id": "9-9", "length": 4}, 0),  # not as text
        ({"last-delivered-id": "1-0"}, {"last-generated-id": "9-0", "length": 4}, 4),  # Redis before 7
        (
            {"lag": None, "last-delivered-id": b"1-0", "entries-read": 7},
            {"last-generated-id": b"9-0", "length": 400, "entries-added": 400},
            393,
        ),
    ],
)
async def test_what_is_told_or_does_not_matter_is_not_counted(
    group: dict[str, Any], stream: dict[str, Any], unread: int
) -> None:
    assert await StreamPositions().unread(group, stream, no_reading, matters=1000, most=1000) == unread


async def test_without_the_right_to_read_it_is_the_bound() -> None:
    group, stream = {"last-delivered-id": "5-0"}, {"last-generated-id": "9-0", "length": 9, "entries-added": 9}
    assert await StreamPositions().unread(group, stream, forbidden, matters=0, most=1000) == 9


async def test_points_bound_a_group_that_moves() -> None:
    """The newest entries of earlier looks are places whose number is known."""
    positions = StreamPositions()
    for newest in (100, 200, 300):
        stream = {"last-generated-id": f"{newest}-0", "length": newest, "entries-added": newest}
        await positions.unread({"last-delivered-id": f"{newest - 1}-0"}, stream, forbidden, matters=0, most=1000)
    assert (
        await positions.unread({"last-delivered-id": "250-0"}, stream, no_reading, matters=101, most=1000)
    ) == 100  # more than 200, which had been added by the second look


async def test_the_count_is_bounded() -> None:
    reads: list[int] = []

    async def read(begin: str, end: str, count: int) -> Entries | None:
        first, last = (int(each.partition("-")[0]) for each in (begin, end))
        found: Entries = [(f"{n}-0", {}) for n in range(first + 1, min(last, first + count) + 1)]
        reads.append(len(found))
        return found

    stream = {"last-generated-id": "100000-0", "length": 100_000, "entries-added": 100_000}
    unread = await StreamPositions().unread({"last-delivered-id": "50000-0"}, stream, read, matters=0, most=1000)
    assert 50_000 <= unread < 100_000
    assert sum(reads) <= 1000 + 2 * PAGE


async def test_before_redis_7_new_entries_are_counted_from_look_to_look() -> None:
    """An XINFO without entries-added; a group that stands still in the middle of a stream that is trimmed."""
    positions, reads = StreamPositions(), list[int]()

    async def look(first: int, newest: int, most: int = 2000) -> int:
        async def read(begin: str, end: str, count: int) -> Entries | None:
            start, last = (int(each.partition("-")[0]) + int(each.partition("-")[2] != "0") for each in (begin, end))
            found: Entries = [
                (f"{n}-0", {}) for n in range(max(start, first), min(last, max(start, first) + count - 1) + 1)
            ]
            reads.append(len(found))
            return found

        reads.clear()
        stream = {"last-generated-id": f"{newest}-0", "length": newest - first + 1, "first-entry": [f"{first}-0", {}]}
        return await positions.unread({"last-delivered-id": "450-0"}, stream, read, matters=0, most=most)

    assert await look(1, 500) == 50
    assert await look(100, 600) == 150
    assert sum(reads) == 100  # what came since
    assert await look(200, 1000) == 550
    assert sum(reads) == 400
    assert await look(700, 2000, most=300) == 1301  # too many to count: all that is there
    assert sum(reads) <= 300 // 5 + 2 * PAGE


@pytest.mark.parametrize(
    ("one", "next_one"), [("5-1", "5-2"), ("5-0", "5-1"), (f"4-{2**64 - 1}", "5-0"), ("0-0", "0-1")]
)
def test_the_id_beside_an_id(one: str, next_one: str) -> None:
    """Redis before 6.2 knows no "(id"."""
    assert (id_after(one), id_before(next_one)) == (next_one, one)
    assert id_before("0-0") == "0-0"
