"""What a Postgres of our own was asked by dispatchers: the first line of each statement has its name."""

import re
from collections import Counter

from bench.servers import POSTGRES_SETTINGS, Rig

LOGGED = POSTGRES_SETTINGS | {"log_statement": "all", "log_line_prefix": "%a|"}
_ENTRY = re.compile(r"^dispatcher [^|]*\|LOG: +(?:execute [^:]*|statement): *(?:-- (\w+):)?", re.MULTILINE)


class StatementLog:
    """Reads the server's log. The server must have been started with `LOGGED`."""

    def __init__(self, servers: Rig) -> None:
        self._path = servers.folder / "postgres" / "server.log"
        self._read = 0

    def forget(self) -> None:
        """Count from here on."""
        self._read = self._path.stat().st_size

    def new(self) -> Counter[str]:
        """Statements since, by name."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            text = log.read().decode(errors="replace")
        return Counter(name or "other" for name in _ENTRY.findall(text))


def listed(by_name: Counter[str]) -> str:
    """For a report: `stages/claim.py 44, stages/settle.py 40`."""
    return ", ".join(f"{name} {count}" for name, count in by_name.most_common())
