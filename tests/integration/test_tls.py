"""TLS to Postgres, on a server that has it: what cannot be agreed on is told in libpq's words."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dispatcher.core.errors import Misconfigured
from dispatcher.embedded import EmbeddedPostgres
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.target import PostgresTarget
from tests.support.addresses import lead_to
from tests.support.tls import make_certificate
from tests.support.waiting import until

PASSWORD = "s3cr3t-Wort"


class DebiansPostgres(EmbeddedPostgres):
    """The wheels' servers are built without TLS."""

    authority: Path  # signed the server's certificate

    def _programs(self) -> Path:
        return Path(f"/usr/lib/postgresql/{self.version}/bin")


@pytest.fixture(scope="module")
def secure(server_folder: Path) -> Iterator[DebiansPostgres]:
    """A server that lets the role `app` in with TLS and a password only; its certificate is for db.test."""
    versions = sorted(int(path.name) for path in Path("/usr/lib/postgresql").glob("[0-9]*"))
    if not versions:
        pytest.skip("there is no Postgres with TLS here: apt-get install postgresql (or make tools)")
    certificate = make_certificate(server_folder, "db.test")
    with DebiansPostgres(server_folder / "secure", version=versions[-1], durable=False) as server:
        cluster = server.data_dir / "cluster"
        server.authority = certificate.authority
        owner = (cluster / "PG_VERSION").stat()
        for file in (certificate.key, certificate.shown):
            file = Path(shutil.copy(file, cluster))
            os.chown(file, owner.st_uid, owner.st_gid)
            file.chmod(0o600)
        (cluster / "pg_hba.conf").write_text(
            "hostssl all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"
        )
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
            admin.execute("ALTER SYSTEM SET ssl = on")
            admin.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture
async def url(secure: DebiansPostgres) -> str:
    """Of the role app; the server has read its settings."""
    made = secure.url().replace("postgres@", f"app:{PASSWORD}@")

    async def speaks_tls() -> bool:
        try:
            await (await connect(PostgresTarget(f"{made}?sslmode=require", "test"), "lane")).close()
        except Misconfigured:
            return False
        return True

    await until(speaks_tls, "the server speaks TLS")
    return made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sslmode=verify-full&sslrootcert=/no/such/file", "root certificate file"),  # no "role does not exist"
        ("sslmode=verify-full&sslrootcert={authority}", "does not match host name"),
        ("sslmode=verify-ca&sslrootcert={other}", "certificate verify failed"),
        ("sslmode=disable", "SQLSTATE 28000"),
        ("password=wrong", "SQLSTATE 28P01"),  # with TLS and then without: the first refusal is the reason
    ],
)
async def test_what_cannot_be_agreed_on(
    secure: DebiansPostgres, url: str, tmp_path: Path, options: str, words: str
) -> None:
    options = options.format(authority=secure.authority, other=make_certificate(tmp_path, "other").authority)
    with pytest.raises(Misconfigured) as caught:
        await connect(PostgresTarget(f"{url}?{options}", "test"), "lane")
    said = str(caught.value)
    assert words in said
    assert "unreachable" not in said
    assert "does not exist. Check" not in said
    assert PASSWORD not in said


async def test_what_can_be(secure: DebiansPostgres, url: str) -> None:
    for options in ("sslmode=prefer", f"sslmode=verify-ca&sslrootcert={secure.authority}", "channel_binding=require"):
        assert await has_tls(f"{url}?{options}")


async def has_tls(url: str) -> bool:
    """Whether a session that is opened with this has TLS."""
    session = await connect(PostgresTarget(url, "test"), "lane")
    [(tls,)] = await session.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await session.close()
    return bool(tls)


@pytest.mark.parametrize("named", ["hostaddr=127.0.0.1", ""])
async def test_a_name_that_ends_with_a_dot(
    secure: DebiansPostgres, url: str, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """So a name is written in Kubernetes, that no search domain is tried; no certificate has the dot."""
    lead_to(monkeypatch, "db.test.")
    parts = f"host=db.test. {named} port={urlsplit(url).port} user=app password={PASSWORD} dbname=postgres"
    assert await has_tls(f"{parts} sslmode=verify-full sslrootcert={secure.authority}")


@pytest.mark.parametrize("sslmode", ["require", "prefer"])
async def test_a_home_that_cannot_be_looked_into(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sslmode: str
) -> None:
    """As /root for those who are not root. libpq would do without TLS, and send the password in the clear."""
    home = tmp_path / "home"
    home.symlink_to(home)  # root may look into any folder, but not along a link that leads to itself
    monkeypatch.setenv("HOME", str(home))
    assert await has_tls(f"{url}?sslmode={sslmode}")
