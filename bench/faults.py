"""What is done to the servers while they are measured: a Redis that goes away, for the dispatcher alone.

A TCP proxy between the dispatcher and Redis, so that it works on a deployment too; the consumer reads past it.
"""

import contextlib
import select
import socket
import threading
from urllib.parse import urlsplit

from dispatcher.core.errors import Misconfigured
from dispatcher.embedded import free_port

HOST = "127.0.0.1"


class Proxy:
    """Forwards to a Redis until `away()`: then its connections are reset and new ones refused, until `back()`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "redis":
            raise Misconfigured("this scenario puts a TCP proxy before Redis: --redis-url must be a redis:// URL")
        self._upstream = (parts.hostname or HOST, parts.port or 6379)
        self._port = free_port()
        user, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{user}{at}{HOST}:{self._port}").geturl()
        self._listener: socket.socket | None = None  # written by the caller's thread
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()  # under the lock

    def back(self) -> None:
        """Accept and forward."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self._port))
        listener.listen(16)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="proxy", daemon=True).start()

    def away(self) -> None:
        """Refuse, and reset what is open. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def __enter__(self) -> "Proxy":
        self.back()
        return self

    def __exit__(self, *exc: object) -> None:
        self.away()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._upstream, timeout=10)
            except OSError:
                return
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._forward, args=(client, server), name="proxied", daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with client, server, contextlib.suppress(OSError):
            while True:
                readable, _, _ = select.select([client, server], [], [])
                for end in readable:
                    if not (data := end.recv(1 << 18)):
                        return
                    other[end].sendall(data)
