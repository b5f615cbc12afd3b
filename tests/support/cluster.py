"""A Cluster that changes while it runs: a primary more, a slot that moves."""

from contextlib import suppress

from dispatcher.core.errors import Unreachable
from dispatcher.embedded import EmbeddedCluster
from dispatcher.embedded.cluster import ClusterNode
from dispatcher.embedded.ports import HOST


class ChangingCluster(EmbeddedCluster):
    """Used by one thread at a time."""

    def add_primary(self) -> ClusterNode:
        """Start one more node, without slots, and wait until all know it."""
        node = self._node(len(self.nodes))
        node.start()
        self.nodes.append(node)
        self.nodes[0].ask("CLUSTER", "MEET", HOST, str(node.port), str(node.bus_port))
        self.wait_formed()
        return node

    def move_slot(self, slot: int, target: ClusterNode) -> None:
        """Move a slot with its keys to another primary while clients go on, as redis-cli --cluster reshard does."""
        source = self.owner(slot)
        self.move_keys(slot, target)
        # The new owner first: were the old one to forget it first, nobody would serve the slot for a moment.
        target.ask("CLUSTER", "SETSLOT", str(slot), "NODE", target.node_id)
        for node in [source, *self.nodes]:
            with suppress(Unreachable):  # a primary that lost its last slot is a replica by now; all hear of it anyway
                node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", target.node_id)

    def move_keys(self, slot: int, target: ClusterNode) -> None:
        """The first half of a move: the keys lie at the other primary, and the slot is still its old owner's (ASK)."""
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", source.node_id)
        source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", target.node_id)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), "10"):
            signed = ("AUTH", source.password) if source.password else ()
            names = [str(key) for key in keys] if isinstance(keys, list) else []
            source.ask("MIGRATE", HOST, str(target.port), "", "0", "30000", *signed, "KEYS", *names)

    def forget(self, node: ClusterNode) -> None:
        """Take a node without slots out of the cluster, and stop it."""
        node_id = node.node_id
        self.nodes.remove(node)
        node.stop()
        for other in self.nodes:
            if other.running:
                other.ask("CLUSTER", "FORGET", node_id)
