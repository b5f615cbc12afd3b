"""How a consumer reads its group: the settings, checked once."""

import os
import secrets
import socket
from dataclasses import dataclass, field


def _new_name() -> str:
    """Unlike every other's: two consumers with one name would take each other's entries for their own."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A consumer group of a stream, and how this consumer takes part. Times are in milliseconds."""

    stream: str
    group: str
    consumer: str = field(default_factory=_new_name)  # unlike every other's in the group
    start: str = "0"  # where a group that does not exist yet begins: "0" the oldest entry, "$" after the newest
    count: int = 100  # entries of one read
    block_ms: int = 1_000  # the longest wait for new entries; a stop waits for it
    claim_idle_ms: int = (
        60_000  # after this an unacknowledged entry goes to another consumer: above your slowest handler
    )
    retry_ms: int = 1_000  # the pause after an event's first failure; doubles with each, up to claim_idle_ms
    max_deliveries: int = 10  # after so many an entry goes to dead_stream
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
        """How long an event waits after its n-th delivery failed."""
        return min(self.claim_idle_ms, self.retry_ms << min(deliveries - 1, 30))
