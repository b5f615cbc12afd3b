"""Row to stream entry: its XADD, as the bytes that go to Redis.

One template is filled for each event, in place of a tuple of twenty strings that a packer takes apart again: less
processor time (docs/explanation/decisions/0016). A length in the protocol counts bytes; in text that is ASCII alone
that is the number of its characters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from dispatcher.core.layout import Layout
from dispatcher.core.row import MOST_NAME_CHARS, NEVER_READ, ClaimedRow

_BODY = (
    "$8\r\nevent_id\r\n$%d\r\n%s\r\n"
    "$10\r\nmessage_id\r\n$%d\r\n%s\r\n"
    "$10\r\nevent_type\r\n$%d\r\n%s\r\n"
    "$14\r\naggregate_type\r\n$%d\r\n%s\r\n"
    "$12\r\naggregate_id\r\n$%d\r\n%s\r\n"
    "$11\r\noccurred_at\r\n$27\r\n%sZ\r\n"
    "$7\r\npayload\r\n$%d\r\n%s\r\n"
)
_HEADERS = "$7\r\nheaders\r\n$%d\r\n%s\r\n"


@dataclass(frozen=True, slots=True)
class EntryFormat:
    """Where entries go and how long the stream may grow."""

    stream: str
    maxlen: int
    max_payload_bytes: int
    # Templates of a row without headers and of one with headers: first those that may create the stream.
    _creating: tuple[str, str] = field(init=False, repr=False, compare=False)
    _without_creating: tuple[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        trim = ("MAXLEN", "~", str(self.maxlen), "*")
        object.__setattr__(self, "_creating", _templates("XADD", self.stream, *trim))
        object.__setattr__(self, "_without_creating", _templates("XADD", self.stream, "NOMKSTREAM", *trim))

    def xadd(self, row: ClaimedRow, *, may_create: bool = True) -> bytes:
        """`XADD stream MAXLEN ~ n * field value ...` for one row, the payload's text unchanged.

        `may_create` False: with NOMKSTREAM. The reply is nil when the stream is gone.
        """
        plain, with_headers = self._creating if may_create else self._without_creating
        (
            _, _, event_id, message_id, event_type, aggregate_type, aggregate_id, occurred_at, payload, headers,
            _, _, _, _,
        ) = row  # fmt: skip
        at = occurred_at.isoformat("T", "microseconds")
        size: Callable[[str], int] = len
        while True:
            values = (
                size(event_id), event_id,
                size(message_id), message_id,
                size(event_type), event_type,
                size(aggregate_type), aggregate_type,
                size(aggregate_id), aggregate_id,
                at,
                size(payload), payload,
            )  # fmt: skip
            text = plain % values if headers is None else with_headers % (*values, size(headers), headers)
            if size is _bytes_in or text.isascii():
                return text.encode()
            size = _bytes_in

    def unpublishable(self, row: ClaimedRow) -> str | None:
        """Why this row can never be published, or None. Sizes: payload in bytes of UTF-8, headers in characters."""
        if len(row.event_type) + len(row.aggregate_type) + len(row.aggregate_id) > MOST_NAME_CHARS:
            for name in ("event_type", "aggregate_type", "aggregate_id"):
                if len(getattr(row, name)) > MOST_NAME_CHARS:
                    return f"{name} is longer than {MOST_NAME_CHARS} characters"
        if row.payload.startswith(NEVER_READ):
            return self._too_large("payload is", row.payload)
        headers = row.headers
        if headers is not None and (headers.startswith(NEVER_READ) or len(headers) > self.max_payload_bytes):
            return self._too_large("headers are", headers if headers.startswith(NEVER_READ) else str(len(headers)))
        size = len(row.payload)
        if size * 4 <= self.max_payload_bytes:
            return None  # even four bytes a character would fit; nothing is encoded to find out
        size = len(row.payload.encode())
        if size <= self.max_payload_bytes:
            return None
        return self._too_large("payload is", str(size))

    def _too_large(self, what: str, left: str) -> str:
        size = left.removeprefix(NEVER_READ)
        if not size:
            return "Postgres cannot write the event as text: more than a gigabyte, or characters that UTF-8 lacks"
        return f"{what} {size} bytes, DISPATCH_MAX_PAYLOAD_BYTES allows {self.max_payload_bytes}"


class EntryFormats:
    """The entries of a layout of several streams. `of(row)`: the format of the stream that the row goes to."""

    def __init__(self, layout: Layout, maxlen: int, max_payload_bytes: int) -> None:
        self._layout = layout
        self._by_key = {key: EntryFormat(key, maxlen, max_payload_bytes) for key in layout.keys}

    def of(self, row: ClaimedRow) -> EntryFormat:
        return self._by_key[self._layout.key_of(row.event_type, row.slot)]


def with_field(xadd: bytes, name: str, value: str) -> bytes:
    """The XADD with one more field, behind the others."""
    head, _, rest = xadd.partition(b"\r\n")
    field_ = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in (name, value))
    return b"*%d\r\n%b%b" % (int(head[1:]) + 2, rest, field_.encode())


def _templates(*head: str) -> tuple[str, str]:
    start = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in head).replace("%", "%%")
    return f"*{len(head) + 14}\r\n{start}{_BODY}", f"*{len(head) + 16}\r\n{start}{_BODY}{_HEADERS}"


def _bytes_in(text: str) -> int:
    return len(text.encode())
