"""Names that lead where a test wants, as to two addresses, of which the first swallows everything."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

NAME = "two.test"
SILENT = "127.0.0.2"


@contextmanager
def swallowing(port: int) -> Iterator[None]:
    """At that port of SILENT every SYN is dropped: the queue of a listener that accepts nothing is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SILENT, port))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex((SILENT, port)) == errno.EINPROGRESS
        yield


def lead_to_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on NAME is SILENT and 127.0.0.1, in this order."""
    lead_to(monkeypatch, NAME, SILENT, "127.0.0.1")


def lead_to(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """From now on `name` is these addresses, in this order; none: 127.0.0.1."""
    real = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != name:
            return real(host, port, *args, **options)
        return [each for address in addresses or ("127.0.0.1",) for each in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@contextmanager
def unanswered(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """Within it nobody answers who looks `name` up, as where a name server is gone."""
    real, over = socket.getaddrinfo, threading.Event()

    def answer(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host == name:
            over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "over")
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    try:
        yield
    finally:
        over.set()
