"""`dispatcher dev`, as a person runs it."""

import json
import signal
import socket
from pathlib import Path

import aiohttp
import psycopg
import pytest
import redis as redis_sync

from dispatcher.embedded import free_port
from tests.support.child import Child, StartCli
from tests.support.waiting import becomes, until


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / str(request.node.name)


@pytest.fixture
def file(folder: Path) -> Path:
    folder.touch()
    return folder


class Dev:
    """The command on ports of its own."""

    def __init__(self, cli: StartCli, folder: Path) -> None:
        self.folder = folder
        self.ports = (free_port(), free_port())
        self._cli = cli

    async def start(self, *more: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Child:
        postgres, redis = map(str, self.ports)
        options = ("--data-dir", str(self.folder), "--postgres-port", postgres, "--redis-port", redis)
        return await self._cli("dev", *options, *more, env=env, cwd=cwd)

    def listening(self) -> list[int]:
        found = []
        for port in self.ports:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    found.append(port)
        return found


@pytest.fixture
def dev(cli: StartCli, folder: Path) -> Dev:
    return Dev(cli, folder)


async def urls(child: Child, last: str = "Ctrl-C stops both") -> tuple[str, str]:
    """What it says to export, once it is up; `last`: the last line of what it says."""
    await child.line(last)
    database = (await child.line("export DATABASE_URL=")).partition("=")[2]
    redis = (await child.line("export REDIS_URL=")).partition("=")[2]
    return database, redis


async def test_data_stays_from_run_to_run(dev: Dev) -> None:
    insert = "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('t', 'a', '{}')"
    for run, stop in enumerate((signal.SIGINT, signal.SIGTERM), start=1):
        child = await dev.start()
        database_url, redis_url = await urls(child)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(insert)
            count = connection.execute("SELECT count(*) FROM messaging.message_outbox").fetchone()
        with redis_sync.Redis.from_url(redis_url) as client:
            assert client.incr("runs") == run
        assert count == (run,)
        assert dev.listening() == list(dev.ports)
        child.signal(stop)
        assert await child.wait() == 0
        assert "Stopped. The data stays in" in child.output
        assert dev.listening() == []


@pytest.mark.parametrize(("which", "option"), [(0, "--postgres-port"), (1, "--redis-port")])
async def test_a_taken_port(dev: Dev, which: int, option: str) -> None:
    port = dev.ports[which]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        child = await dev.start()
        assert await child.wait() == 2
    assert f"port {port} on 127.0.0.1 is taken; choose another with {option}" in child.lines[-1]
    assert "Traceback" not in child.output
    assert dev.listening() == []


async def test_a_file_where_the_folder_should_be(dev: Dev, file: Path) -> None:
    child = await dev.start()
    assert await child.wait() == 2
    assert f"cannot keep data in {file}/postgres: Not a directory" in child.lines[-1]
    assert "Traceback" not in child.output


async def test_a_server_that_ends_by_itself_ends_the_command(dev: Dev) -> None:
    child = await dev.start()
    _, redis_url = await urls(child)
    with redis_sync.Redis.from_url(redis_url) as client:
        client.shutdown(nosave=True)
    assert await child.wait() == 1
    assert "Valkey ended by itself" in child.lines[-1]
    assert dev.listening() == []


async def test_a_dispatcher_runs_between_them_where_wanted(cli: StartCli, dev: Dev) -> None:
    http_port = free_port()
    env = {"DISPATCH_DEPLOYMENT": "mine", "DATABASE_URL": "postgresql://127.0.0.1:1/elsewhere"}
    child = await dev.start("--run", "--http-port", str(http_port), env=env)
    database_url, redis_url = await urls(child, "Ctrl-C stops all three")
    assert f"Console: http://127.0.0.1:{http_port}/" in child.output
    insert = "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('t', 'a', '{}')"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(insert)
    with redis_sync.Redis.from_url(redis_url) as client:
        await becomes(lambda: client.xlen("sanctum:messages"), 1)
    async with aiohttp.ClientSession() as asking, asking.get(f"http://127.0.0.1:{http_port}/api/overview") as answer:
        assert (await answer.json())["deployment"] == "mine"
    child.signal(signal.SIGTERM)
    assert await child.wait() == 0
    assert dev.listening() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", http_port)) != 0


GREETINGS = """
from dispatcher.handlers import handler

@handler("greeting")
def greet(payload):
    print("hello", payload["to"], flush=True)
"""


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines()


async def test_handlers_are_loaded_and_the_log_that_it_names_says_which(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "greetings.py").write_text(GREETINGS)
    env = {"DISPATCH_HANDLERS": "greetings"}
    child = await dev.start("--run", "--http-port", str(free_port()), env=env, cwd=tmp_path)
    database_url, _ = await urls(child, "Ctrl-C stops all three")
    log = Path((await child.line("Its log: ")).removeprefix("Its log: "))
    [started] = [json.loads(line) for line in lines_of(log) if '"dispatcher_started"' in line]
    assert started["handlers"] == ["greeting"]
    insert = "INSERT INTO messaging.message_outbox (event_type, aggregate_id, payload) VALUES ('greeting', 'a', %s)"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(insert, ['{"to": "ada"}'])
    await until(lambda: "hello ada" in lines_of(log), "the handler prints into the log")
    child.signal(signal.SIGTERM)
    assert await child.wait() == 0


async def test_a_port_of_the_console_without_one_is_refused(dev: Dev) -> None:
    child = await dev.start("--http-port", "8081")
    assert await child.wait() == 2
    assert "--http-port needs --run" in child.output


async def test_a_dispatcher_that_ends_ends_the_command(dev: Dev) -> None:
    child = await dev.start("--run", "--http-port", str(free_port()), env={"DISPATCH_TICK_MS": "soon"})
    assert await child.wait() == 1
    assert "DISPATCH_TICK_MS" in child.output
    assert dev.listening() == []
