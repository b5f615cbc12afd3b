"""compose.yaml: it fits the specification's schema, its parts fit each other, and its scripts do what they say.

The schema is the compose-spec project's own, as check-jsonschema carries it.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import yaml
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode

from dispatcher.client.group import shard_keys
from dispatcher.core.layout import Layout
from dispatcher.core.redis_url import read_redis_url
from dispatcher.settings import describe
from dispatcher.settings.describe import default_text
from tests.support.psql import client_program, psql
from tests.support.readme import ROOT
from tests.support.redis import StartValkey
from tests.support.rows import STREAM
from tests.support.tools import tool
from tests.support.waiting import until

FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
SCRIPTS = ROOT / "deploy" / "compose"
ONE_SHOT = {"migrate", "roles", "redis-form"}


def check_schema(file: Path) -> subprocess.CompletedProcess[str]:
    """Validate against the compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_it_fits_the_specification(tmp_path: Path) -> None:
    done = check_schema(FILE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("    healthcheck:", "    healthchek:", 1))
    assert check_schema(wrong).returncode == 1


def test_everything_is_there() -> None:
    assert {"postgres", "redis", "dispatcher", "producer", "consumer", "prometheus", "grafana"} <= set(SERVICES)
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert SERVICES["redis"]["image"] == "redis:8"
    assert all(re.search(r":[\w.]+$", service["image"]) for service in SERVICES.values())
    build = SERVICES["dispatcher"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def test_the_test_profile_has_the_runbooks_ports() -> None:
    profile = {name: service for name, service in SERVICES.items() if service.get("profiles") == ["test"]}
    assert {name: service["ports"] for name, service in profile.items()} == {
        "postgres-test": ["127.0.0.1:5433:5432"],
        "redis-test": ["127.0.0.1:6380:6379"],
    }
    assert profile["postgres-test"]["environment"] == {
        "POSTGRES_PASSWORD": "postgres",
        "POSTGRES_DB": "messaging_test",
    }


def test_the_cluster_is_the_same_system_with_other_values() -> None:
    lines = (SCRIPTS / "cluster.env").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert values.pop("COMPOSE_PROFILES") == "cluster"
    named = set(re.findall(r"\$\{(STREAM_\w+):-", FILE.read_text(encoding="utf-8")))
    assert named == set(values)
    nodes = {name for name, service in SERVICES.items() if service.get("profiles") == ["cluster"]} - {"redis-form"}
    assert len(nodes) == 6
    assert {each.partition(":")[0] for each in SERVICES["redis-form"]["entrypoint"][2:]} == nodes
    url = read_redis_url(values["STREAM_REDIS_URL"])
    assert url.kind == "cluster"
    assert {host for host, _ in url.addresses} | {values["STREAM_REDIS_HOST"]} <= nodes
    Layout(STREAM, int(values["STREAM_SHARDS"]))


async def test_the_nodes_become_a_cluster_and_each_shard_is_read(own_valkey: StartValkey) -> None:
    options = {"cluster-enabled": "yes", "cluster-require-full-coverage": "no"}
    servers = [await asyncio.to_thread(own_valkey, options=options) for _ in range(6)]
    path = f"{Path(tool('redis-cli')).parent}:{os.environ['PATH']}"
    nodes = [f"localhost:{server.port}" for server in servers]
    for said in ("[OK] All 16384 slots covered", "they are a Cluster already"):
        forming = await start("/bin/sh", str(SCRIPTS / "form_cluster.sh"), *nodes, env={"PATH": path})
        assert said in (await forming.communicate())[0].decode()
        assert forming.returncode == 0
    keys = shard_keys(STREAM, 8)
    client = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", servers[0].port)], decode_responses=True)
    async with client:
        for key in keys:
            await client.xadd(key, {"n": "1"})
        env = {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(servers[0].port),
            "DISPATCH_STREAM_SHARDS": "8",
            "PATH": path,
        }
        consumer = await start("/bin/sh", str(SCRIPTS / "sample_consumer.sh"), env=env)

        async def lag() -> int | None:
            groups = [await client.xinfo_groups(key) for key in keys]
            return sum(int(each[0]["lag"]) for each in groups) if all(groups) else None

        try:
            await works(consumer, lag, lambda count: count == 0)
        finally:
            await stop(consumer)


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
            else:
                assert (how["condition"], other in ONE_SHOT) == ("service_completed_successfully", True)


def test_files_and_volumes_that_are_mounted_exist() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, source)
                assert mount.endswith(":ro"), (name, mount)
            else:
                assert source in COMPOSE["volumes"], (name, source)


def test_nothing_is_open_to_the_network_and_ours_is_hardened() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in ("dispatcher", "migrate", "roles", "producer", "consumer"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "build" in service or service["user"]  # the Dockerfile says it for ours


def test_settings_are_known_and_the_stop_is_patient() -> None:
    known = {row.env for row in describe()}
    for name in ("dispatcher", "migrate"):
        assert set(SERVICES[name]["environment"]) <= known
    grace = int(SERVICES["dispatcher"]["stop_grace_period"].removesuffix("s"))
    assert grace * 1000 > int(default_text("shutdown_grace_ms"))


def test_prometheus_and_grafana_find_each_other() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    [target] = [job["static_configs"][0]["targets"] for job in scraped if job["job_name"] == "dispatcher"]
    assert target == [f"dispatcher:{default_text('http_port')}"]
    grafana = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((grafana / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((grafana / "dashboards" / "messaging.yml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


async def test_the_logins_can_do_their_work_and_no_more(database_url: str, redis: Redis, redis_url: str) -> None:
    """roles.sql and logins.sql, twice; the sample load as `shop`; the consumer reads it, after a relay by hand."""
    env = {"RELAY_PASSWORD": "re'lay", "SHOP_PASSWORD": "shop"}
    for _ in range(2):
        for file in (ROOT / "sql" / "roles.sql", SCRIPTS / "logins.sql"):
            await asyncio.to_thread(psql_with, env, database_url, file)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as db:
        members = await (
            await db.execute(
                "SELECT m.rolname, r.rolname FROM pg_auth_members AS a JOIN pg_roles AS m ON m.oid = a.member"
                " JOIN pg_roles AS r ON r.oid = a.roleid WHERE m.rolname IN ('relay', 'shop') ORDER BY 1"
            )
        ).fetchall()
        assert members == [("relay", "outbox_dispatcher"), ("shop", "outbox_producer")]
        load = [str(client_program("psql")), "-X", "-q", "-d", database_url, "-v", "ON_ERROR_STOP=1"]
        as_shop = ["-c", "SET ROLE shop", "-o", os.devnull, "-f", str(SCRIPTS / "sample_load.sql")]
        producer = await start(*load, *as_shop)
        try:
            await works(producer, lambda: rows(db), lambda count: count >= 3)
        finally:
            await stop(producer)
        await db.execute("DROP ROLE relay, shop")  # they belong to the server, not to this database
    for number in range(3):
        await redis.xadd(STREAM, {"n": number})
    host, port = redis_url.removeprefix("redis://").partition("/")[0].split(":")
    path = f"{Path(tool('redis-cli')).parent}:{os.environ['PATH']}"
    consumer = await start(
        "/bin/sh", str(SCRIPTS / "sample_consumer.sh"), env={"REDIS_HOST": host, "REDIS_PORT": port, "PATH": path}
    )
    try:
        await works(consumer, lambda: unread(redis), lambda lag: lag == 0)
    finally:
        await stop(consumer)


def psql_with(env: dict[str, str], url: str, file: Path) -> None:
    """Run a script with variables in its environment."""
    lines = [f"\\setenv {name} '{value.replace(chr(39), chr(39) * 2)}'" for name, value in env.items()]
    psql(url, text="\n".join([*lines, f"\\i {file}"]))


async def rows(db: psycopg.AsyncConnection[Any]) -> int:
    """Events in the outbox."""
    row = await (await db.execute("SELECT count(*) FROM messaging.message_outbox")).fetchone()
    return int(row[0]) if row else 0


async def unread(redis: Redis) -> int | None:
    """What the group `sample` has yet to read; None before there is one."""
    groups = await redis.xinfo_groups(STREAM)
    return next((int(group["lag"]) for group in groups if group["name"] == "sample"), None)


async def works(
    process: asyncio.subprocess.Process,
    look: Callable[[], Awaitable[int | None]],
    enough: Callable[[int], bool],
) -> None:
    """Wait until what a script does is seen."""

    async def seen() -> bool:
        if process.returncode is not None:
            raise AssertionError((await process.communicate())[0].decode())
        return (found := await look()) is not None and enough(found)

    await until(seen, "what the script does is seen")


async def start(*command: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Start a script in a group of its own."""
    return await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def stop(process: asyncio.subprocess.Process) -> None:
    """End it and what it started."""
    if process.returncode is None:
        os.killpg(process.pid, 9)
    await process.communicate()
