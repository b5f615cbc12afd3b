"""How to reach Postgres, from the settings, and what a session has to find there."""

from dataclasses import replace

import anyio

from dispatcher.core.errors import Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.pooler import PoolerCheck
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.tables import missing, refuse_unfit, what_lacks, why_copy
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.trials import require_trials
from dispatcher.settings import Settings

CONTROL_TIMEOUT_S = 5.0
API_TIMEOUT_S = 5.0
API_CONNECT_S = 2.0
NO_TRANSACTIONS = "08P01"  # how a pooler that pools statements ends a session that begins one


class PostgresTargets:
    """Where each kind of session connects to. `session_name`: a part of every application_name."""

    def __init__(self, settings: Settings, session_name: str) -> None:
        self._settings = settings
        self._session_name = session_name
        self._trying, self._tried = anyio.Lock(), False
        self._checked = False  # a child that is made while we run harms nothing: no reconnect waits for its end
        self._pooler_check = PoolerCheck()
        self._address = ""  # that was asked for last: no file is read for a message
        self._pooled = settings.listen_url != settings.database_url

    def database(self) -> PostgresTarget:
        """The target of lanes and handlers, with the password as it is now."""
        return self._target(self._settings.current("database_url"), pooled=self._pooled)

    def direct(self) -> PostgresTarget:
        """The target of sessions that need no pooler between: they hold locks and listen."""
        return self._target(self._settings.current("listen_url"), pooled=False)

    def control(self) -> PostgresTarget:
        """The target of the control session: its short timeout makes it the first to notice a silent network.

        When another session waits for an answer, it is asked about that one: see dispatcher/upkeep/unanswered.py.
        """
        target = self.direct()
        return replace(target, query_timeout_s=min(target.query_timeout_s, CONTROL_TIMEOUT_S))

    def api(self) -> PostgresTarget:
        """The target of HTTP requests: with short timeouts, because a person waits."""
        target = self.direct()
        return replace(
            target,
            query_timeout_s=min(target.query_timeout_s, API_TIMEOUT_S),
            connect_timeout_s=min(target.connect_timeout_s, API_CONNECT_S),
        )

    def _target(self, url: str, *, pooled: bool) -> PostgresTarget:
        s = self._settings
        target = PostgresTarget(
            url,
            self._session_name,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            query_timeout_s=s.query_timeout_ms / 1000,
            pooled=pooled,
            pooler_check=self._pooler_check,
        )
        self._address = target.address()
        return target

    async def try_out(self, session: Session) -> None:
        """Once a process, before anything is claimed: raises Misconfigured when Postgres refuses what we have to do."""
        async with self._trying:
            if not self._tried:
                try:
                    await require_trials(session, f"Postgres at {self._address}")
                except SessionLost as error:
                    # Nothing can be tried; what we do are single statements.
                    self._tried = NO_TRANSACTIONS in str(error)
                    raise
                self._tried = True

    async def check(self, session: Session) -> None:
        """Raises Misconfigured when a table, right or setting is wrong, Unreachable when the server is a standby."""
        where = self._address
        [(standby, isolation, by_role)] = await session.fetch(
            "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', "
            "current_setting('transaction_isolation'), "
            "NOT pg_is_in_recovery() AND (SELECT source IN ('user', 'database user') FROM pg_settings"
            " WHERE name = 'default_transaction_read_only')"
        )
        if standby and by_role:  # a server on its way to be a standby is read-only for everybody
            raise Misconfigured(
                f"the role at {self._address} has default_transaction_read_only: "
                "ALTER ROLE ... RESET default_transaction_read_only, also IN DATABASE ..."
            )
        if standby:
            raise Unreachable(
                f"Postgres at {where} is read-only: a standby, about to be one, or "
                "default_transaction_read_only was set for this role or database"
            )
        if isolation != "read committed":  # a pooler keeps our own setting from it
            raise Misconfigured(
                f"the role at {where} has default_transaction_isolation '{isolation}', with which "
                "lost entries would go unnoticed: ALTER ROLE ... SET default_transaction_isolation = 'read committed', "
                "then RECONNECT in the pooler"
            )
        await refuse_unfit(session, f"Postgres at {where}", children=not self._checked)
        if gone := await missing(session):
            raise Misconfigured(what_lacks(f"Postgres at {where}", gone))
        if denied := [what for (what,) in await session.fetch(load("rights"))]:
            raise Misconfigured(
                f"the role at {where} lacks {'; '.join(denied)}: grant it the role outbox_dispatcher "
                "(`dispatcher sql roles`)"
            )
        if why := await why_copy(session, settle=True):
            raise Unreachable(f"Postgres at {self.database().address()}: {why}")
        self._checked = True
