"""The keeper of slots: what it owns stands in Postgres, is given up when not in hand, and is lost when revoked."""

from typing import Any

from dispatcher.core.events import SlotsChanged, SlotsWithoutOwner
from dispatcher.core.layout import SLOTS
from dispatcher.core.owned_slots import mask_of, ranges_of
from dispatcher.infra.sqlfiles import load
from tests.support.slots import Keep, owners

ALL = ((0, 255),)


async def test_the_first_one_owns_all_and_one_that_joins_gets_half(keep: Keep, db: Any) -> None:
    one, two = await keep("beef0001"), await keep("beef0002")
    await one.look()
    assert ranges_of(one.view.claimable()) == ALL
    await two.look()  # joins: it says so, and nothing is free
    assert (await owners(db), two.view.owned) == ({one.id: 256}, ())
    await one.look()
    await two.look()
    assert (ranges_of(one.view.claimable()), ranges_of(two.view.claimable())) == (((0, 127),), ((128, 255),))
    assert await owners(db) == {one.id: 128, two.id: 128}
    assert [(each.owned, each.gained, each.released) for each in one.tap.all(SlotsChanged)] == [
        (256, 256, 0),
        (128, 0, 128),
    ]
    for _ in range(3):
        await one.look()
        await two.look()
    assert len(one.tap.all(SlotsChanged)) == 2, "nothing moves any more"


async def test_a_slot_in_hand_is_released_when_it_is_given_back(keep: Keep, db: Any) -> None:
    one, two = await keep("beef0001"), await keep("beef0002")
    await one.look()
    one.view.begin_claim(mask_of(range(100, 201)))
    await two.look()
    await one.look()
    assert ranges_of(one.view.claimable()) == ((0, 99),), "nothing more is claimed of what is to be given up"
    await two.look()
    assert list(two.view.owned) == [(201, 255)]
    one.view.end_claim(mask_of({*range(100, 201)} - {150}))
    await one.look()
    await two.look()
    assert list(two.view.owned) == [(128, 149), (151, 255)]
    one.view.let_next_claim(mask_of([150]))
    await one.look()
    await two.look()
    assert list(two.view.owned) == [(128, 149), (151, 255)], "its settle is on its way"
    one.view.settled(mask_of([150]))
    await one.look()
    await two.look()
    assert list(two.view.owned) == [(128, 255)]
    assert await owners(db) == {one.id: 128, two.id: 128}


async def test_one_that_stops_gives_up_what_it_has_and_gets_nothing_back(keep: Keep, db: Any) -> None:
    one, two = await keep("beef0001"), await keep("beef0002")
    for _ in range(2):
        await one.look()
        await two.look()
    one.view.begin_claim(mask_of([7]))
    one.keeper.stop()
    await one.look()
    await two.look()
    assert (await owners(db), ranges_of(one.view.claimable())) == ({one.id: 1, two.id: 255}, ())
    await one.registry.deregister()
    assert len(await (await db.execute("SELECT FROM messaging.dispatcher WHERE id = %s", (one.id,))).fetchall()) == 1, (
        "who owns a slot stays in the registry, or nobody would fence it"
    )
    one.view.end_claim(mask_of([7]))
    await one.look()
    await two.look()
    assert await owners(db) == {two.id: 256}
    await one.registry.deregister()
    assert len(await (await db.execute("SELECT FROM messaging.dispatcher")).fetchall()) == 1


async def test_a_canary_owns_slots_of_its_share_only(keep: Keep, db: Any) -> None:
    one, two, canary = await keep("beef0001"), await keep("beef0002"), await keep("beef0003", share=26)
    for _ in range(3):
        for each in (one, two, canary):
            await each.look()
    assert canary.view.owned == ((0, 25),)
    assert await owners(db) == {one.id: 115, two.id: 115, canary.id: 26}
    canary.share[0] = 0
    for _ in range(3):
        for each in (canary, one, two):
            await each.look()
    assert await owners(db) == {one.id: 128, two.id: 128}


async def test_under_another_layout_it_owns_nothing(keep: Keep, db: Any) -> None:
    one = await keep("beef0001")
    await one.look()
    one.share[0] = None
    await one.look()
    assert (await owners(db), one.view.owned) == ({None: 256}, ())
    one.share[0] = 256
    await one.look()
    assert ranges_of(one.view.claimable()) == ALL


async def test_what_was_revoked_is_lost_at_the_next_look_and_its_epoch_is_another(keep: Keep, db: Any) -> None:
    one = await keep("beef0001")
    await one.look()
    before = one.view.slot_epochs(mask_of(range(SLOTS)))
    await db.execute(
        "UPDATE messaging.slot_owner SET owner = NULL, revoked_from = 99, epoch = epoch + 1 WHERE slot < 5"
    )
    await one.look()
    assert ranges_of(one.view.claimable()) == ((5, 255),)
    assert one.tap.all(SlotsChanged)[-1] == SlotsChanged(owned=251, ranges=1, gained=0, released=0, revoked=5)
    # Another is done with it, and somebody gave it to us meanwhile: it has to be loaded anew.
    await db.execute("UPDATE messaging.slot_owner SET revoked_from = NULL, owner = %s WHERE slot < 5", (one.id,))
    await one.keeper.follow_plan(one.control)
    assert (one.view.owned, ranges_of(one.view.claimable())) == (ALL, ((5, 255),))
    assert list(one.view.gained) == [0, 1, 2, 3, 4]
    assert one.view.slot_epochs(mask_of(range(SLOTS))) == before + 5


async def test_a_slot_that_was_lost_and_regained_between_two_looks_is_loaded_anew(keep: Keep, db: Any) -> None:
    one = await keep("beef0001")
    await one.look()
    await db.execute("UPDATE messaging.slot_owner SET epoch = epoch + 2 WHERE slot = 9")
    await one.keeper.follow_plan(one.control)
    assert (one.view.owned, one.view.gained) == (ALL, {9: 2})


async def test_a_revoked_slot_is_taken_by_nobody(keep: Keep, db: Any) -> None:
    await db.execute("UPDATE messaging.slot_owner SET revoked_from = 99, fenced = slot < 50 WHERE slot < 100")
    one = await keep("beef0001")
    await one.look()
    assert one.view.owned == ((100, 255),)
    assert one.keeper.unfinished
    parameters = {"self": one.id, "wanted": list(range(100))}
    assert await one.control.fetch(load("slots_take"), parameters) == [], "though it was revoked since we looked"


async def test_one_that_gives_no_sign_of_life_for_a_lease_is_frozen_and_no_member(keep: Keep) -> None:
    one, two = await keep("beef0001", lease_s=10.0), await keep("beef0002")
    for _ in range(2):
        await one.look()
        await two.look()
    for _ in range(8):
        one.clock.now += 2.5
        await one.look()
        await two.look()
    assert not one.keeper.frozen, "it looked each time"
    for _ in range(4):
        one.clock.now += 2.5
        await one.look()
    assert not one.keeper.frozen, "not yet for the whole lease"
    one.clock.now += 2.5
    await one.look()
    assert [each.name for each in one.keeper.frozen] == [two.registry.name]
    await two.look()
    await one.look()
    assert not one.keeper.frozen, "it lives again"


async def test_the_time_in_which_nobody_looked_condemns_nobody(keep: Keep) -> None:
    """A dispatcher that was frozen itself must not take the others for frozen when it wakes up."""
    one, two = await keep("beef0001", lease_s=10.0), await keep("beef0002")
    for _ in range(2):
        await one.look()
        await two.look()
    one.clock.now += 1000.0
    await one.look()
    assert not one.keeper.frozen


async def test_slots_without_an_owner_are_told_after_a_while_and_when_they_are_owned_again(keep: Keep, db: Any) -> None:
    canary, dead, full = await keep("beef0001", share=26), await keep("beef0002"), await keep("beef0003", share=None)
    for _ in range(2):
        await canary.look()
        await dead.look()
    await dead.die(db)
    for passed_s in (0.0, 5.0, 4.9):
        canary.clock.now += passed_s
        await canary.look()
    assert canary.tap.all(SlotsWithoutOwner) == [], "a handover takes a moment"
    canary.clock.now += 0.1
    await canary.look()
    assert canary.tap.all(SlotsWithoutOwner) == [SlotsWithoutOwner(230)]
    await db.execute("UPDATE messaging.slot_owner SET owner = NULL WHERE owner = %s", (dead.id,))
    full.share[0] = 256
    await full.look()
    await canary.look()
    assert canary.tap.all(SlotsWithoutOwner)[1:] == [SlotsWithoutOwner(0)]


async def test_one_whose_row_was_removed_from_the_registry_enters_it_again(keep: Keep, db: Any) -> None:
    """Or nobody could take over from it, or take a slot that it owns, once it dies."""
    one = await keep("beef0001")
    await one.look()
    await db.execute("DELETE FROM messaging.dispatcher")
    await one.look()
    await one.look()
    assert await (await db.execute("SELECT id, slots FROM messaging.dispatcher")).fetchall() == [(one.id, 256)]
    assert await owners(db) == {one.id: 256}


async def test_one_that_signed_off_writes_its_row_no_more(keep: Keep, db: Any) -> None:
    """The sign-off rings for its own keeper too: with the row written again, a clean stop would look like a death."""
    one = await keep("beef0001")
    await one.look()
    one.keeper.stop()
    await one.look()
    await one.registry.deregister()
    await one.look()  # it heard the ring
    await one.registry.enrol(one.control)  # its control session was lost, and is opened again
    assert await (await db.execute("SELECT FROM messaging.dispatcher")).fetchall() == []
