"""The cluster and the sentinels that the demo and the tests bring themselves."""

import pytest
import redis as redis_sync
from redis.cluster import RedisCluster
from redis.crc import key_slot

from dispatcher.core.errors import Unreachable
from dispatcher.embedded.ask import ask
from dispatcher.embedded.cluster import wait_until
from tests.support.redis import FAILS_OVER, StartCluster, StartSentinels
from tests.support.sentinels import FAILS_OVER_MS

SLOT = key_slot(b"{1}")


def test_a_slot_moves_with_its_keys_to_a_node_that_joined(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
        client.xadd("s:{1}", {"a": "b"})
        old = cluster.owner(SLOT)
        joined = cluster.add_primary()
        cluster.move_slot(SLOT, joined)
        assert cluster.owner(SLOT) is joined
        assert client.xlen("s:{1}") == 1
        cluster.move_slot(SLOT, old)
        cluster.forget(joined)
        assert client.xlen("s:{1}") == 1
    cluster.wait_formed()
    assert not joined.running


def test_a_replica_takes_over(own_cluster: StartCluster) -> None:
    cluster = own_cluster(options=FAILS_OVER | {"requirepass": "secret", "masterauth": "secret"})
    old = cluster.owner(SLOT)
    old.crash()
    wait_until(lambda: cluster.owner(SLOT) is not old, "another node serves the slot", within_s=90)
    old.start()
    wait_until(lambda: not old.is_primary(), "it comes back as a replica")


def test_sentinels_agree_on_another_primary(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(password="secret", sentinel_password="other", down_after_ms=FAILS_OVER_MS)
    assert watched.primary_port() == watched.primary.port
    watched.primary.crash()
    wait_until(lambda: watched.primary_port() == watched.replica.port, "the replica is the primary", within_s=90)
    with redis_sync.Redis(port=watched.replica.port, password="secret") as client:
        assert client.ping()


def test_an_error_is_unreachable_in_its_words(own_sentinels: StartSentinels) -> None:
    watched = own_sentinels(sentinels=1, quorum=1)
    with pytest.raises(Unreachable, match="unknown command"):
        ask(watched.primary.port, "NO-SUCH-COMMAND")
