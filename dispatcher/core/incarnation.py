"""Which run of Redis a connection leads to: what was acknowledged by one run another one may have lost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisIncarnation:
    """A run of Redis that holds a stream. `run_id` and `replid` are "" where Redis does not tell.

    Equal: the same run and data set. Identical (`is`): the same connection, found to lead there once.
    """

    stream: str
    run_id: str = ""
    replid: str = ""

    @property
    def known(self) -> bool:
        """Whether one run can be told from another."""
        return bool(self.run_id and self.replid)
