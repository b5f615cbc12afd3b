"""A Valkey Cluster of our own on 127.0.0.1: primaries that share the slots, and a replica for each."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dispatcher.core.errors import DispatcherError, Unreachable
from dispatcher.embedded.ask import ask
from dispatcher.embedded.entered import Entered
from dispatcher.embedded.folders import User
from dispatcher.embedded.ports import HOST
from dispatcher.embedded.valkey import EmbeddedValkey

SLOTS = 16384
FORM_S = 30.0
NODE_TIMEOUT_MS = 1000  # a primary that says nothing for so long is replaced by its replica


class ClusterNode(EmbeddedValkey):
    """One of its servers."""

    def __init__(self, data_dir: Path, *, appendonly: bool = False, options: Mapping[str, str] | None = None) -> None:
        every = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-require-full-coverage": "no",  # or all nodes refuse while one is away
            "repl-diskless-sync-delay": "0",  # or a replica waits 5 s for others to come
        }
        super().__init__(data_dir, appendonly=appendonly, options=every | dict(options or {}))
        self.bus_port = 0  # on which the nodes talk to each other; written at the first start

    def _choose_port(self) -> int:
        self.bus_port = self.find_port()  # with each try: either of the two may be taken since we looked
        return super()._choose_port()

    def _command(self) -> tuple[Sequence[str], User]:
        self.options["cluster-port"] = str(self.bus_port)
        return super()._command()

    @property
    def password(self) -> str | None:
        """What its default user signs in with."""
        return self.options.get("requirepass")

    @property
    def node_id(self) -> str:
        """What the cluster knows it by."""
        return str(self.ask("CLUSTER", "MYID"))

    def ask(self, *words: str) -> Any:
        """The answer to one command. Raises Unreachable."""
        return ask(self.port, *words, password=self.password)

    def knows(self, nodes: int) -> bool:
        """Whether it knows so many nodes, and all slots are served."""
        fields = _fields(self.ask("CLUSTER", "INFO"))
        return fields.get("cluster_state") == "ok" and int(fields.get("cluster_known_nodes", "0")) >= nodes

    def in_step(self) -> bool:
        """Whether it is a replica that has all that its primary has."""
        return _fields(self.ask("INFO", "replication")).get("master_link_status") == "up"

    def is_primary(self) -> bool:
        """Whether it serves slots."""
        answer = self.ask("ROLE")
        return isinstance(answer, list) and answer[0] == "master"


class EmbeddedCluster(Entered):
    """`with EmbeddedCluster(folder) as cluster:` three primaries with a replica each, formed and in step.

    `nodes`: the primaries first, then their replicas in the same order, as they were when it was formed. Used by one
    thread at a time.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.primaries = primaries
        self._appendonly = appendonly
        self._options = dict(options or {})
        self.nodes = [self._node(number) for number in range(primaries * (1 + replicas))]
        self._formed = False

    def _node(self, number: int) -> ClusterNode:
        return ClusterNode(self.data_dir / f"node-{number}", appendonly=self._appendonly, options=self._options)

    @property
    def url(self) -> str:
        """A connection URL that names all nodes."""
        signed = f":{self.nodes[0].password}@" if self.nodes[0].password else ""
        return f"redis+cluster://{signed}{','.join(f'{HOST}:{node.port}' for node in self.nodes)}"

    def start(self) -> None:
        """Start all, and wait until every slot is served and every replica is in step. Raises as EmbeddedServer."""
        try:
            with ThreadPoolExecutor(len(self.nodes)) as threads:
                for started in [threads.submit(node.start) for node in self.nodes]:
                    started.result()
            if not self._formed:
                self._form()
                self._formed = True
            self.wait_formed()
        except BaseException:
            self.crash()
            raise

    def _form(self) -> None:
        first, *others = self.nodes
        for epoch, node in enumerate(self.nodes, 1):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(epoch))  # or two nodes may begin with the same one
        for number, node in enumerate(self.nodes[: self.primaries]):
            begin, end = number * SLOTS // self.primaries, (number + 1) * SLOTS // self.primaries - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end))
        for node in others:
            first.ask("CLUSTER", "MEET", HOST, str(node.port), str(node.bus_port))
        ids = [node.node_id for node in self.nodes]
        for number, node in enumerate(self.nodes[self.primaries :]):
            replicate = partial(node.ask, "CLUSTER", "REPLICATE", ids[number % self.primaries])
            wait_until(replicate, "a replica knows its primary")

    def wait_formed(self) -> None:
        """Wait until every node that runs knows all, and every replica is in step. Raises Unreachable after 30 s."""

        def formed() -> bool:
            running = [node for node in self.nodes if node.running]
            return all(node.knows(len(self.nodes)) and (node.is_primary() or node.in_step()) for node in running)

        wait_until(formed, "the cluster is formed")

    def owner(self, slot: int) -> ClusterNode:
        """The primary that serves the slot, as the nodes that run say. Raises Unreachable."""
        for node in self.nodes:
            if not node.running:
                continue
            answer = node.ask("CLUSTER", "SLOTS")
            for begin, end, primary, *_ in answer if isinstance(answer, list) else []:
                if begin <= slot <= end:
                    return next(each for each in self.nodes if each.port == primary[1])
        raise Unreachable(f"no node serves the slot {slot}")

    def stop(self) -> None:
        """Stop all of them."""
        for node in self.nodes:
            node.stop()

    def crash(self) -> None:
        """Kill all of them."""
        for node in self.nodes:
            node.crash()


def wait_until(look: Callable[[], object], what: str, within_s: float = FORM_S) -> None:
    """Wait until it is so; what fails meanwhile is tried again. Raises Unreachable, with the last failure."""
    deadline, last = time.monotonic() + within_s, ""
    while True:
        try:
            if look():
                return
        except DispatcherError as error:
            last = f" ({error})"
        if time.monotonic() > deadline:
            raise Unreachable(f"after {within_s:g} s it is not so that {what}{last}")
        time.sleep(0.02)


def _fields(answer: Any) -> dict[str, str]:
    """`name:value` lines of INFO."""
    return dict(line.split(":", 1) for line in str(answer).splitlines() if ":" in line)
