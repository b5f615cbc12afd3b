"""The card of held aggregates, in a real browser before a real dispatcher: what waits for what, retried, skipped."""

import pytest
from playwright.async_api import expect

from dispatcher.core.events import HeldSkipped, RetriedNow, Sampled
from tests.integration.test_console_events import answer
from tests.integration.test_held import add, fail
from tests.support.axe import barriers
from tests.support.browser import OpenPage
from tests.support.dead_letters import bury
from tests.support.layouts import stand_in_order
from tests.support.rows import read_table
from tests.support.running import StartDispatcher

MARKUP = "<img src=x onerror=\"document.title='taken'\">"


@pytest.mark.promise("console")
async def test_the_events_that_hold_are_shown_retried_and_skipped(
    dispatcher: StartDispatcher, db, open_page: OpenPage, axe_script: str
):
    await stand_in_order(db, "hold")
    dead, *_ = await add(db, "7", 4)
    tried, *_ = await add(db, MARKUP, 2)
    await bury(db, [dead], "ERR refused")
    await fail(db, tried, error=MARKUP)
    order = {"order": "aggregate", "order_on_dead": "hold"}
    async with (
        dispatcher(http_enabled=True, enabled=False, **order) as running,
        open_page(f"{running.http_url}/") as page,
    ):
        card, rows = page.locator("#held-card"), page.locator("#held-card .groups li")
        await expect(rows).to_have_count(2)
        await expect(rows.nth(0)).to_contain_text("3ERR refused")
        await expect(rows.nth(0)).to_contain_text("conversation 7")
        await expect(rows.nth(0)).to_contain_text("dead: until somebody decides")
        await expect(rows.nth(1)).to_contain_text(f"1{MARKUP}")
        await expect(rows.nth(1)).to_contain_text("tried again in")
        glance = page.locator("#glance")
        await expect(glance).to_contain_text("2 aggregates are held")
        await expect(glance).to_contain_text("held-aggregates")
        assert await barriers(page, axe_script) == []

        await answer(page, "held-card", f"Retry … in conversation {MARKUP}", "Retry 1 event?", "Retry 1 event")
        await expect(page.locator("#held-say")).to_have_text("1 event tried now.")
        assert list((await running.tap.next(RetriedNow)).ids) == [tried]

        why = {"Reason": "a test order", "Your name": "ada"}
        await answer(page, "held-card", "Skip … in conversation 7", "Skip 1 event?", "Skip 1 event", **why)
        await expect(page.locator("#held-say")).to_have_text("1 event skipped.")
        skipped = await running.tap.next(HeldSkipped)
        assert (list(skipped.ids), "ada" in skipped.by, skipped.reason) == ([dead], True, "a test order")
        await expect(rows).to_have_count(1)

        await db.execute("DELETE FROM messaging.message_outbox WHERE id = %s", [tried])
        await running.tap.next(Sampled, where=lambda sample: sample.held is not None and not sample.held.aggregates)
        await expect(card).to_be_hidden()
        await page.goto(f"{running.http_url}/#/held")
        await expect(page.locator("#held-body")).to_have_text("None: no event waits for another one.")
        await page.goto(f"{running.http_url}/#/event/{dead}")
        await expect(page.locator("#event-history")).to_contain_text("It was skipped")
        assert await page.title() != "taken"
    assert dead not in [row["id"] for row in await read_table(db)]


async def test_without_an_order_there_is_no_card(dispatcher: StartDispatcher, db, open_page: OpenPage):
    head, *_ = await add(db, "7", 2)
    await fail(db, head)
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/") as page,
    ):
        await running.tap.next(Sampled)
        await expect(page.locator("#headline")).not_to_have_text("Looking …")
        await expect(page.locator("#held-card")).to_be_hidden()
        await page.goto(f"{running.http_url}/#/held")
        await expect(page.locator("#held-body")).to_have_text("Order is off: no event waits for another one.")


async def test_an_event_that_holds_its_aggregate_is_tried_or_skipped_from_its_own_page(
    dispatcher: StartDispatcher, db, open_page: OpenPage
):
    await stand_in_order(db, "hold")
    tried, later = await add(db, "7", 2)
    dead, *_ = await add(db, "8", 3)
    await fail(db, tried, error="ERR refused")
    await bury(db, [dead], "ERR refused")
    order = {"order": "aggregate", "order_on_dead": "hold"}
    async with (
        dispatcher(http_enabled=True, enabled=False, **order) as running,
        open_page(f"{running.http_url}/#/event/{later}") as page,
    ):
        said, buttons = page.locator("#event-say"), page.locator("#event-buttons").get_by_role("button")
        await expect(buttons).to_have_text(["Show the payload"])  # it holds nothing
        await page.goto(f"{running.http_url}/#/event/{tried}")
        await expect(said).to_have_text("It holds conversation 7: 1 later event waits for it.")
        await answer(page, "event", "Retry this event …", "Retry 1 event?", "Retry 1 event")
        await expect(said).to_have_text("1 event tried now.")
        assert list((await running.tap.next(RetriedNow)).ids) == [tried]
        await page.goto(f"{running.http_url}/#/event/{dead}")
        await expect(said).to_have_text("It holds conversation 8: 2 later events wait for it.")
        await answer(page, "event", "Skip this event …", "Skip 1 event?", "Skip 1 event", Reason="a test order")
        await expect(said).to_have_text("1 event skipped.")
        assert list((await running.tap.next(HeldSkipped)).ids) == [dead]
