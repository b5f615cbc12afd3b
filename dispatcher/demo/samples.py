"""Sample rows of a shop: orders, invoices and users, in every status. To try things on.

Not what `demo` sends: those look like ciphertext of realistic sizes. These can be read, and handlers tried on them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

STATUSES = ("pending", "retry", "sent", "dead")
INSERT_ROWS = 100  # rows of one INSERT
COLUMNS = (
    "aggregate_type", "aggregate_id", "event_type", "payload", "status", "attempts", "next_run_at", "occurred_at",
    "sent_at", "last_error",
)  # fmt: skip
_NAMES = ("ada", "alan", "barbara", "donald", "edsger", "frances", "grace", "leslie", "niklaus", "radia")


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row. Ages are in seconds before now."""

    aggregate_type: str
    aggregate_id: str
    event_type: str
    payload: str  # JSON text
    status: str
    attempts: int
    age: int

    @property
    def last_error(self) -> str | None:
        return "made by dispatcher demo --seed-only" if self.status in ("retry", "dead") else None


def samples(rng: Random, statuses: Sequence[str] = STATUSES) -> Iterator[SampleRow]:
    """Endless, the same for the same `rng`."""
    number = 0
    while True:
        number += 1
        kind = rng.choice(("order", "invoice", "user"))
        cents = rng.randint(1_000, 20_000)
        if kind == "order":
            name, event_type = str(1_000 + number), "order.created"
            payload: dict[str, object] = {"orderId": name, "customerId": f"C{number:03}", "totalCents": cents}
        elif kind == "invoice":
            name, event_type = str(2_000 + number), "invoice.generated"
            payload = {"invoiceId": name, "orderId": str(1_000 + number), "amountCents": cents}
        else:
            name, event_type = f"U{number:04}", "user.registered"
            payload = {"userId": name, "email": f"{rng.choice(_NAMES)}{number}@example.com"}
        status = rng.choice(statuses)
        attempts = {"pending": 0, "sent": 0, "dead": 10}.get(status) or (rng.randint(1, 5) if status == "retry" else 0)
        yield SampleRow(kind, name, event_type, json.dumps(payload), status, attempts, rng.randint(0, 600))


def as_sql(rows: Iterator[SampleRow], count: int) -> Iterator[str]:
    """INSERT statements, and a BEGIN and COMMIT around them: for psql."""
    yield "BEGIN;\n"
    while count > 0:
        size = min(count, INSERT_ROWS)
        values = ",\n".join(_tuple(row) for row in islice(rows, size))
        yield f"INSERT INTO messaging.message_outbox ({', '.join(COLUMNS)}) VALUES\n{values};\n"
        count -= size
    yield "COMMIT;\n"


def _tuple(row: SampleRow) -> str:
    moment = f"now() - interval '{row.age} seconds'"
    texts = [_quoted(text) for text in (row.aggregate_type, row.aggregate_id, row.event_type, row.payload, row.status)]
    sent = moment if row.status == "sent" else "NULL"
    error = "NULL" if row.last_error is None else _quoted(row.last_error)
    return f"({', '.join(texts)}, {row.attempts}, {moment}, {moment}, {sent}, {error})"


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
