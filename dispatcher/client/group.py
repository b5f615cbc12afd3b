"""The settings of a consumer of a group, checked once."""

import os
import secrets
import socket
from dataclasses import dataclass, field


def _prefix() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-"


def _new_name() -> str:
    """A unique name: two consumers with one name would take each other's entries for their own."""
    return _prefix() + secrets.token_hex(3)


def is_ours(consumer: str) -> bool:
    """Whether no other process can have this name: it was made here, and not before a fork."""
    return consumer.startswith(_prefix())


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A consumer group of a stream, and how this consumer takes part. Times are in milliseconds."""

    stream: str
    group: str
    consumer: str = field(default_factory=_new_name)  # unique in the group
    start: str = "0"  # where a group begins at its first start: "0" the oldest entry, "$" after the newest
    count: int = 100  # entries of one read
    block_ms: int = 1_000  # the longest wait for new entries; a stop waits for it
    claim_idle_ms: int = (
        60_000  # then another consumer may claim an unacknowledged entry: longer than your slowest handler
    )
    retry_ms: int = 1_000  # the pause after an event's first failure; doubles with each, up to claim_idle_ms
    max_deliveries: int = 10  # after that many an entry goes to dead_stream
    dead_stream: str = ""  # default: <stream>:<group>:dead

    def __post_init__(self) -> None:
        """Raises ValueError, which names the setting."""
        for name in ("stream", "group", "consumer", "start"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name in ("count", "block_ms", "claim_idle_ms", "retry_ms", "max_deliveries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if not self.dead_stream:
            object.__setattr__(self, "dead_stream", f"{self.stream}:{self.group}:dead")

    def delay_ms(self, deliveries: int) -> int:
        """Milliseconds until an event is delivered again after its n-th delivery failed."""
        return min(self.claim_idle_ms, self.retry_ms << min(deliveries - 1, 30))
