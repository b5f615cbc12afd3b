"""Which incarnation of Redis a connection leads to: what one acknowledged another may have lost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisIncarnation:
    """Identifies one lifetime of one Redis data set, by run id and replication id ("" where Redis does not tell).

    If it changes, acknowledged entries may be lost.
    """

    stream: str
    run_id: str = ""
    replid: str = ""

    @property
    def known(self) -> bool:
        """Whether Redis told both ids, so that one incarnation can be told from another."""
        return bool(self.run_id and self.replid)
