"""A small world to break: a Postgres, a Valkey, dispatchers behind proxies, a load, and the oracle after each fault."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from dispatcher.core.layout import Layout, Route
from dispatcher.embedded import EmbeddedValkey
from tests.support.child import start_child
from tests.support.faults import claims, oracle, order, results
from tests.support.faults.direct import Direct
from tests.support.faults.load import Load
from tests.support.faults.process import Process
from tests.support.proxy import Proxy
from tests.support.rows import STREAM
from tests.support.waiting import NeverCameTrue, until

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
ROLES = (ROOT / "sql" / "roles.sql").read_text()
RELAY = "relay"  # the role dispatchers sign in as: no superuser, as in production
MORE = 60  # events committed after recovery, to see that it lasts
LAST_LINES = 60  # of a dispatcher's log, when something did not come
RECENT = 40  # entries whose latency says whether events flow


@dataclass(slots=True)
class Fault:
    """A fault in progress. `heal()` says when it was over; by default that is the end of its block."""

    healed: float | None = None

    def heal(self) -> None:
        """The fault is over now: from here on recovery is timed."""
        self.healed = time.time()


class World(Direct):
    """Made by the fixture `world`. `settings` are environment variables of every dispatcher."""

    in_order = False  # whether they keep the order within aggregates; set by the fixture `order`
    in_time = True  # whether events must flow within the SLA; set by the fixture `world`

    def __init__(self, admin_url: str, valkey: EmbeddedValkey, test: str, settings: dict[str, str]) -> None:
        super().__init__(admin_url, valkey)
        self.test = test
        self.settings = {
            "DISPATCHER_ENABLED": "true",
            "DISPATCH_TICK_MS": "200",
            "DISPATCH_LEASE_MS": "6000",
            "DISPATCH_PUBLISH_TIMEOUT_MS": "1000",
            "DISPATCH_CONNECT_TIMEOUT_MS": "2000",
            "DISPATCH_QUERY_TIMEOUT_MS": "3000",
            **settings,
        }
        if self.in_order:
            self.settings |= {"DISPATCH_ORDER": "aggregate"}
        shards, routes = int(settings.get("DISPATCH_STREAM_SHARDS", "1")), settings.get("DISPATCH_ROUTES", "")
        pairs = tuple(Route(*pair.split("=")) for pair in routes.split(",") if pair)
        self.layout = Layout(STREAM, shards, pairs)
        self.keys = self.layout.keys
        others = [*(f"{pattern.rstrip('*')}created" for pattern, _ in pairs), "other"] if pairs else []
        self.load = Load(admin_url, types=["order.created", *others])
        self.processes: list[Process] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await (await self.db()).execute(claims.INSTALL)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()  # first: the load may wait for an answer that a proxy keeps
        await self.load.stop()
        for process in self.processes:
            await process.child.kill()
        await self.close()

    # Dispatchers.

    async def dispatcher(
        self, *, ready: bool = True, filtered: Any = None, planted: str | None = None, **settings: str
    ) -> Process:
        """Start one behind proxies of its own. `filtered` makes a filter of its Postgres connections; `planted`: with
        this part of the order left out."""
        postgres_url = urlsplit(self.admin_url)._replace(query="sslmode=disable&gssencmode=disable").geturl()
        postgres_url = postgres_url.replace("postgres@", f"{RELAY}@")
        postgres, redis = await self.proxy(postgres_url), await self.proxy(self.valkey.url)
        postgres.make_filter = filtered
        urls = {"DATABASE_URL": postgres.via(postgres_url), "REDIS_URL": redis.via(self.valkey.url)}
        module = "dispatcher"
        if planted is not None:
            module = "tests.support.faults.planted"
            settings |= {"PLANTED": planted, "PYTHONPATH": str(ROOT)}
        child = await start_child("run", env=self.settings | urls | settings, module=module)
        process = Process(child, postgres, redis)
        self.processes.append(process)
        if ready:
            await child.ready()
        return process

    async def proxy(self, url: str) -> Proxy:
        """A proxy before the server of a URL."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        made = Proxy(parts.hostname, parts.port)
        await made.start()
        self._stack.push_async_callback(made.stop)
        return made

    async def alive(self) -> list[Process]:
        """Those that run."""
        return [process for process in self.processes if process.alive]

    # Flow.

    async def backlog(self, rows: int, aggregates: int = 400) -> None:
        """Commit so many events at once, of so many aggregates in turn."""
        found = await self.ask(
            "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) "
            "SELECT 'order.created', 'b' || i %% %s, jsonb_build_object('i', i) FROM generate_series(1, %s) AS i "
            "RETURNING event_id::text",
            (aggregates, rows),
        )
        now = time.time()
        self.load.ledger.acknowledged.update((event, now) for (event,) in found)

    async def fill(self, rows: int) -> None:
        """Commit so many events of few aggregates while Redis has room for some of a pipeline, then give it room."""
        used = (await self.redis("INFO", "memory"))["used_memory"]
        await self.redis("CONFIG", "SET", "maxmemory", used + 60_000)
        await self.backlog(rows, aggregates=5)
        await self.commits(30)
        await self.redis("CONFIG", "SET", "maxmemory", 0)
        await self.drained()

    async def owns_slots(self, process: Process) -> bool:
        """Whether it owns some, with order."""
        await process.child.line('"event": "dispatcher_started"')
        asked = (
            "SELECT 1 FROM messaging.slot_owner AS s JOIN messaging.dispatcher AS d ON d.id = s.owner WHERE d.name = %s"
        )
        return bool(await self.ask(f"{asked} LIMIT 1", (process.name,)))

    async def commits(self, events: int) -> None:
        """Let the load commit so many more."""
        goal = len(self.load.ledger.acknowledged) + events

        async def look() -> bool:
            return len(self.load.ledger.acknowledged) >= goal

        await until(look, f"{events} more events are committed")

    async def flowing(self, since: float = 0.0, timeout_s: float = 120.0) -> None:
        """Wait until the newest entries are of events committed after `since`, at p95 within the SLA if `in_time`."""

        async def look() -> bool:
            newest = await self.entries(RECENT)
            committed = [(self.load.ledger.acknowledged.get(event, 0.0), added) for event, added in newest]
            recent = [added - at for at, added in committed if at > since]
            return len(recent) >= RECENT // 2 and (not self.in_time or oracle.p95(recent) < oracle.SLA_S)

        await self._until(look, "events flow at p95 < 1.5 s" if self.in_time else "events flow", timeout_s)

    async def drained(self, timeout_s: float = 60.0) -> None:
        """Wait until no row is unsettled."""

        async def look() -> bool:
            counts = await self.ask("SELECT count(*) FROM messaging.message_outbox WHERE NOT settled")
            return counts == [(0,)]

        await self._until(look, "every row is settled", timeout_s)

    async def _until(self, look: Callable[[], Awaitable[bool]], what: str, timeout_s: float) -> None:
        """Wait; if it does not come, print what the dispatchers said last, and what their sessions do."""
        try:
            await until(look, what, timeout_s)
        except NeverCameTrue:
            for process in self.processes:
                print("\n".join(process.child.lines[-LAST_LINES:]))  # noqa: T201
            sessions = (
                "SELECT application_name, state, wait_event, clock_timestamp() - query_start, left(query, 60)"
                " FROM pg_stat_activity WHERE datname = current_database()"
            )
            for session in await self.ask(sessions):
                print(*session)  # noqa: T201
            raise

    async def disorder(self) -> order.Disorder:
        """Which events came after a later one of their aggregate."""
        return order.find_disorder(
            (event for event, _ in await self.entries()), await order.read_places(await self.db())
        )

    @asynccontextmanager
    async def survives(
        self,
        name: str,
        *,
        recover_s: float = 120.0,
        drain_s: float = 60.0,
        baseline: bool = True,
        spare_files: int = 0,
        **allowed: Any,
    ) -> AsyncIterator[Fault]:
        """Load, the fault in the block, then recovery and quiet; then asserts every promise (oracle.judge), and that
        sessions, tasks and files are as before. `spare_files`: so many more may be open. `allowed`: see Allowance."""
        self.load.start()
        await self.flowing()
        files = {process.name: process.open_files() for process in await self.alive()}
        sessions = await self.sessions()
        fault = Fault()
        yield fault
        if fault.healed is None:
            fault.heal()
        assert fault.healed is not None
        await self.flowing(fault.healed, recover_s)
        await self.commits(MORE)
        await self.load.stop()
        await self.drained(drain_s)
        name = f"in order: {name}" if self.in_order else name
        allowance = oracle.Allowance(disorder=not self.in_order, **allowed)
        problems = await self._judge(name, fault.healed, allowance)
        if baseline:
            await self._baseline(files, sessions, spare_files)
        assert not problems, f"{name}:\n  " + "\n  ".join(problems)

    async def _judge(self, name: str, healed: float, allowed: oracle.Allowance) -> list[str]:
        lease_s = int(self.settings["DISPATCH_LEASE_MS"]) / 1000
        gone = {process.token: process.gone_at for process in self.processes if process.gone_at is not None}
        await self.ask("SELECT 1")
        db = await self.db()
        seen = oracle.Seen(
            ledger=self.load.ledger,
            rows=await oracle.read_rows(db),
            dead_letters={event for (event,) in await self.ask("SELECT event_id::text FROM messaging.message_dlq")},
            stream=await self.entries(),
            claims=await claims.read_claims(db, lease_s=lease_s, healed=healed, gone=gone),
            lease_s=lease_s,
            healed=healed,
            places=await order.read_places(db),
        )
        measured, problems = oracle.judge(seen, allowed, name, self.test)
        print(measured.line())  # noqa: T201 -- what was measured is half of what a fault is for
        if not problems:
            results.keep(measured)
        return problems

    async def _baseline(self, files: dict[str, int], sessions: Counter[str], spare_files: int) -> None:
        """Wait until nothing is left of the fault: sessions of the dead, sessions and files of the living."""
        alive = await self.alive()
        each = max(sessions.values())

        async def look() -> bool:
            # Fewer is no leak: a session that was ended is replaced when it is needed next.
            found = await self.sessions()
            return found.keys() <= {process.token for process in alive} and max(found.values()) <= each

        await until(look, f"{each} Postgres sessions for each of {[p.token for p in alive]}, and no other")

        most = max(files.values()) + spare_files  # one may have opened its last connection only after it was counted

        async def count() -> bool:
            return all(process.open_files() <= most for process in alive)

        await until(count, f"open files back at {files}")


StartWorld = Callable[..., AbstractAsyncContextManager[World]]


async def in_thread(call: Callable[[], T]) -> T:
    """Start, stop or crash a server without holding up the load and the proxies."""
    return await asyncio.to_thread(call)
