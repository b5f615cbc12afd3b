"""The dead letters in a real browser, before a real dispatcher: found, looked at, put back. Markup stays text."""

import re
from typing import Any

import psycopg
import pytest
from playwright.async_api import Page, expect

from dispatcher.core.events import DeadRetried, Settled
from tests.support.browser import OpenPage
from tests.support.dead_letters import bury
from tests.support.page_checks import CONTRAST, SMALL, UNNAMED, WIDE
from tests.support.rows import insert_events, read_table
from tests.support.running import StartDispatcher

MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


async def dead(db: psycopg.AsyncConnection[Any], n: int, error: str, **columns: object) -> list[int]:
    ids = await insert_events(db, n, **columns)
    await bury(db, ids, error)
    return ids


async def pending(db: psycopg.AsyncConnection[Any]) -> set[int]:
    return {row["id"] for row in await read_table(db) if row["status"] == "pending"}


async def answer(page: Page, button: str, title: str, yes: str | None) -> None:
    """Press a button of the panel, and then say yes, or cancel."""
    await page.locator("#letters").get_by_role("button", name=button, exact=True).click()
    asked = page.get_by_role("dialog", name=title)
    await expect(asked.get_by_role("button", name="Cancel")).to_be_focused()
    await asked.get_by_role("button", name=yes or "Cancel").click()
    await expect(asked).to_be_hidden()


@pytest.mark.promise("console")
async def test_one_the_selected_and_all_of_an_error_are_put_back(dispatcher: StartDispatcher, db, open_page: OpenPage):
    refused = await dead(db, 3, "ERR refused", event_type="order.paid")
    marked = await dead(db, 2, MARKUP, event_type=MARKUP, aggregate_type=MARKUP, payload='"secret-7f3a"')
    many = await dead(db, 60, "WRONGTYPE", event_type="order.paid", aggregate_type="order")
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/") as page,
    ):
        groups, say, rows = page.locator(".groups li"), page.locator("#letters-say"), page.locator("tbody tr")
        await expect(groups).to_have_count(3)
        await expect(groups.nth(0)).to_contain_text("WRONGTYPE60")
        await expect(groups.nth(2)).to_contain_text(MARKUP)
        await expect(page.locator("#tile-dead")).to_have_text("65")

        # All of one error; first somebody thinks better of it.
        await answer(page, "Retry all 60 with: WRONGTYPE", "Retry 60 events?", None)
        assert await pending(db) == set()
        await answer(page, "Retry all 60 with: WRONGTYPE", "Retry 60 events?", "Retry 60 events")
        await expect(say).to_contain_text("60 events put back")
        await expect(groups).to_have_count(2)
        assert await pending(db) == set(many)
        assert (await running.tap.next(DeadRetried)).by == "127.0.0.1"

        # One, from its details; its payload was never asked for until now.
        assert "secret-7f3a" not in await page.content()
        await page.get_by_role("button", name=f"Show those with: {MARKUP}").click()
        await expect(rows).to_have_count(2)
        await page.get_by_role("button", name=f"Details of event {marked[0]}", exact=True).click()
        letter = page.get_by_role("dialog", name=f"Dead event {marked[0]}")
        await expect(letter).to_contain_text(MARKUP)
        await letter.get_by_role("button", name="Show the payload").click()
        await expect(letter.locator("pre")).to_have_text('"secret-7f3a"')
        await letter.get_by_role("button", name="Retry this event").click()
        await page.get_by_role("dialog", name="Retry 1 event?").get_by_role("button", name="Retry 1 event").click()
        await expect(say).to_contain_text("1 event put back")
        await expect(rows).to_have_count(1)
        assert await pending(db) == {*many, marked[0]}

        # Some, by the filter and the boxes.
        await page.get_by_role("button", name="Show all").click()
        await expect(rows).to_have_count(4)
        await page.get_by_label("Event type").fill("order.paid")
        await page.get_by_label("Event type").press("Enter")
        await expect(rows).to_have_count(3)
        await expect(page.get_by_role("button", name="Retry the selected …")).to_be_disabled()
        await page.get_by_label(f"Select event {refused[0]}").check()
        await page.get_by_label(f"Select event {refused[2]}").check()
        # Meanwhile somebody else puts one of them back: it is not put back twice.
        await db.execute("UPDATE messaging.message_outbox SET status = 'sent' WHERE id = %s", [refused[2]])
        await answer(page, "Retry the 2 selected …", "Retry 2 events?", "Retry 2 events")
        await expect(say).to_contain_text("1 of 2 events put back; the others were not dead any more")
        await expect(rows).to_have_count(1)
        assert await pending(db) == {*many, marked[0], refused[0]}
        assert await page.locator("#letters img, #letters script").count() == 0
        assert await page.title() != "taken"


async def test_what_died_meanwhile_is_shown_and_a_long_list_has_pages(dispatcher, db, open_page: OpenPage):
    async with (
        dispatcher(http_enabled=True, max_payload_bytes=100) as running,
        open_page(f"{running.http_url}/", **PHONE) as page,
    ):
        await expect(page.locator("#letters-body")).to_have_text("None. Every event found its way.")
        await expect(page.get_by_label("Event type")).to_be_hidden()
        await dead(db, 49, "ERR refused")
        await expect(page.locator(".groups li")).to_have_count(1)
        await expect(page.get_by_label("Event type")).to_be_visible()
        await insert_events(db, 2, payload='"' + "x" * 200 + '"')
        await running.tap.next(Settled, where=lambda settled: settled.dead == 2)
        await expect(page.locator("#headline")).to_have_text(
            re.compile("^2 events were given up, the latest with: payload is")
        )
        await expect(page.locator(".groups li")).to_have_count(2)
        for check in (CONTRAST, SMALL, UNNAMED, WIDE):
            assert await page.evaluate(check) == []
        await page.get_by_role("button", name="One by one").click()
        await expect(page.locator("tbody tr")).to_have_count(50)
        await page.get_by_role("button", name="Older").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator(".pager")).to_contain_text("51 to 51 of 51")
        for check in (CONTRAST, SMALL, UNNAMED, WIDE):
            assert await page.evaluate(check) == []
