"""One command to a Valkey of our own, on a connection of its own: to form a cluster, and to see that it is formed."""

import socket
from typing import Any, BinaryIO

from dispatcher.core.errors import Unreachable
from dispatcher.embedded.ports import HOST

_TIMEOUT_S = 30.0


def ask(port: int, *words: str, password: str | None = None) -> Any:
    """The answer to one command: text, a number, None or a list. Raises Unreachable: there is none, or an error."""
    commands = [("AUTH", password)] if password else []
    try:
        with (
            socket.create_connection((HOST, port), timeout=_TIMEOUT_S) as connection,
            connection.makefile("rb") as file,
        ):
            connection.sendall(b"".join(map(_packed, [*commands, words])))
            answers = [_read(file) for _ in range(len(commands) + 1)]
    except (OSError, ValueError) as error:
        raise Unreachable(f"Valkey on {HOST}:{port} did not answer {words[0]} ({error})") from None
    return answers[-1]


def _packed(words: tuple[str, ...]) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def _read(file: BinaryIO) -> Any:
    line = file.readline()
    kind, text = line[:1], line[1:].strip().decode(errors="replace")
    if not line.endswith(b"\n") or kind == b"-":
        raise ValueError(text or "it closed the connection")
    if kind == b"+":
        return text
    if kind == b":":
        return int(text)
    size = int(text)
    if size < 0:
        return None
    if kind == b"*":
        return [_read(file) for _ in range(size)]
    return file.read(size + 2)[:-2].decode(errors="replace")
