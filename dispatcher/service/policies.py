"""Policies that the relay and the handling share, from the settings."""

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import RetryPolicy
from dispatcher.core.entry import EntryFormat
from dispatcher.settings import Settings


def entry_format(s: Settings) -> EntryFormat:
    """Where entries go, and what is too large for one."""
    return EntryFormat(s.stream_name, s.stream_maxlen, s.max_payload_bytes)


def retry_policy(s: Settings) -> RetryPolicy:
    """How often and how patiently a row of its own failing is tried."""
    return RetryPolicy(s.max_attempts, Backoff(s.backoff_base_ms / 1000, s.backoff_max_ms / 1000))


def slots(s: Settings) -> int:
    """How many of the 256 slots are ours."""
    return round(256 * s.canary_percent / 100)
