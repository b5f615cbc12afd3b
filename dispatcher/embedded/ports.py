"""Loopback ports for servers of our own."""

import errno
import socket
from random import SystemRandom

from dispatcher.core.errors import Misconfigured

HOST = "127.0.0.1"
# Below the range that systems give to outgoing connections: a client that keeps reconnecting to a stopped server in
# that range sooner or later gets the server's own port as its source, and so connects to itself.
_FIRST, _LAST = 10_240, 32_767
_dice = SystemRandom()  # seeded alike, as tests seed `random`, processes side by side would pick the same port


def free_port() -> int:
    """A port nobody listens on at the moment, on 127.0.0.1."""
    while True:
        port = _dice.randint(_FIRST, _LAST)
        if _bindable(port):
            return port


def require_free(port: int, option: str) -> None:
    """Raise Misconfigured when we may not listen on `port`; `option` is what a person would change."""
    try:
        if not _bindable(port):
            raise taken(port, option)
    except PermissionError:
        raise Misconfigured(
            f"no right to listen on port {port} of {HOST}; choose one above 1023 with {option}"
        ) from None


def taken(port: int, option: str) -> Misconfigured:
    """The error for a port in use."""
    return Misconfigured(f"port {port} on {HOST} is taken; choose another with {option}")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
