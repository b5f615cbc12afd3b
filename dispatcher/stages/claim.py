"""The claim: marks due rows as ours, in the order of the index of work, with a claim id that no other claim has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from operator import itemgetter
from time import monotonic
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.pacing import CLAIM_BYTES
from dispatcher.core.row import NEVER_READ, READ_LATER, Batch, ClaimedRow, HandlerMark
from dispatcher.infra.postgres.session import UNREADABLE, Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.settle import release

ONE_BY_ONE_S = 2.0  # for reading rows one by one: a row that cannot be read takes a second, and the lease runs
ANY_SIZE = 2**30
TRUNCATED_AT = 4096  # characters: claim.sql cuts a text there, so one of exactly this length may not be whole
PROOF_EVENT_TYPE = "dispatcher.prove"  # the event type of `dispatcher prove`, which no dispatcher claims

_NAMES = ClaimedRow._fields.index("event_type")
_AFTER_NAMES = _NAMES + 3
_PAYLOAD = ClaimedRow._fields.index("payload")
_HEADERS = _PAYLOAD + 1
_AFTER = _HEADERS + 1
_by_index_key = itemgetter(1, 0)  # (next_run_at, id)
_by_id = itemgetter(0)
_new: Any = tuple.__new__


@dataclass(frozen=True, slots=True)
class IndexKey:
    """Where a row lies in the index of work.

    A claim takes the rows after a key. In a backlog the rows before that key are claimed or settled already, and leave
    obsolete tuples in the index: to pass over these costs time.
    """

    after_time: datetime | str  # naive, UTC
    after_id: int


@dataclass(frozen=True, slots=True)
class EventTypeFilter:
    """Which event types a claim takes, when some have handlers: these only, or all but these and proof events."""

    types: Sequence[str]
    only_these: bool

    def parameters(self) -> dict[str, object]:
        """The parameters `types` and `handled` of claim.sql. A claim of all but these leaves out proof events too."""
        types = [*self.types, *(() if self.only_these else (PROOF_EVENT_TYPE,))]
        return {"types": types, "handled": self.only_these}


@dataclass(frozen=True, slots=True)
class Texts:
    """Payload, headers and names of a row, as the second statement read them, or NEVER_READ.

    `names`: event_type, aggregate_type and aggregate_id; None: they stay as the claim's answer has them.
    """

    payload: str
    headers: str | None
    names: tuple[str, str, str] | None = None


class NoTexts(Enum):
    """Why the second statement read no texts of a row."""

    DELETED = auto()  # somebody deleted the row meanwhile: the batch goes without it
    OVER_BUDGET = auto()  # the texts would make the batch larger than CLAIM_BYTES: the row is released


class ReadRows(NamedTuple):
    """The first rows of a claim, with all their texts. `over_budget`: more rows were claimed, and were released."""

    rows: list[tuple[Any, ...]]
    over_budget: bool


FROM_THE_START = IndexKey("-infinity", 0)


def new_claim_id() -> str:
    """A new fencing token. Made here, not in Postgres, so that a claim whose answer was lost can be named."""
    return str(uuid4())


async def claim(
    session: Session,
    *,
    claim_id: str,
    dispatcher: int | None,
    limit: int,
    fresh_limit: int | None = None,
    canary_slots: int = 256,
    after: IndexKey = FROM_THE_START,
    fresh_after: IndexKey = FROM_THE_START,
    floor: str | None = "0-0",
    mark: HandlerMark | None = None,
    event_types: EventTypeFilter | None = None,
    left_out: Sequence[int] = (),
    since_s: float | None = None,
    most_bytes: int = ANY_SIZE,
    sharded: bool = False,
    layout: str = "",
    now: datetime | None = None,
) -> Batch:
    """Take up to `limit` due rows of the slots below `canary_slots`: fresh rows first, then rows that are not fresh.

    `after`: the key after which the claim begins. With a `fresh_limit`, `after` holds for rows that are not fresh: the
    claim takes at most so many fresh rows, those after `fresh_after`. `floor`: the newest entry id known now, after
    which a takeover searches for these rows. None: the rows do not go to the stream, and `mark` says whether their
    handlers begin at once. `event_types`: only rows of these types, or of all others. `since_s`, with a `fresh_limit`
    and `event_types`: rows that are not fresh are taken only if they fell due in the last so many seconds.
    `most_bytes`: a payload, or headers, of more bytes of JSON stay in Postgres (NEVER_READ). `sharded`: tell the slot
    of each row. `left_out`: slots whose rows are not taken. `layout`: the fingerprint of our layout; where Postgres
    has another, nothing is claimed with a `floor`, and without one where it has an order. `now`: in place of its clock.

    The batch holds at most some CLAIM_BYTES of payloads, and a quarter of that of headers, but the first row always:
    rows that do not fit are released. Python counts characters here: as many bytes, if the text is ASCII.
    Raises SessionLost (the claim may have been made) or psycopg.Error (the claim was not made, or was released).
    """
    split, filtered = fresh_limit is not None, event_types is not None
    statement = load(
        "claim", filtered=filtered, split=split, sharded=sharded, left_out=bool(left_out), handlers=floor is None
    )
    parameters: dict[str, object] = {  # those that this form of the statement does not name do no harm
        "claim_id": claim_id,
        "dispatcher": dispatcher,
        "limit": limit,
        "slots": canary_slots,
        "after_time": after.after_time,
        "after_id": after.after_id,
        "fresh": fresh_limit,
        "fresh_time": fresh_after.after_time,
        "fresh_id": fresh_after.after_id,
        "floor": floor,
        "mark": mark,
        "left_out": list(left_out),
        "layout": layout,
        "since_s": since_s,
        "now": now,
    }
    if event_types is not None:
        parameters |= event_types.parameters()
    rows = await fetch_claimed(session, statement, parameters, most_bytes)
    return await batch_of(session, claim_id, rows if sharded else [(*row, 0) for row in rows], floor, most_bytes)


async def fetch_claimed(
    session: Session, statement: str, parameters: dict[str, Any], most_bytes: int
) -> list[tuple[Any, ...]]:
    """What a claim answers. If one row cannot be read, ask again without texts: else that row would stop all claims.

    Then the names are escaped too, and _texts() reads all.
    """
    try:
        return await session.fetch(statement, parameters | {"most_bytes": most_bytes})
    except UNREADABLE:
        return await session.fetch(statement, parameters | {"most_bytes": None})


async def batch_of(
    session: Session,
    claim_id: str,
    rows: list[tuple[Any, ...]],
    floor: str | None,
    most_bytes: int,
    *,
    sort_by_id: bool = False,
) -> Batch:
    """The batch of a claim's answer, with the texts that the answer does not hold whole. Raises as `claim`."""
    claimed_at, answered = monotonic(), len(rows)
    rows = [row for row in rows if row[0] is not None]
    undone = answered - len(rows)
    rows.sort(key=_by_id if sort_by_id else _by_index_key)
    texts, over_budget = _texts_of(rows), False
    sizes = list(map(len, texts))
    if TRUNCATED_AT in sizes or READ_LATER in {text[0] for text in texts}:
        rows, over_budget = await _read(session, claim_id, rows, most_bytes)
        sizes = list(map(len, _texts_of(rows)))
    # Not _make(): it checks the length, which doubles the time.
    claimed: list[ClaimedRow] = [_new(ClaimedRow, row) for row in rows]
    return Batch(
        claim_id,
        claimed,
        floor or "0-0",
        claimed_at,
        characters=sum(sizes),
        undone_by_trigger=undone,
        over_budget=over_budget,
    )


def _texts_of(rows: list[tuple[Any, ...]]) -> list[str]:
    return [row[_PAYLOAD] for row in rows] + [row[_HEADERS] for row in rows if row[_HEADERS] is not None]


def _is_incomplete(row: tuple[Any, ...]) -> bool:
    """Whether the claim's answer lacks, or may lack, some of the payload or the headers."""
    return any(
        text is not None and (text[0] == READ_LATER or len(text) == TRUNCATED_AT) for text in row[_PAYLOAD:_AFTER]
    )


def _size_of(text: str | None, most_bytes: int) -> int:
    """About how many characters a text has once it is read.

    A text of more than `most_bytes` is not read. A text that was cut may have up to `most_bytes`, so it counts as that.
    """
    if text is None:
        return 0
    if len(text) == TRUNCATED_AT:
        return most_bytes
    return min(int(text[1:]), most_bytes) if text[0] == READ_LATER else len(text)


async def _read(session: Session, claim_id: str, rows: list[tuple[Any, ...]], most_bytes: int) -> ReadRows:
    """The first rows, as many as fit in the budget, with all their texts. Releases the other rows.

    Rows that can never be read are kept among them, with NEVER_READ as text.
    """
    left, first = CLAIM_BYTES, list[tuple[Any, ...]]()
    for row in rows:
        size = _size_of(row[_PAYLOAD], most_bytes) + _size_of(row[_HEADERS], most_bytes)
        if first and size > left:
            break
        left -= size
        first.append(row)
    try:
        wanted = [row[0] for row in first if _is_incomplete(row)]
        texts = await _texts(session, wanted, most_bytes)
        kept, end = list[tuple[Any, ...]](), len(first)
        for at, row in enumerate(first):
            read = texts.get(row[0])
            if read is None:  # the answer held its texts whole
                kept.append(row)
            elif isinstance(read, Texts):
                names = read.names or row[_NAMES:_AFTER_NAMES]
                between = row[_AFTER_NAMES:_PAYLOAD]
                kept.append((*row[:_NAMES], *names, *between, read.payload, read.headers, *row[_AFTER:]))
            elif read is NoTexts.OVER_BUDGET:
                end = at
                break
        if end < len(rows):
            await release(session, [claim_id], [row[0] for row in rows[end:]])
    except psycopg.Error as error:
        try:
            await release(session, [claim_id])
        except psycopg.Error as refused:
            # No session was lost, but the rows stay claimed. SessionLost makes the claimer note the claim as uncertain,
            # and release it before the next claim.
            raise SessionLost(f"the rows are claimed, and Postgres refuses to release them ({refused})") from error
        raise
    return ReadRows(kept, end < len(rows))


async def _texts(session: Session, ids: list[int], most_bytes: int) -> dict[int, Texts | NoTexts]:
    """The texts of these rows, by id. From the first row on that does not fit in the budget, no row has texts."""

    async def read(wanted: list[int]) -> dict[int, Texts | NoTexts]:
        found: dict[int, Texts | NoTexts] = dict.fromkeys(wanted, NoTexts.DELETED)
        for row_id, payload, headers, *names in await session.fetch(
            load("read_row"), {"ids": wanted, "most_bytes": most_bytes}
        ):
            found[row_id] = NoTexts.OVER_BUDGET if payload is None else Texts(payload, headers, (*names,))
        return found

    try:
        return await read(ids)
    except UNREADABLE:  # one row cannot be read at all: the rows are read one by one
        began, found, size = monotonic(), dict[int, Texts | NoTexts](), 0
    for row_id in ids:
        if size > CLAIM_BYTES or monotonic() - began > ONE_BY_ONE_S:
            found[row_id] = NoTexts.OVER_BUDGET
            continue
        try:
            found |= await read([row_id])
        except UNREADABLE:
            found[row_id] = Texts(NEVER_READ, None)
        text = found[row_id]
        size += len(text.payload) if isinstance(text, Texts) else 0
    return found


def last_index_key(batch: Batch) -> IndexKey:
    """Where the batch's last row lies: where the next claim of a backlog begins."""
    row = batch.rows[-1]
    return IndexKey(row.next_run_at, row.id)
