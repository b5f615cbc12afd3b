"""A server that FIPS binds refuses md5: nothing of ours may need it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from dispatcher.core.events import Settled
from dispatcher.embedded import EmbeddedPostgres
from dispatcher.infra.postgres.migrations import migrate
from tests.support.psql import psql
from tests.support.readme import ROOT
from tests.support.rows import insert_events
from tests.support.running import StartDispatcher

Db = psycopg.AsyncConnection[Any]
DEBIAN = Path("/usr/lib/postgresql/15/bin")


async def test_nothing_of_ours_needs_md5(db: Db) -> None:
    """A FIPS server refuses it, and with it each INSERT."""
    expressions = await db.execute(
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid::regclass::text LIKE 'messaging.%'"
        " UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'messaging'::regnamespace"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'messaging'"
        " UNION ALL SELECT prosrc FROM pg_proc WHERE pronamespace = 'messaging'::regnamespace"
    )
    files = [path for path in (ROOT / "sql").rglob("*.sql") if path.parent.name != "migrations"]
    texts = [text for (text,) in await expressions.fetchall()] + [path.read_text(encoding="utf-8") for path in files]
    assert [text for text in texts if "md5" in text] == []


class DebianPostgres(EmbeddedPostgres):
    """Debian's: it hashes with OpenSSL, as the servers do that FIPS binds."""

    def _programs(self) -> Path:
        return DEBIAN


SHIM = b"""
#define _GNU_SOURCE
#include <dlfcn.h>
extern const void *EVP_md5(void);
int EVP_DigestInit_ex(void *context, const void *type, void *engine) {
    int (*next)(void *, const void *, void *) = dlsym(RTLD_NEXT, "EVP_DigestInit_ex");
    return type == EVP_md5() ? 0 : next(context, type, engine);
}
"""
DISPATCHBOX = """
CREATE TABLE outbox_event (id bigint, aggregate_type text, aggregate_id text, event_type text, payload jsonb,
    status text, attempts integer, next_run_at timestamptz, created_at timestamptz);
INSERT INTO outbox_event VALUES (1, 'a', 'b', 'c', '{}', 'pending', 0, now(), now())
"""


@pytest.fixture
def fips(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DebianPostgres]:
    """A server that refuses md5."""
    compiler = shutil.which("cc")
    if compiler is None or not (DEBIAN / "postgres").exists():
        pytest.skip("needs cc and Debian's Postgres 15")
    shim = server_folder / "no_md5.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(shim), "-xc", "-"], input=SHIM, check=True)
    shim.chmod(0o755)
    with monkeypatch.context() as preloaded:
        preloaded.setenv("LD_PRELOAD", str(shim))
        server = DebianPostgres(server_folder / "fips", version=15, durable=False)
        server.start()
    yield server
    server.stop()


async def test_a_server_that_refuses_md5(fips: DebianPostgres, dispatcher: StartDispatcher, redis: Redis) -> None:
    await migrate(fips.url())
    async with await psycopg.AsyncConnection.connect(fips.url(), autocommit=True) as db:
        with pytest.raises(psycopg.Error, match="could not compute MD5 hash"):
            await db.execute("SELECT md5('a')")
        async with dispatcher(database_url=fips.url(), canary_percent=50) as running:
            await insert_events(db, 100)
            expected = await db.execute("SELECT count(*) FROM messaging.message_outbox WHERE slot < 128")
            [[ours]] = await expected.fetchall()
            await running.tap.add_up(Settled, sent=ours)
    assert 20 < ours < 80
    psql(fips.url(), "-c", DISPATCHBOX, "-f", str(ROOT / "sql" / "migrate_from_dispatchbox.sql"))
