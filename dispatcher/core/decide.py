"""Reply to outcome: whose failure an error is, the sink's or the row's (by the table in outages.py).

The sink's failures (an outage, a full memory, a failover, a wrong password) say nothing about the row: it is
released and a breaker opens, so an outage of any length buries nothing. The row's failures cost it one attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dispatcher.core.backoff import Backoff
from dispatcher.core.outages import is_redis_outage
from dispatcher.core.outcome import BatchOutcomes, FailedAttempt, FailedForGood, Outcome, Released, Sent, Unknown
from dispatcher.core.row import ClaimedRow

MAX_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many attempts a row has that fails because of itself, and the pauses between these attempts."""

    max_attempts: int
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class NotApplied:
    """Certainly not applied, because of the sink: nothing was written, the stream is gone, or a proxy refuses all."""

    error: str


@dataclass(frozen=True, slots=True)
class KeptBack:
    """Certainly not applied, because of another row of the batch: this says nothing of the sink."""


@dataclass(frozen=True, slots=True)
class NoReply:
    """The pipeline was written, at least in part; no reply that can be relied on says whether this entry was taken."""

    error: str
    cut: bool = False  # the other end closed the connection; False: it was silent for too long, or we closed it


@dataclass(frozen=True, slots=True)
class Refused:
    """The server answered with an error: certainly not applied. `text` begins with the error's code."""

    text: str


@dataclass(frozen=True, slots=True)
class Unpublishable:
    """The row can never be published, and so was not written (it is too large, for example)."""

    reason: str


@dataclass(frozen=True, slots=True)
class ClosesConnection:
    """The other end closes the connection whenever this entry is written alone, though it answers the probe before."""

    error: str


Reply = bytes | NotApplied | KeptBack | NoReply | Refused | Unpublishable | ClosesConnection


def brief(text: str) -> str:
    """An error fit for `last_error`: one line, at most 500 characters, none of which UTF-8 or Postgres lacks."""
    storable = text.replace("\0", " ").encode("utf-8", "replace").decode()
    return " ".join(storable.split())[:MAX_ERROR_CHARS]


def decide(reply: Reply, attempts: int, policy: RetryPolicy, rng: Random) -> Outcome:
    """The outcome that follows from one reply. `attempts`: the row's count before this try."""
    match reply:
        case bytes():
            return Sent(reply.decode("ascii"))
        case NotApplied(error):
            return Released(brief(error))
        case KeptBack():
            return Released()
        case NoReply(error):
            return Unknown(brief(error))
        case Unpublishable(reason):
            return FailedForGood(brief(reason))
        case Refused(text) if is_redis_outage(text):
            return Released(brief(f"redis: {text}"))
        case Refused(text):
            return _failed(f"redis: {text}", attempts, policy, rng)
        case ClosesConnection(error):
            return _failed(error, attempts, policy, rng)


def _failed(why: str, attempts: int, policy: RetryPolicy, rng: Random) -> Outcome:
    error = brief(why)
    if attempts + 1 >= policy.max_attempts:
        return FailedForGood(error)
    return FailedAttempt(policy.backoff.delay(attempts + 1, rng), error)


def decide_batch(
    rows: Sequence[ClaimedRow], replies: Sequence[Reply], policy: RetryPolicy, rng: Random
) -> BatchOutcomes:
    """The outcomes of a batch. `replies`: in the order of its rows.

    Raises ValueError when the counts differ: rows would get the outcomes of other rows.
    """
    if len(rows) != len(replies):
        raise ValueError(f"{len(replies)} replies for {len(rows)} rows")
    outcomes = BatchOutcomes()
    sent_ids, stream_ids = outcomes.sent_ids, outcomes.stream_ids
    for row, reply in zip(rows, replies, strict=True):
        if type(reply) is bytes:
            sent_ids.append(row.id)
            stream_ids.append(reply.decode("ascii"))
        else:
            outcomes.add(row.id, decide(reply, row.attempts, policy, rng))
    return outcomes
