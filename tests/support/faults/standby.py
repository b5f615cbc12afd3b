"""A real standby of a Postgres: made by pg_basebackup, fed by streaming replication, promoted by pg_ctl."""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

from dispatcher.embedded import EmbeddedPostgres
from dispatcher.embedded.folders import User
from tests.support.faults.world import World, in_thread
from tests.support.proxy import Proxy
from tests.support.waiting import until

PATIENCE_S = 60.0
BEHIND = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NULL OR replay_lsn < %s"


class Standby(EmbeddedPostgres):
    """Follows the server of `primary_url` until it is promoted. Never waits for the disk: it is not meant to last."""

    def __init__(self, data_dir: Path, primary_url: str, *, version: int) -> None:
        super().__init__(data_dir, version=version, durable=False)
        self._primary_url = primary_url

    def promote(self) -> None:
        """Make it the primary, and wait until it is."""
        user = self._user()
        other = user.uid != os.geteuid()
        subprocess.run(
            [str(self.bin("pg_ctl")), "promote", "-D", str(self._cluster()), "-w", "-t", str(int(PATIENCE_S))],
            check=True,
            cwd="/",
            capture_output=True,
            timeout=PATIENCE_S,
            user=user.uid if other else None,
            group=user.gid if other else None,
        )

    def _initdb(self, user: User) -> None:
        command = [
            str(self.bin("pg_basebackup")),
            f"--pgdata={self._cluster()}",
            f"--dbname={urlsplit(self._primary_url)._replace(path='').geturl()}",
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
        ]
        self._cluster().mkdir(mode=0o700)
        if user.uid != os.geteuid():
            os.chown(self._cluster(), user.uid, user.gid)
        child = self._run(command, user)
        assert child.wait(PATIENCE_S), "pg_basebackup does not end"
        assert child.returncode == 0, child.last_words()

    def _ready(self) -> bool:
        try:
            lines = (self._cluster() / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # "standby": it follows, and answers questions; "ready" only after a restart.
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("standby", "ready")


class Pair:
    """The world's Postgres, and a standby of it behind a proxy that can keep from it what is new."""

    def __init__(self, w: World, primary: EmbeddedPostgres, standby: Standby, between: Proxy) -> None:
        self.w = w
        self.primary = primary
        self.standby = standby
        self.between = between

    def standby_url(self, user: str = "postgres") -> str:
        """Of the world's database there."""
        parts = urlsplit(self.w.admin_url)
        return parts._replace(netloc=f"{user}@127.0.0.1:{self.standby.port}").geturl()

    async def in_step(self) -> None:
        """Wait until the standby has everything that was written up to now."""
        [(here,)] = await self.w.ask("SELECT pg_current_wal_insert_lsn()::text")

        async def look() -> bool:
            return await self.w.ask(BEHIND, (here,)) == [(0,)]

        await until(look, "the standby is in step")

    async def switch_over(self, front: Proxy) -> None:
        """Promote the standby that has everything and lead the address of `front` to it. The old primary takes no
        more writes, and keeps its sessions; it is `primary` still, and can be asked."""
        await self.w.load.stop()
        await self.w.drained()
        await self.in_step()
        await in_thread(self.standby.promote)
        front.upstream = ("127.0.0.1", self.standby.port)
        await self.w.ask("ALTER SYSTEM SET default_transaction_read_only = on")
        await self.w.ask("SELECT pg_reload_conf()")

        async def read_only() -> bool:
            return await self.w.ask("SHOW default_transaction_read_only") == [("on",)]

        await until(read_only, "the old primary takes no more writes")
        await self.lead_producers_to_the_standby()
        self.w.load.start()

    async def lead_producers_to_the_standby(self) -> None:
        """The load and the test's own questions go there from now on."""
        await self.w.close()
        self.w.admin_url = self.w.load.url = self.standby_url()

    async def fail_over(self) -> set[str]:
        """kill -9 the primary under load, promote the standby, point producers there. Returns what it has not."""
        await in_thread(self.primary.crash)
        await self.w.load.stop()  # it hears of what was committed last
        self.between.cut()
        await in_thread(self.standby.promote)
        await self.lead_producers_to_the_standby()
        there = {event for (event,) in await self.w.ask("SELECT event_id::text FROM messaging.message_outbox")}
        ledger = self.w.load.ledger
        lost = ledger.acknowledged.keys() - there
        for event in lost:
            del ledger.acknowledged[event]
        ledger.unknown |= lost
        self.w.load.start()
        return lost


StartPair = Callable[[World], AbstractAsyncContextManager[Pair]]
