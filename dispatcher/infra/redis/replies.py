"""Reads the texts that Redis answers with: INFO, CLIENT LIST."""

import re
from collections.abc import Collection


def text_of(value: bytes | str) -> str:
    """A name or an id, which clients that decode have as text already."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def info_fields(info: bytes) -> dict[str, str]:
    """`name:value` lines of INFO."""
    return dict(re.findall(r"^(\w+):(.*?)\r?$", info.decode(errors="replace"), re.MULTILINE))


def clock_in(info: bytes) -> int | None:
    """The server's clock in milliseconds, from INFO server; None: an older one does not tell."""
    found = re.search(rb"^server_time_usec:(\d{1,18})\r?$", info, re.MULTILINE)
    return int(found[1]) // 1000 if found else None


def ids_named(names: Collection[str], client_list: str) -> list[str]:
    """The ids of the clients of these names, from the text CLIENT LIST answers with."""
    found = []
    for line in client_list.splitlines():
        fields = dict(re.findall(r"(\S+?)=(\S*)", line))
        if fields.get("name") in names:
            found.append(fields["id"])
    return found
