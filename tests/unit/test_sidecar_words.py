"""Why the sidecar cannot listen, in words that name the cause."""

import errno
import socket

import pytest

from dispatcher.sidecar.app import _cannot_listen


def test_no_thread_left_is_not_blamed_on_the_address() -> None:
    """To look an address up takes a thread; a limit of processes leaves none (infra/event_loop.py)."""
    said = str(
        _cannot_listen("127.0.0.1", 8080, "http", socket.gaierror(socket.EAI_AGAIN, "no thread is left to look it up"))
    )
    assert said == "cannot listen on 127.0.0.1:8080: no thread is left to look it up"


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), OSError(errno.EADDRNOTAVAIL, "no")]
)
def test_an_address_of_others_is(error: OSError) -> None:
    assert "not an address of this machine" in str(_cannot_listen("192.0.2.1", 8080, "http", error))
