"""The API of held aggregates of a running dispatcher, over real HTTP."""

from uuid import UUID, uuid4

from dispatcher.core.events import HeldSkipped, RetriedNow
from tests.integration.test_held import add, fail
from tests.support.api import get, post
from tests.support.dead_letters import bury
from tests.support.layouts import stand_in_order
from tests.support.rows import read_table


async def test_without_order_nothing_is_held(db, api):
    head, *_ = await add(db, "a", 2)
    await fail(db, head)
    async with api(enabled=False) as (client, _):
        empty = {"aggregates": [], "total": 0, "count": 0, "limit": 100, "order": "none", "order_on_dead": None}
        assert await get(client, "held-aggregates") == empty
        assert "holds its aggregate" in (await post(client, f"held-aggregates/{head}/retry", status=404))["error"]


async def test_list_retry_and_skip(db, api):
    await stand_in_order(db, "hold")
    dead, *_ = await add(db, "a", 3)
    tried, *_ = await add(db, "b", 2)
    await bury(db, [dead])
    await fail(db, tried)
    async with api(enabled=False) as (client, running):
        page = await get(client, "held-aggregates?limit=1")
        assert [(each["id"], each["state"], each["waiting"]) for each in page["aggregates"]] == [(dead, "dead", 2)]
        assert (page["total"], page["count"], page["order_on_dead"]) == (2, 1, "hold")
        after = await get(client, f"held-aggregates?after={dead}&aggregate_id=b&error_like=refused")
        assert [(each["id"], each["state"]) for each in after["aggregates"]] == [(tried, "retry")]

        assert await post(client, f"held-aggregates/{tried}/retry", {"by": "ada"}) == {
            "status": "success",
            "message": f"event {tried} is tried now",
            "event_id": tried,
        }
        assert await running.tap.next(RetriedNow) == RetriedNow((tried,), "ada (127.0.0.1)")
        no_reason = await post(client, f"held-aggregates/{dead}/skip", {"by": "ada"}, 400)
        assert no_reason == {"error": "reason must say why, in a few words"}
        assert (await post(client, f"held-aggregates/{dead}/skip", {"reason": "test data"}))["event_id"] == dead
        assert await running.tap.next(HeldSkipped) == HeldSkipped((dead,), "127.0.0.1", "test data")
        again = await post(client, f"held-aggregates/{dead}/skip", {"reason": "test data"}, 404)
        assert again == {"error": f"no event with the id {dead} holds its aggregate (any more)"}
        assert [row["id"] for row in await read_table(db)] == [dead + 1, dead + 2, tried, tried + 1]

        await db.execute(
            "UPDATE messaging.message_outbox SET status = 'picked', picked_at = now() WHERE id = %s", [tried]
        )
        busy = await post(client, f"held-aggregates/{tried}/skip", {"reason": "x"}, 409)
        assert busy == {"error": f"event {tried} is being published, or its handler runs: ask again"}
        nobody = str(uuid4())
        assert await post(client, "held-aggregates/skip-batch", {"event_ids": [tried, nobody], "reason": "x"}) == {
            "requested": 2,
            "processed": 0,
            "in_flight": [tried],
            "not_held": [nobody],
        }


async def test_batches_by_event_id_and_what_is_asked_wrongly(db, api):
    await stand_in_order(db)
    heads = [(await add(db, f"a{n}", 2))[0] for n in range(3)]
    for head in heads:
        await fail(db, head)
    events: list[UUID] = [row["event_id"] for row in await read_table(db) if row["id"] in heads]
    async with api(enabled=False) as (client, running):
        body = {"event_ids": [str(event) for event in events], "by": "ada"}
        done = await post(client, "held-aggregates/retry-batch", body)
        assert done == {"requested": 3, "processed": 3, "in_flight": [], "not_held": []}
        assert sorted((await running.tap.next(RetriedNow)).ids) == heads
        for path in ("held-aggregates?limit=0", "held-aggregates?after=-1", "held-aggregates?offset=1"):
            assert "error" in await get(client, path, 400)
        await post(client, "held-aggregates/skip-batch", {"event_ids": heads}, 400)
        await post(client, "held-aggregates/skip-batch", {"event_ids": [], "reason": "x"}, 400)
        await post(client, "held-aggregates/retry-batch", {"event_ids": ["x"]}, 400)
