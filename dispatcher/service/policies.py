"""Policies that both relays share, from the settings."""

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.entry import EntryFormat, EntryFormats
from dispatcher.core.layout import Layout
from dispatcher.relay.policy import ClaimPolicy
from dispatcher.settings import Settings
from dispatcher.stages.claim import EventTypeFilter


def entry_format(s: Settings) -> EntryFormat:
    """The entries of the default stream, and what is too large for one."""
    return EntryFormat(s.stream_name, s.stream_maxlen, s.max_payload_bytes)


def entry_formats(s: Settings) -> EntryFormat | EntryFormats:
    """Where entries go."""
    return entry_format(s) if s.layout.plain else EntryFormats(s.layout, s.stream_maxlen, s.max_payload_bytes)


def retry_policy(s: Settings) -> RetryPolicy:
    """How many attempts a row has, and the pauses between them."""
    return RetryPolicy(s.max_attempts, Backoff(s.backoff_base_ms / 1000, s.backoff_max_ms / 1000))


def handler_retry_policy(s: Settings) -> RetryPolicy:
    """The same for rows that go to handlers. The ten attempts of the defaults last about two hours."""
    backoff = Backoff(s.handler_backoff_base_ms / 1000, s.handler_backoff_max_ms / 1000, factor=3.0)
    return RetryPolicy(s.max_attempts, backoff)


def claim_policy(s: Settings, event_types: EventTypeFilter | None, *, layout: Layout | None = None) -> ClaimPolicy:
    """What one relay claims. `layout`: that has to stand in Postgres; None: its rows go to no stream."""
    sharded, fingerprint = s.stream_shards > 1 and layout is not None, layout.fingerprint if layout else ""
    return ClaimPolicy(slots(s), s.lease_ms / 1000, s.max_payload_bytes, event_types, sharded, fingerprint)


def slots(s: Settings) -> int:
    """How many of the 256 slots are ours."""
    return round(256 * s.canary_percent / 100)
