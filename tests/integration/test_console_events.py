"""Work on events in a real browser, before a real dispatcher: found, looked at, put back, discarded."""

import re
from typing import Any

import psycopg
import pytest
from playwright.async_api import Page, expect

from dispatcher.core.events import DeadDiscarded, DeadRetried, PauseChanged, Sampled, Settled
from tests.support.axe import barriers
from tests.support.browser import OpenPage
from tests.support.dead_letters import bury
from tests.support.page_checks import CONTRAST, SMALL, UNNAMED, WIDE
from tests.support.rows import insert_events, read_table
from tests.support.running import StartDispatcher
from tests.support.waiting import becomes

MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


async def dead(db: psycopg.AsyncConnection[Any], n: int, error: str, **columns: object) -> list[int]:
    ids = await insert_events(db, n, **columns)
    await bury(db, ids, error)
    return ids


async def of_status(db: psycopg.AsyncConnection[Any], status: str) -> set[int]:
    return {row["id"] for row in await read_table(db) if row["status"] == status}


async def answer(
    page: Page, place: str, button: str | re.Pattern[str], title: str, yes: str | None, **fields: str
) -> None:
    """Press a button of a card, fill in what is asked, and then say yes, or cancel."""
    await page.locator(f"#{place}").get_by_role("button", name=button, exact=True).click()
    asked = page.get_by_role("dialog", name=title)
    await expect(asked).to_be_visible()
    for label, text in fields.items():
        await asked.get_by_label(label).fill(text)
    await asked.get_by_role("button", name=yes or "Cancel").click()
    await expect(asked).to_be_hidden()


@pytest.mark.promise("console")
async def test_all_of_an_error_one_and_the_selected_are_put_back(dispatcher: StartDispatcher, db, open_page: OpenPage):
    refused = await dead(db, 3, "ERR refused", event_type="order.paid")
    marked = await dead(db, 2, MARKUP, event_type=MARKUP, aggregate_type=MARKUP, payload='"secret-7f3a"')
    many = await dead(db, 60, "WRONGTYPE", event_type="order.paid", aggregate_type="order")
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/") as page,
    ):
        groups, rows = page.locator("#dead-card .groups li"), page.locator("#list tbody tr")
        await expect(groups).to_have_count(3)
        await expect(groups.nth(0)).to_contain_text("60WRONGTYPE")
        await expect(groups.nth(2)).to_contain_text(MARKUP)
        await expect(page.locator("#tile-dead")).to_have_text("65")
        await expect(page.locator("#nav-dead")).to_have_text("65")

        # All of one error, from the first view; first somebody thinks better of it.
        await answer(page, "dead-card", "Retry 60 … with: WRONGTYPE", "Retry 60 events?", None)
        assert await of_status(db, "pending") == set()
        await answer(page, "dead-card", "Retry 60 … with: WRONGTYPE", "Retry 60 events?", "Retry 60 events")
        await expect(page.locator("#dead-card-say")).to_contain_text("60 events put back")
        await expect(groups).to_have_count(2)
        assert await of_status(db, "pending") == set(many)
        assert "127.0.0.1" in (await running.tap.next(DeadRetried)).by

        # One, from its own page; its payload was never asked for until now.
        assert "secret-7f3a" not in await page.content()
        await page.get_by_role("link", name=f"Show those with: {MARKUP}").click()
        await expect(rows).to_have_count(2)
        await page.get_by_role("link", name=str(marked[0]), exact=True).click()
        event = page.locator("#event")
        await expect(event).to_contain_text(MARKUP)
        assert page.url.endswith(f"#/event/{marked[0]}")
        await event.get_by_role("button", name="Show the payload").click()
        await expect(event.locator("pre")).to_have_text('"secret-7f3a"')
        await answer(page, "event", "Retry this event …", "Retry 1 event?", "Retry 1 event", **{"Your name": "ada"})
        await expect(page.locator("#event-say")).to_contain_text("1 event put back")
        await expect(page.locator("#event-status")).to_contain_text("pending")
        await expect(page.locator("#event-history")).to_contain_text("It was put back · ada")
        assert await of_status(db, "pending") == {*many, marked[0]}

        # Some, by the boxes.
        await page.goto(f"{running.http_url}/#/dead?error=ERR+refused&event_type=order.paid")
        await expect(rows).to_have_count(3)
        await expect(page.get_by_role("button", name="Retry the selected …")).to_be_disabled()
        await page.get_by_label(f"Select event {refused[0]}").check()
        await page.get_by_label(f"Select event {refused[2]}").check()
        # Meanwhile somebody else puts one of them back: it is not put back twice.
        await db.execute("UPDATE messaging.message_outbox SET status = 'sent' WHERE id = %s", [refused[2]])
        await answer(page, "list", "Retry the 2 selected …", "Retry 2 events?", "Retry 2 events")
        await expect(page.locator("#list-say")).to_contain_text(
            "1 of 2 events put back; out in a moment; the others were not dead any more"
        )
        await expect(rows).to_have_count(1)
        assert await of_status(db, "pending") == {*many, marked[0], refused[0]}
        assert await page.locator("#list img, #list script").count() == 0
        assert await page.title() != "taken"


@pytest.mark.promise("console")
async def test_dead_events_are_discarded_with_a_reason(dispatcher: StartDispatcher, db, open_page: OpenPage):
    ids = await dead(db, 3, "ERR refused")
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/#/dead") as page,
    ):
        button = "Discard 3 … with: ERR refused"
        await page.locator("#dead").get_by_role("button", name=button).click()
        asked = page.get_by_role("dialog", name="Discard 3 events?")
        await expect(asked.get_by_label("Reason")).to_be_focused()
        await asked.get_by_role("button", name="Discard 3 events").click()
        await expect(asked).to_be_visible()  # without a reason nothing is done
        await asked.get_by_role("button", name="Cancel").click()
        await answer(
            page, "dead", button, "Discard 3 events?", "Discard 3 events", Reason="a test order", **{"Your name": "ada"}
        )
        await expect(page.locator("#dead-say")).to_have_text("3 events discarded.")
        discarded = await running.tap.next(DeadDiscarded)
        assert "ada" in discarded.by
        await running.tap.next(Sampled, where=lambda sample: sample.dead == 0)
        await expect(page.locator("#nav-dead")).to_be_hidden()
        await expect(page.locator("#dead-body")).to_have_text("None: no event waits for a decision.")
        await page.goto(f"{running.http_url}/#/event/{ids[0]}")
        history = page.locator("#event-history")
        await expect(history).to_contain_text("It was discarded · ada")
        await expect(history).to_contain_text("a test order")
        await expect(page.get_by_role("button", name="Retry this event …")).to_be_hidden()
        assert await page.evaluate("() => localStorage.getItem('dispatcher-who')") == "ada"  # typed once


@pytest.mark.promise("console")
async def test_an_event_that_is_tried_again_is_tried_now(dispatcher: StartDispatcher, db, open_page: OpenPage):
    later = {"status": "retry", "attempts": 6, "last_error": "away", "next_run_at": "2100-01-01 00:00:00+00"}
    [row] = await insert_events(db, 1, **later)
    async with (
        dispatcher(http_enabled=True) as running,
        open_page(f"{running.http_url}/#/event/{row}") as page,
    ):
        await expect(page.locator("#event-fields")).to_contain_text("2100")  # the year, where it is another one
        await answer(page, "event", "Try this event now …", "Retry 1 event?", "Retry 1 event")
        await expect(page.locator("#event-say")).to_have_text("1 event tried now.")
        await becomes(lambda: of_status(db, "sent"), {row})


@pytest.mark.promise("console")
async def test_errors_that_differ_in_figures_are_one_group(dispatcher: StartDispatcher, db, open_page: OpenPage):
    async with dispatcher(http_enabled=True, max_payload_bytes=100) as running:
        for size in range(31):
            await insert_events(db, 1, payload='"' + "x" * (200 + size) + '"')
        await running.tap.next(Sampled, where=lambda sample: sample.dead == 31)
        async with open_page(f"{running.http_url}/#/dead") as page:
            groups = page.locator("#dead .groups li")
            await expect(groups).to_have_count(1)
            await expect(groups).to_contain_text(re.compile(r"^31payload is 2\d\d bytes"))
            await expect(groups).to_contain_text("31 different figures: 202 to 232")
            await expect(groups).to_contain_text("set DISPATCH_MAX_PAYLOAD_BYTES above 232, restart the dispatchers")
            # As many as were put back die again: the panel says so, and nobody counts them twice.
            await page.get_by_role("button", name=re.compile("^Retry 31")).click()
            asked = page.get_by_role("dialog", name="Retry 31 events?")
            whom = "All 31 that failed with “payload is # bytes, DISPATCH_MAX_PAYLOAD_BYTES allows #” (202 to 232)"
            await expect(asked).to_contain_text(whom)
            await asked.get_by_role("button", name="Retry 31 events").click()
            await expect(page.locator("#dead-say")).to_have_text(
                re.compile(
                    r"^31 of these 31 died again, at \d\d:\d\d:\d\d, of the same error\. Mend the cause first\.$"
                )
            )
            await expect(groups).to_contain_text(re.compile(r"^31payload is 2\d\d bytes"))
            await expect(page.locator("#headline")).to_contain_text("31 events are dead")
            await page.goto(f"{running.http_url}/#/")
            await expect(page.locator("#tile-dead-more")).to_contain_text("62 deaths since")
            await page.go_back()
            await page.get_by_role("link", name=re.compile("Show those with")).click()
            await expect(page.locator("#list tbody tr")).to_have_count(31)
            await expect(page.get_by_role("columnheader", name="Died")).to_be_visible()
            shared = page.url
        async with open_page(shared) as page:
            await expect(page.locator("#list tbody tr")).to_have_count(31)
            await expect(page.locator("#list-narrowed")).to_contain_text("payload is # bytes")


@pytest.mark.promise("console")
async def test_an_event_is_found_and_lists_go_on(dispatcher: StartDispatcher, db, open_page: OpenPage):
    ids = await insert_events(db, 120, aggregate_id="A-77")
    [one] = await insert_events(db, 1, aggregate_id=MARKUP, event_type="order.paid")
    [row] = [row for row in await read_table(db) if row["id"] == one]
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/") as page,
    ):
        find, rows = page.get_by_role("search").get_by_role("textbox"), page.locator("#list tbody tr")
        for text in (str(one), str(row["event_id"]), str(row["message_id"]), MARKUP):
            await find.fill(text)
            await find.press("Enter")
            await expect(page.locator("#event-title")).to_have_text(f"Event {one}")
            await expect(page.locator("#event-fields")).to_contain_text(MARKUP)
            await page.goto(f"{running.http_url}/#/")
        await find.fill("A-77")
        await find.press("Enter")
        await expect(rows).to_have_count(50)
        await page.get_by_role("button", name="Load more").click()
        await expect(rows).to_have_count(100)
        await page.get_by_role("button", name="Load more").click()
        await expect(rows).to_have_count(120)
        await expect(page.get_by_role("button", name="Load more")).to_be_hidden()
        await find.fill("nobody")
        await find.press("Enter")
        await expect(page.locator("#list-body")).to_contain_text("No event has the row, the event_id")

        await db.execute(
            "UPDATE messaging.message_outbox SET status = 'retry', attempts = 6, last_error = 'away', "
            "next_run_at = now() + interval '1 hour' WHERE id = %s",
            [ids[0]],
        )
        await page.get_by_role("navigation", name="Views").get_by_role("link", name="Events").click()
        await page.get_by_role("link", name=re.compile("^Retrying")).click()
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("6 of 10 attempts failed")
        await expect(rows).to_contain_text("in 59 min")
        await page.locator("#list").get_by_label("Event type").fill("none.such")
        await page.locator("#list").get_by_label("Event type").press("Enter")
        await expect(page.locator("#list-body")).to_have_text("None.")
        assert "status=retry&event_type=none.such" in page.url


@pytest.mark.promise("console")
async def test_all_are_paused_and_resumed(dispatcher: StartDispatcher, db, open_page: OpenPage):
    async with dispatcher(http_enabled=True) as running, open_page(f"{running.http_url}/") as page:
        fields = {"Reason": "billing moves", "Your name": "ada"}
        await answer(page, "main", "Pause all …", "Pause every dispatcher?", "Pause all", **fields)
        await running.tap.next(PauseChanged, where=lambda change: change.paused)
        await expect(page.locator("#headline")).to_contain_text("by ada (127.0.0.1) (billing moves): no event is taken")
        await expect(page.locator("#parts li").first).to_contain_text("Pause")
        paused = page.locator("#parts li").first
        await expect(paused).to_have_attribute("data-level", "bad")
        await insert_events(db, 3)
        await running.tap.next(Sampled, where=lambda sample: sample.backlog == 3)
        await expect(page.locator("#tile-backlog")).to_have_text("3")
        await page.locator("#glance").get_by_role("button", name="Resume …").click()
        asked = page.get_by_role("dialog", name="Resume?")
        await expect(asked).to_contain_text(re.compile(r"Paused since .*: by ada .*billing moves"))
        await expect(asked).to_contain_text("3 events wait and go out")
        await asked.get_by_role("button", name="Cancel").click()
        await answer(page, "glance", "Resume …", "Resume?", "Resume")
        await running.tap.next(PauseChanged, where=lambda change: not change.paused)
        await expect(page.locator("#did")).to_have_text("Resumed: events go out again.")
        await insert_events(db, 1)
        await running.tap.next(Settled)


async def test_the_groups_with_what_they_have_in_hand(dispatcher: StartDispatcher, redis, open_page: OpenPage):
    await redis.xgroup_create("sanctum:messages", "billing", mkstream=True)
    await redis.xgroup_create("sanctum:messages", MARKUP, id="0")
    for number in range(3):
        await redis.xadd("sanctum:messages", {"event_id": str(number)})
    await redis.xreadgroup("billing", "one", {"sanctum:messages": ">"}, count=2)
    await redis.xadd("sanctum:messages:billing:dead", {"dead_reason": "KeyError at x.py:9"})
    async with dispatcher(http_enabled=True) as running, open_page(f"{running.http_url}/#/groups") as page:
        groups = page.locator("#all-groups li")
        await expect(groups).to_have_count(2)
        billing = groups.filter(has_text="billing")
        await expect(billing).to_contain_text("1 unread")
        await expect(billing).to_contain_text("2 delivered, not acknowledged · 1 consumer · last read")
        await expect(billing).to_contain_text("ago · by one")
        await expect(billing).to_contain_text(
            "1 event put away, which failed too often; the last error: KeyError at x.py:9"
        )
        await expect(billing.locator("code")).to_have_text("dispatcher groups dead billing")
        await expect(groups.filter(has_text=MARKUP)).to_contain_text("3 unread")


SHOWN = "#dead-card .groups li, #dead .groups li, #list tbody tr, #event-fields dd, #all-groups li, .none"
VIEWS = ("", "#/dead", "#/dead?error=ERR+refused", "#/events", "#/events?status=retry", "#/event/1", "#/groups")


@pytest.mark.promise("console")
async def test_everybody_can_read_and_use_each_view(
    dispatcher: StartDispatcher, db, redis, open_page: OpenPage, axe_script: str
) -> None:
    """In light and dark, on a screen and on a phone, with a screen reader."""
    await redis.xgroup_create("sanctum:messages", "billing", mkstream=True)
    await dead(db, 30, "ERR refused", event_type="a.rather.long.name.of.an.event.type.that.nobody.would.give")
    await insert_events(db, 5, next_run_at="2099-01-01")
    ways = [{"color_scheme": scheme, **more} for scheme in ("light", "dark") for more in ({}, PHONE)]
    async with dispatcher(http_enabled=True) as running:
        await running.tap.next(Sampled, where=lambda sample: sample.dead == 30)
        for way in ways:
            async with open_page(f"{running.http_url}/", **way) as page:
                for view in VIEWS:
                    await page.goto(f"{running.http_url}/{view}")
                    await expect(page.locator("#live")).to_have_attribute("data-state", "on")
                    await expect(page.locator(SHOWN).locator("visible=true").first).to_be_visible()
                    for check in (CONTRAST, SMALL, UNNAMED, WIDE):
                        assert await page.evaluate(check) == [], (way, view)
                    assert await barriers(page, axe_script) == [], (way, view)
                await page.goto(f"{running.http_url}/#/event/1")
                await page.get_by_role("button", name="Discard this event …").click()
                await expect(page.get_by_role("dialog")).to_be_visible()
                assert await barriers(page, axe_script) == [], way


async def test_by_keyboard_alone(dispatcher: StartDispatcher, db, open_page: OpenPage):
    """From the address to a discarded event; the focus is always somewhere that makes sense."""
    [one] = await dead(db, 1, "ERR refused")
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/#/dead?error=ERR+refused") as page,
    ):
        link = page.get_by_role("link", name=str(one), exact=True)
        await expect(link).to_be_visible()
        await page.get_by_text("Skip to the content").focus()
        for _ in range(40):
            if await link.evaluate("node => node === document.activeElement"):
                break
            await page.keyboard.press("Tab")
        await expect(link).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#event-title")).to_have_text(f"Event {one}")
        await expect(page.locator("#main")).to_be_focused()
        discard = page.get_by_role("button", name="Discard this event …")
        await expect(discard).to_be_visible()
        await discard.focus()
        await page.keyboard.press("Enter")
        await page.keyboard.type("no such customer")
        await page.keyboard.press("Enter")
        await expect(page.locator("#event-say")).to_have_text("1 event discarded.")
        await expect(page.locator("#event")).to_be_focused()
