"""A Valkey primary, its replica and three sentinels that watch them, on 127.0.0.1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dispatcher.embedded.ask import ask
from dispatcher.embedded.cluster import wait_until
from dispatcher.embedded.entered import Entered
from dispatcher.embedded.folders import User, current_user
from dispatcher.embedded.install import valkey_server
from dispatcher.embedded.ports import HOST
from dispatcher.embedded.valkey import EmbeddedValkey

PATIENT_MS = 30_000  # longer than a slow machine keeps a server that runs from answering
FAILS_OVER_MS = 500


class EmbeddedSentinel(EmbeddedValkey):
    """One sentinel. It writes what it learns into its configuration file, so that is made once."""

    ready_words: ClassVar[str] = "Sentinel ID is"

    def __init__(self, data_dir: Path, watch: Sequence[str], *, password: str | None = None) -> None:
        super().__init__(data_dir)
        self._watch = watch
        self.password = password

    def ask(self, *words: str) -> Any:
        """The answer to one command. Raises Unreachable."""
        return ask(self.port, *words, password=self.password)

    def _command(self) -> tuple[Sequence[str], User]:
        file = self.data_dir / "sentinel.conf"
        if not file.exists():
            lines = [f"bind {HOST}", f"port {self.port}", f"dir {self.data_dir}", *self._watch]
            if self.password:
                lines.append(f"requirepass {self.password}")
                lines.append(f"sentinel sentinel-pass {self.password}")
            file.write_text("\n".join([*lines, ""]), encoding="utf-8")
            file.chmod(0o600)
        return [str(valkey_server()), str(file), "--sentinel"], current_user()


class EmbeddedSentinels(Entered):
    """`with EmbeddedSentinels(folder) as watched:` all of them know each other, and the replica is in step.

    `password`: of the servers; `sentinel_password`: of the sentinels. `down_after_ms`: a primary that
    says nothing for so long is replaced; FAILS_OVER_MS for a test that kills it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        service: str = "orders",
        sentinels: int = 3,
        quorum: int = 2,
        down_after_ms: int = PATIENT_MS,
        password: str | None = None,
        sentinel_password: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        signed = {"requirepass": password, "masterauth": password} if password else {}
        every = {"repl-diskless-sync-delay": "0", **signed, **dict(options or {})}
        self.data_dir = data_dir
        self.service = service
        self.password = password
        self._sentinel_password = sentinel_password
        self._count, self._quorum = sentinels, quorum
        self.down_after_ms, self.failover_timeout_ms = down_after_ms, 4 * down_after_ms
        self.primary = EmbeddedValkey(data_dir / "primary", options=every)
        self.replica = EmbeddedValkey(data_dir / "replica", options=every)
        self.sentinels: list[EmbeddedSentinel] = []

    @property
    def url(self) -> str:
        """A connection URL that names all sentinels."""
        signed = f":{self.password}@" if self.password else ""
        options = f"?sentinel_password={self._sentinel_password}" if self._sentinel_password else ""
        return (
            f"redis+sentinel://{signed}{','.join(f'{HOST}:{each.port}' for each in self.sentinels)}"
            f"/{self.service}{options}"
        )

    def start(self) -> None:
        """Start all, and wait until they agree. Raises as EmbeddedServer."""
        try:
            self.primary.start()
            self.replica.start()
            ask(self.replica.port, "REPLICAOF", HOST, str(self.primary.port), password=self.password)
            watch = [
                f"sentinel monitor {self.service} {HOST} {self.primary.port} {self._quorum}",
                f"sentinel down-after-milliseconds {self.service} {self.down_after_ms}",
                f"sentinel failover-timeout {self.service} {self.failover_timeout_ms}",
            ]
            if self.password:
                watch.append(f"sentinel auth-pass {self.service} {self.password}")
            wait_until(lambda: "master_link_status:up" in self._about(self.replica), "the replica is in step")
            for number in range(self._count):
                sentinel = EmbeddedSentinel(
                    self.data_dir / f"sentinel-{number}", watch, password=self._sentinel_password
                )
                sentinel.start()
                self.sentinels.append(sentinel)
            wait_until(lambda: all(map(self._agrees, self.sentinels)), "the sentinels know each other")
        except BaseException:
            self.crash()
            raise

    def _about(self, server: EmbeddedValkey) -> str:
        return str(ask(server.port, "INFO", "replication", password=self.password))

    def _agrees(self, sentinel: EmbeddedSentinel) -> bool:
        about = sentinel.ask("SENTINEL", "MASTER", self.service)
        fields = dict(zip(about[::2], about[1::2], strict=False)) if isinstance(about, list) else {}
        return fields.get("num-slaves") == "1" and fields.get("num-other-sentinels") == str(self._count - 1)

    def primary_port(self) -> int:
        """The port of the server that the first sentinel that runs calls the primary. Raises Unreachable."""
        sentinel = next(each for each in self.sentinels if each.running)
        answer = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int(str(answer[1])) if isinstance(answer, list) else 0

    def servers(self) -> list[EmbeddedValkey]:
        """All of them, sentinels first, so that none begins a failover while the others stop."""
        return [*self.sentinels, self.replica, self.primary]

    def stop(self) -> None:
        """Stop all of them."""
        for server in self.servers():
            server.stop()

    def crash(self) -> None:
        """Kill all of them."""
        for server in self.servers():
            server.crash()
