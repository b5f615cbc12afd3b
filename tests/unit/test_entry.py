"""A row becomes an entry byte for byte, and what is too large is found in bytes, not in characters."""

from datetime import datetime
from uuid import uuid4

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.entry import EntryFormat
from dispatcher.core.row import NEVER_READ, ClaimedRow

FORMAT = EntryFormat("sanctum:messages", 1_000_000, 64)
THEN = datetime(2025, 2, 3, 4, 5, 6, 7)
anything = st.text(st.characters(exclude_categories=["Cs"]))  # what Postgres can hold, and U+0000


def row(payload: str = "{}", headers: str | None = None, **columns: str) -> ClaimedRow:
    texts = {"event_type": "order.created", "aggregate_type": "message", "aggregate_id": "a1"} | columns
    return ClaimedRow(
        id=1,
        next_run_at=THEN,
        event_id="e",
        message_id="m",
        occurred_at=THEN,
        payload=payload,
        headers=headers,
        attempts=0,
        age_s=0.0,
        event_type=texts["event_type"],
        aggregate_type=texts["aggregate_type"],
        aggregate_id=texts["aggregate_id"],
    )


def words(command: bytes) -> list[bytes]:
    """The command as the server reads it: all of it, and nothing after it."""
    reader = hiredis.Reader()
    reader.feed(command)
    read = reader.gets()
    assert isinstance(read, list)
    assert not reader.has_data()
    return read


def fields(command: bytes) -> dict[str, str]:
    pairs = [word.decode() for word in words(command)[6:]]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_an_entry_has_the_fields_of_the_contract_in_order() -> None:
    event_id, message_id = str(uuid4()), str(uuid4())
    arguments = FORMAT.xadd(row('{"n": 1}')._replace(event_id=event_id, message_id=message_id))
    assert words(arguments)[:6] == [b"XADD", b"sanctum:messages", b"MAXLEN", b"~", b"1000000", b"*"]
    assert list(fields(arguments).items()) == [
        ("event_id", event_id),
        ("message_id", message_id),
        ("event_type", "order.created"),
        ("aggregate_type", "message"),
        ("aggregate_id", "a1"),
        ("occurred_at", "2025-02-03T04:05:06.000007Z"),
        ("payload", '{"n": 1}'),
    ]


def test_headers_are_there_only_when_set() -> None:
    assert "headers" not in fields(FORMAT.xadd(row()))
    assert fields(FORMAT.xadd(row(headers="null")))["headers"] == "null"
    assert fields(FORMAT.xadd(row(headers='{"traceparent": "00"}')))["headers"] == '{"traceparent": "00"}'


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(1, 1, 1), "0001-01-01T00:00:00.000000Z"),
        (datetime(9999, 12, 30, 23, 59, 59, 999999), "9999-12-30T23:59:59.999999Z"),
    ],
)
def test_a_time_always_has_the_same_shape(at: datetime, text: str) -> None:
    assert fields(FORMAT.xadd(row()._replace(occurred_at=at)))["occurred_at"] == text


@given(anything, anything, anything, anything, st.none() | anything)
def test_bytes_in_are_bytes_out(payload: str, kind: str, of: str, key: str, headers: str | None) -> None:
    given = row(payload, headers, event_type=kind, aggregate_type=of, aggregate_id=key)
    read = words(FORMAT.xadd(given))
    sent = {name.decode(): value for name, value in zip(read[6::2], read[7::2], strict=True)}
    assert sent["payload"] == payload.encode()
    assert (sent["event_type"], sent["aggregate_type"], sent["aggregate_id"]) == (
        kind.encode(),
        of.encode(),
        key.encode(),
    )
    assert sent.get("headers") == (None if headers is None else headers.encode())


@pytest.mark.parametrize("stream", ["50%s off %d %%", "événements", "a b\r\n"])
def test_a_stream_of_any_name_is_the_one_written_to(stream: str) -> None:
    assert words(EntryFormat(stream, 7, 64).xadd(row()))[1] == stream.encode()
    assert words(EntryFormat(stream, 7, 64).xadd(row(headers="{}")))[1] == stream.encode()


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀"])
def test_the_limit_is_bytes_of_utf8_exactly(letter: str) -> None:
    width = len(letter.encode())
    fits = letter * (64 // width) + "x" * (64 % width)
    assert len(fits.encode()) == 64
    assert FORMAT.unpublishable(row(fits)) is None
    assert FORMAT.unpublishable(row(fits + "x")) == "payload is 65 bytes, DISPATCH_MAX_PAYLOAD_BYTES allows 64"


@given(anything.filter(lambda text: not text.startswith(NEVER_READ)), st.integers(min_value=1, max_value=200))
def test_a_payload_fits_when_its_bytes_do(payload: str, allowed: int) -> None:
    reason = EntryFormat("s", 10, allowed).unpublishable(row(payload))
    assert (reason is None) == (len(payload.encode()) <= allowed)


def test_the_reason_does_not_hold_the_payload() -> None:
    assert "secret" not in (FORMAT.unpublishable(row("secret" * 100)) or "secret")
