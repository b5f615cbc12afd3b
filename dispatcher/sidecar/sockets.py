"""The sockets that the sidecar listens on: one for each family of addresses."""

import asyncio
import errno
import socket

EVERY = "::"  # every address of this machine, of IPv6 and of IPv4
TRIES = 20  # for a port that is free in both families
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


async def listening(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen on each address of the host, on one port; 0: any that is free. Raises OSError, OverflowError.

    A probe of IPv4 must get an answer in a pod of IPv6, and the other way round; a kernel may lack one of them.
    """
    if host == EVERY:
        addresses = ["0.0.0.0", EVERY]  # noqa: S104 -- probes come from outside
    else:
        answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    for left in reversed(range(TRIES)):
        try:
            return _bound(addresses, port, backlog)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError("not reached")


def _bound(addresses: list[str], port: int, backlog: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for address in addresses:
            try:
                sockets.append(_one(address, port, backlog))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                missing = error
            else:
                port = sockets[0].getsockname()[1]
    except BaseException:
        for each in sockets:
            each.close()
        raise
    if not sockets and missing is not None:
        raise missing
    return sockets


def _one(address: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        made.setblocking(False)
        made.bind((address, port))
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made
