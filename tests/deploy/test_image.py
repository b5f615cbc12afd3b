"""The image, built by the Dockerfile's own steps without Docker, then used: migrate, run, health check, stop."""

import asyncio
import importlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dispatcher.embedded import free_port
from tests.support.child import OURS
from tests.support.readme import ROOT
from tests.support.tls import Certificate, make_certificate

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def test_the_file_has_what_a_careful_cluster_asks_for() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert all(":" in image for image, _ in stages)
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert not re.search(r"--(extra-)?inde[x]|http[s]?://(?!' |github\.com/outbox-dispatcher/)", DOCKERFILE)
    assert not re.search(r"^(ENV|ARG) .*(TOKEN|PASSWORD|SECRET|_URL)", DOCKERFILE, re.MULTILINE)


@pytest.mark.timeout(400)
async def test_its_steps_give_a_dispatcher_that_works(tmp_path: Path, empty_database_url: str, redis_url: str) -> None:
    folder = tmp_path / "image"
    steps = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(ROOT / "deploy" / "rehearse.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PIP_NO_COMPILE": "1"},
    )
    assert steps.returncode == 0, steps.stdout
    image = json.loads((folder / "image.json").read_text())
    before = listing(folder / "prefix")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "PYTHON", "VIRTUAL"))}
    env |= image["env"] | {
        "DATABASE_URL": empty_database_url,
        "REDIS_URL": redis_url,
        "DISPATCHER_ENABLED": "true",
        "DISPATCH_HTTP_HOST": "127.0.0.1",
        "DISPATCH_HTTP_PORT": str(port),
    }
    assert (await ended(await start(*image["ENTRYPOINT"], "migrate", env=env, cwd=folder))) == 0
    running = await start(*image["ENTRYPOINT"], *image["CMD"], env=env, cwd=folder)
    try:
        while await ended(await start(*image["HEALTHCHECK"], env=env, cwd=folder)) != 0:
            assert running.returncode is None
        running.send_signal(getattr(signal, image["STOPSIGNAL"]))
        output, _ = await running.communicate()
        assert running.returncode == 0, output.decode()
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()
    assert await ended(await start(*image["HEALTHCHECK"], env=env, cwd=folder)) != 0
    assert all(json.loads(line)["event"] for line in output.decode().splitlines())
    assert listing(folder / "prefix") == before  # the root file system may be read-only


def test_sslrootcert_system_trusts_whom_the_image_says(tmp_path: Path) -> None:
    """psycopg's wheel looks for certificates where it was built, which exists nowhere else."""
    [variable] = re.findall(r"^    (SSL_CERT_FILE)=/", DOCKERFILE, re.MULTILINE)
    certificate = make_certificate(tmp_path, "127.0.0.1")
    refused = "certificate verify failed"
    assert refused not in connects(certificate, {variable: str(certificate.authority)})
    assert refused in connects(certificate, {variable: str(tmp_path / "nobody.crt")})


def connects(certificate: Certificate, env: dict[str, str]) -> str:
    """Let psycopg connect with sslrootcert=system to a port that begins TLS and then closes; what psycopg says."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.shown, certificate.key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            client.recv(8)  # SSLRequest
            client.sendall(b"S")
            with suppress(OSError), tls.wrap_socket(client, server_side=True) as trusted:
                trusted.recv(1000)

        thread = Thread(target=serve)
        thread.start()
        url = f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/app?sslmode=verify-full&sslrootcert=system"
        done = subprocess.run(
            [sys.executable, "-c", f"import psycopg; psycopg.connect({url!r})"],
            env=os.environ | env,
            capture_output=True,
            text=True,
        )
        thread.join()
    return done.stderr


async def start(*command: str, env: dict[str, str], cwd: Path) -> asyncio.subprocess.Process:
    """Run a program of the image, found by the image's PATH."""
    return await asyncio.create_subprocess_exec(
        "/usr/bin/env",
        *command,
        env=env,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def ended(process: asyncio.subprocess.Process) -> int | None:
    """Wait for its end; the exit code."""
    await process.communicate()
    return process.returncode


def listing(folder: Path) -> dict[str, Any]:
    """Every file, and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_what_is_not_understood_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "deploy"))
    rehearse: Any = importlib.import_module("rehearse")

    file = tmp_path / "Dockerfile"
    for text, word in (
        ("FROM a:1\nONBUILD RUN true\n", "ONBUILD"),
        ("FROM a:1\nARG SOURCE\nWORKDIR ${SOURCE}\nCOPY tests ./\n", ".dockerignore"),
        ("FROM a:1\nCOPY --from=other /x /x\n", "other"),
    ):
        file.write_text(text)
        with pytest.raises(rehearse.Unknown, match=re.escape(word)):
            rehearse.Rehearsal(tmp_path).run(file)
