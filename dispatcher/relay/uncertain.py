"""Claims whose answer was lost or came too late: they may have been made, and nobody works on them."""

from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.settle import release


class UncertainClaims:
    """Written by whoever claims, one at a time."""

    def __init__(self) -> None:
        self._claims: list[tuple[str, int]] = []  # and their session's backend pid

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, claim_id: str, session: Session) -> None:
        """The session broke under this claim, or answered too late. Twice does no harm."""
        self._claims.append((claim_id, session.backend_pid))

    async def free(self, session: Session) -> None:
        """Give back what was claimed all the same, once the old session cannot claim any more."""
        while self._claims:
            doubtful = list(self._claims)
            if not session.pooled:
                await session.fetch(load("end_sessions"), {"pids": [pid for _, pid in doubtful]})
            await release(session, [claim_id for claim_id, _ in doubtful])
            del self._claims[: len(doubtful)]
