"""Row to stream entry: the XADD and its fields."""

from dataclasses import dataclass

from dispatcher.core.row import NOT_READ, ClaimedRow


@dataclass(frozen=True, slots=True)
class EntryFormat:
    """Where entries go and how long the stream may grow."""

    stream: str
    maxlen: int
    max_payload_bytes: int

    def xadd(self, row: ClaimedRow) -> tuple[str, ...]:
        """The arguments of `XADD stream MAXLEN ~ n * field value ...` for one row, the payload's text unchanged."""
        head = (
            "XADD", self.stream, "MAXLEN", "~", str(self.maxlen), "*",
            "event_id", row.event_id,
            "message_id", row.message_id,
            "event_type", row.event_type,
            "aggregate_type", row.aggregate_type,
            "aggregate_id", row.aggregate_id,
            "occurred_at", row.occurred_at.isoformat(timespec="microseconds") + "Z",
            "payload", row.payload,
        )  # fmt: skip
        return head if row.headers is None else (*head, "headers", row.headers)

    def unfit(self, row: ClaimedRow) -> str | None:
        """Why this row can never be published, or None. The size is in bytes of UTF-8, as Redis would store it."""
        if row.payload.startswith(NOT_READ):
            return self._too_large("payload is", row.payload)
        headers = row.headers
        if headers is not None and (headers.startswith(NOT_READ) or len(headers) > self.max_payload_bytes):
            return self._too_large("headers are", headers if headers.startswith(NOT_READ) else str(len(headers)))
        size = len(row.payload)
        if size * 4 <= self.max_payload_bytes:
            return None  # even four bytes a character would fit; nothing is encoded to find out
        size = len(row.payload.encode())
        if size <= self.max_payload_bytes:
            return None
        return self._too_large("payload is", str(size))

    def _too_large(self, what: str, left: str) -> str:
        size = left.removeprefix(NOT_READ)
        if not size:
            return "payload or headers are more than a gigabyte as text, which Postgres cannot write"
        return f"{what} {size} bytes, DISPATCH_MAX_PAYLOAD_BYTES allows {self.max_payload_bytes}"
