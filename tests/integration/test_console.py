"""The console in a real browser, fed by events as the relay emits them: what people see, and what keeps others out."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from anyio.abc import TaskStatus
from playwright.async_api import Locator, Page, expect
from prometheus_client import CollectorRegistry

from dispatcher.core import events
from dispatcher.core.findings.runbook import BASE
from dispatcher.core.process_state import HeldCount, HeldHead, RetryCount, RunningDispatcher, SentBy, StreamSample
from dispatcher.settings import Settings
from dispatcher.sidecar import app
from dispatcher.sidecar.access import AccessControl
from dispatcher.telemetry.event_types import EventTypes
from dispatcher.telemetry.latency import LatencyHistogram
from tests.support.browser import OpenPage
from tests.support.console import FedConsole
from tests.support.http import port_of, served
from tests.support.page_checks import CONTRAST, SMALL, UNNAMED, WIDE

MARKUP = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
DISPATCHERS = (
    RunningDispatcher("host-1-cafe", "h", 1, "0.1.0", time.time() - 60),
    RunningDispatcher(MARKUP, "h", 2, "0.1.0", 0),
)
NOT_FOUND = "404 (Not Found)"  # the dead letters: they are not served here
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@dataclass
class Fed:
    """A console without a dispatcher: the test says what happens."""

    console: FedConsole
    latency: LatencyHistogram
    types: EventTypes
    url: str = ""
    now: float = field(default_factory=time.time)

    def say(self, *happened: events.TelemetryEvent) -> None:
        for event in happened:
            if isinstance(event, events.Published):
                self.latency.observe(event.ages_s)
                self.types.observe(event.types, event.ages_s[: len(event.types)])
            self.console.observe(event)

    def calm(self) -> None:
        """A dispatcher that runs well, and a point of it two seconds after the last."""
        self.say(
            events.Started("host-1-cafe", enabled=True),
            events.DatabaseChanged(True, None),
            events.Published(100, [0.002] * 100, 0.01, ["order.placed"] * 3 + [MARKUP]),
            events.Sampled(7, 0.25, 0.0, 900, {"billing": 40, MARKUP: 3}, dispatchers=DISPATCHERS),
        )
        self.now += 2.0
        self.console.history.add_point()


@asynccontextmanager
async def fed(*, token: str | None = None, listens_on: str = "127.0.0.1", **more: Any) -> AsyncIterator[Fed]:
    """A console over real HTTP. `more`: settings."""
    latency, types = LatencyHistogram("x", "x"), EventTypes("x", "x")
    settings = Settings(database_url="postgresql:///app", redis_url="redis://localhost", stream_maxlen=1000, **more)
    ours = Fed(FedConsole(settings, latency.snapshot, types.snapshot), latency, types)
    guard = AccessControl(token=lambda: token, listens_on=listens_on)
    site = app.build(lambda: None, CollectorRegistry(), guard=guard, routes=ours.console.routes)

    async def serving(*, task_status: TaskStatus[int]) -> None:
        await app.serve(site, "127.0.0.1", 0, task_status=task_status)

    ours.console.history._clock = lambda: ours.now
    async with anyio.create_task_group() as tasks:
        ours.url = f"http://127.0.0.1:{await tasks.start(serving)}/"
        yield ours
        tasks.cancel_scope.cancel()


async def level(page: Page, wanted: str) -> None:
    await expect(page.locator("#glance")).to_have_attribute("data-level", wanted)


@pytest.mark.promise("console")
async def test_from_the_first_glance_through_an_outage_and_back_without_a_reload(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        headline, parts = page.locator("#headline"), page.locator("#parts")
        await expect(page.locator("#others")).to_contain_text("Starting")
        ours.calm()
        await expect(headline).to_have_text("All is well")
        await level(page, "fine")
        await expect(page).to_have_title("✓ Dispatcher")
        await expect(page.locator("#live")).to_have_attribute("data-state", "on")
        await expect(page.locator("#tile-backlog")).to_have_text("7")
        await expect(page.locator("#tile-latency")).to_have_text("1.9 ms")
        await expect(page.locator("#tile-dead")).to_have_text("0")
        await expect(page.locator("#chart-latency .readout")).to_contain_text("p50 1.5 ms, p95 1.9 ms")
        # What is called after markup is written, not obeyed; the page's complaints would fail the test too.
        await expect(page.locator("#groups")).to_contain_text(MARKUP)
        await expect(page.locator("#alive")).to_contain_text(MARKUP)
        assert await page.locator("#groups b, #alive img").count() == 0

        ours.say(events.BreakerChanged("open", f"READONLY {MARKUP}"), events.BackpressureChanged(True, MARKUP, 900))
        await expect(headline).to_have_text(f"Redis takes no entries: READONLY {MARKUP}")
        await level(page, "bad")
        await expect(page.locator("#when")).to_contain_text("since ")
        await expect(page.locator("#todo")).to_contain_text("Events that wait are safe in Postgres")
        await expect(page.locator("#others")).to_contain_text(f"waits for the consumer group {MARKUP}")
        await expect(parts.locator("li[data-ok=false]")).to_have_count(2)
        await expect(parts.locator("li").first).to_have_attribute("data-ok", "false")  # what is wrong comes first
        await expect(page.locator("#say")).to_contain_text("Trouble. Redis takes no entries")
        ours.say(events.Sampled(7, 0.25, 0.0, None, {}, "ConnectionError", 0))
        await expect(page.locator("#groups")).to_have_text("Not known: Redis does not say.")
        ours.now += 2.0
        ours.console.history.add_point()
        await expect(page.locator("#chart-lag .readout")).to_have_text(
            re.compile("now .* not known, Redis does not say")
        )

        ours.say(events.BreakerChanged("closed", None), events.BackpressureChanged(False, MARKUP, 1))
        await expect(headline).to_have_text("All is well")
        await expect(parts.locator("li[data-ok=false]")).to_have_count(0)
        ours.say(events.Sampled(7, 0.25, 0.0, 900, {}, None, 0))
        await expect(page.locator("#groups")).to_have_text("No group reads this stream.")
        ours.say(events.DatabaseChanged(False, "refused"))
        unknown = parts.locator("li[data-known=false]")
        await expect(unknown).to_have_count(4)
        await expect(unknown.first).to_contain_text("not known while Postgres is away")
        ours.say(events.DatabaseChanged(True, None))
        await expect(unknown).to_have_count(0)
        assert await page.locator("#headline img").count() == 0


async def test_a_missing_doorbell_is_a_note_and_shards_are_called_shards(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.calm()
        shards = [StreamSample(f"sanctum:messages:{{{n}}}", 10, {"billing": n}) for n in range(16)]
        ours.say(events.Sampled(7, 0.25, 0.0, 160, {"billing": 15}, streams=shards, doorbell="absent"))
        await expect(page.locator("#headline")).to_have_text("All is well")
        await expect(page.locator("#others")).to_contain_text("The doorbell trigger is missing")
        await page.locator("#others summary").first.click()
        link = page.locator("#others").get_by_role("link", name="docs/runbook/doorbell-trigger.md")
        await expect(link).to_have_attribute("href", f"{BASE}doorbell-trigger.md")
        await expect(page.locator("#others p code").first).to_have_text(
            "dispatcher migrate --database-url OWNER_URL"
        )  # no backticks
        await expect(page.locator("#parts li[data-ok=false]")).to_contain_text("the trigger is absent")
        await expect(page.locator("#where")).to_contain_text("16 shards")
        await expect(page.locator("#stream")).to_contain_text("16 shards, 160 entries in all")


async def test_a_dispatcher_that_is_gone_is_said_to_be_and_one_that_came_back_is_drawn_anew(
    open_page: OpenPage,
) -> None:
    async with fed() as ours:
        ours.calm()
        async with open_page(ours.url, allow=(NOT_FOUND, "ERR_CONNECTION", "ERR_FAILED")) as page:
            await level(page, "fine")
            await page.route("**/api/**", lambda route: route.abort())
            await expect(page.locator("#headline")).to_have_text("No answer from the dispatcher")
            await expect(page.locator("#when")).to_contain_text("The figures below are of")
            await level(page, "bad")
            await expect(page.locator("#todo")).to_contain_text("Run `dispatcher status`")
            await expect(page.locator("#steps")).to_have_text("Runbook: docs/runbook/down.md")
            await expect(page.locator("#pause")).to_be_hidden()
            await expect(page.locator("#main")).to_have_class("stale")
            await expect(page.locator("#chart-backlog .readout")).to_have_text(re.compile(r"^at \d\d:\d\d:\d\d"))
            await page.unroute("**/api/**")
            await expect(page.locator("#headline")).to_have_text("All is well")
            await expect(page.locator("#pause")).to_be_visible()
            await expect(page.locator("#main")).not_to_have_class("stale")
            await expect(page.locator("#chart-backlog .readout")).to_contain_text("now")


async def test_the_token_is_asked_for_and_kept_in_the_tab_only(open_page: OpenPage) -> None:
    async with fed(token="open-sesame", listens_on="0.0.0.0") as ours:  # noqa: S104
        ours.calm()
        async with open_page(ours.url, allow=(NOT_FOUND, "401 (Unauthorized)")) as page:
            token, wrong = page.get_by_label("Token"), page.locator("#token-wrong")
            await expect(token).to_be_focused()
            await expect(page.locator("main")).to_be_hidden()
            await token.press("Escape")  # there is nothing behind it
            await token.fill("guessed")
            await token.press("Enter")
            await expect(wrong).to_contain_text("is not the value of DISPATCH_API_TOKEN")
            await token.fill("open-sesame")
            await token.press("Enter")
            await expect(page.locator("#headline")).to_have_text("All is well")
            kept = "() => [sessionStorage.length, JSON.stringify(localStorage), document.cookie, location.search]"
            assert await page.evaluate(kept) == [1, "{}", "", ""]
            await page.reload()
            await expect(page.locator("#headline")).to_have_text("All is well")
            await page.get_by_role("button", name="Sign out").click()
            await expect(token).to_be_focused()
            assert await page.evaluate("() => sessionStorage.length") == 0


async def test_by_keyboard(open_page: OpenPage) -> None:
    async with fed() as ours:
        for _ in range(3):
            ours.calm()
        async with open_page(ours.url, allow=(NOT_FOUND,)) as page:
            await level(page, "fine")
            await page.keyboard.press("Tab")
            await expect(page.get_by_text("Skip to the content")).to_be_focused()
            await page.keyboard.press("Enter")
            for _ in range(5):  # past the four tiles
                await page.keyboard.press("Tab")
            chart = page.get_by_role("slider", name="Published by this dispatcher")
            await expect(chart).to_be_focused()
            readouts = page.locator(".readout")
            await expect(readouts.nth(0)).to_contain_text("now")
            await page.keyboard.press("ArrowLeft")
            assert await chart.get_attribute("aria-valuenow") == "1"
            for readout in await readouts.all():  # the same moment in all four
                await expect(readout).not_to_contain_text("now")
            await page.keyboard.press("Home")
            assert await chart.get_attribute("aria-valuenow") == "0"
            await page.keyboard.press("Tab")
            await expect(readouts.nth(0)).to_contain_text("now")


async def test_on_a_phone_it_fits_and_can_be_read_in_either_colour(open_page: OpenPage) -> None:
    async with fed() as ours:
        ours.calm()
        ours.say(events.BreakerChanged("open", "OOM"), events.ListenerChanged(False, "gone"))
        for scheme in ("light", "dark"):
            async with open_page(ours.url, allow=(NOT_FOUND,), color_scheme=scheme, **PHONE) as page:
                await level(page, "bad")
                await expect(page.locator("#parts li")).to_have_count(9)
                for check in (CONTRAST, SMALL, UNNAMED, WIDE):
                    assert await page.evaluate(check) == []


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has=page.locator(f"#tile-{name}"))


async def test_each_figure_takes_the_colour_of_its_threshold(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.calm()
        await expect(page.locator("#tile-events-more")).to_contain_text("100 by this dispatcher since")
        for name in ("events", "latency", "backlog", "dead"):
            await expect(tile(page, name)).to_have_attribute("data-level", "")
        noted = [SentBy(MARKUP, 100 + 90 * i, 0.1, 12.0 - 6 * i) for i in range(2)]
        for each in noted:
            ours.say(events.Sampled(7, 0.25, 0.0, 900, {}, dispatchers=DISPATCHERS, sent=[each]))
            ours.now += 2.0
            ours.console.history.add_point()
        await expect(page.locator("#when")).to_contain_text("events by this dispatcher in the last minute")
        await expect(page.locator("#when")).to_contain_text("Others send 15 a second.")
        ours.console.observe._published_at = ours.console.observe._began = time.time() - 31
        ours.say(events.BreakerChanged("open", "refused"))
        ours.say(events.Sampled(1577, 31.0, 0.0, None, {}, "ConnectionError", 0))
        await expect(page.locator("#tile-events-more")).to_have_text(
            re.compile(r"^nothing sent for ([3-9]\d|\d{3,}) s$")
        )
        await expect(page.locator("#tile-latency")).to_have_text(re.compile(r"^> ([3-9]\d|\d{3,}) s$"))
        for name, wanted in (("events", "bad"), ("latency", "bad"), ("backlog", "warn"), ("dead", "")):
            await expect(tile(page, name)).to_have_attribute("data-level", wanted)
        ours.say(events.Sampled(0, 0.0, 0.0, 900, {}, None, 3))
        await expect(tile(page, "dead")).to_have_attribute("data-level", "warn")
        ours.say(events.Sampled(0, 0.0, 0.0, 900, {}, None, 3, newest_dead_at=1_000_000_003.0))  # at another dispatcher
        await expect(page.locator("#tile-dead-more")).to_have_text(re.compile(r"^the latest died at Sep \d, 2001"))
        await expect(page.locator("#nav-dead")).to_have_text("3")


async def test_figures_from_before_postgres_went_away_say_when_they_were_looked_at(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.calm()
        await expect(page.locator("#stream")).to_contain_text("900 of about 1,000 entries")
        await expect(page.locator("#alive-when")).to_be_hidden()
        ours.say(events.DatabaseChanged(False, "refused"))
        await expect(page.locator("#stream")).to_have_text(
            re.compile(r", as of \d\d:\d\d:\d\d$"),
            timeout=12_000,  # later it would be old, whatever is away
        )
        await expect(page.locator("#alive-when")).to_have_text(re.compile(r"^as of \d\d:\d\d:\d\d, when Postgres"))
        await expect(page.locator("#tile-dead")).to_have_text("?")
        await expect(page.locator("#tile-dead-more")).to_have_text(re.compile(r"^0 when last counted, \d+ s ago$"))
        ours.now += 2.0
        ours.console.history.add_point()
        await expect(page.locator("#chart-lag .readout")).to_have_text(
            re.compile("now .* not known while Postgres is away")
        )


async def test_the_backlog_is_one_figure_in_tile_and_chart(open_page: OpenPage) -> None:
    """What waits behind a dead event is not overdue; a count that is newer than the last point is in both."""
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.calm()
        head = HeldHead(1, "order.paid", "order", "42x", "dead", 5, "too large")
        held, none = HeldCount(1, 1, 15.0, "too large", head), RetryCount(overdue_s=0.0)
        ours.say(events.Sampled(6, 15.0, 0.0, 900, {}, None, 1, held=held, retrying=none))
        ours.now += 2.0
        ours.console.history.add_point()
        await expect(page.locator("#tile-backlog-more")).to_have_text(
            re.compile(r"^5.wait.behind.event.1,.oldest.15.s")
        )
        await expect(page.locator("#chart-backlog .readout")).to_contain_text("6 waiting, none is overdue")
        ours.say(events.Sampled(318, 16.0, 0.0, 900, {}, None, 0))
        await expect(page.locator("#tile-backlog")).to_have_text("318")
        await expect(page.locator("#chart-backlog .readout")).to_contain_text("318 waiting, the oldest 16 s overdue")


async def test_backpressure_names_its_group_since_when_and_where_it_ends(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.calm()
        ours.say(events.BackpressureChanged(True, "billing", 900))
        await expect(page.locator("#todo")).to_contain_text("less than 800 entries (80 % of REDIS_STREAM_MAXLEN)")
        billing = page.locator("#groups li").filter(has_text="billing")
        await expect(billing).to_have_text(re.compile(r"holds publishing back since \d\d:\d\d:\d\d"))
        await expect(page.locator("#groups strong")).to_have_count(1)


async def test_each_p95_names_the_time_it_is_of(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(ours.url, allow=(NOT_FOUND,)) as page:
        ours.console.history._elapsed = lambda: ours.now
        for _ in range(10):
            ours.calm()
        await expect(page.locator("#tile-latency-label")).to_have_text("Latency, p95 of the last 10 s")
        await expect(page.locator("#tile-latency-more")).to_contain_text("in a minute: p50")
        ours.say(events.Published(500, [90.0] * 500, 0.01))
        ours.now += 2.0
        ours.console.history.add_point()
        await expect(page.locator("#when")).not_to_contain_text("within 60 s")
        for _ in range(6):
            ours.calm()
        await expect(page.locator("#when")).to_contain_text("in the last minute p95: it was 60 s or more")


async def test_it_says_which_system_and_draws_no_more_time_than_there_was(open_page: OpenPage) -> None:
    async with fed(deployment="shop, production", grafana_url="https://grafana.example.com/d/outbox") as ours:
        for _ in range(3):
            ours.calm()
        async with open_page(ours.url, allow=(NOT_FOUND,)) as page:
            await expect(page.locator("#deployment")).to_have_text("shop, production")
            await expect(page.locator("#where")).to_contain_text("/app · sanctum:messages")
            await expect(page).to_have_title("✓ Dispatcher · shop, production")
            await expect(page.locator("#charts-title")).to_have_text("The last minute, since the start")
            grafana = page.get_by_role("link", name="Longer, in Grafana")
            assert await grafana.get_attribute("href") == "https://grafana.example.com/d/outbox"
            await expect(page.locator("#types tr")).to_have_count(2)
            await expect(page.locator("#types tr").first).to_contain_text("order.placed")
            assert await page.locator("#types img").count() == 0


async def test_a_peak_is_named_and_does_not_flatten_the_rest(open_page: OpenPage) -> None:
    async with fed() as ours:
        ours.console.history._elapsed = lambda: ours.now
        for _ in range(30):
            ours.calm()
        ours.say(events.Published(5000, [0.002] * 5000, 0.01))
        for _ in range(5):
            ours.calm()
        async with open_page(ours.url, allow=(NOT_FOUND,)) as page:
            await expect(page.locator("#chart-events .peak")).to_have_text(re.compile("^↑ [2-5],?\\d{3}$"))
            assert await page.locator("#chart-latency .peak").count() == 0


async def test_each_view_has_an_address_that_a_reload_keeps(open_page: OpenPage) -> None:
    async with fed() as ours, open_page(f"{ours.url}#/events?status=retry", allow=(NOT_FOUND,)) as page:
        ours.calm()
        views = page.get_by_role("navigation", name="Views")
        chosen = views.locator("[aria-current]")
        for name, heading, address in (
            ("Events", "Events that are not sent yet", "#/events"),
            ("Dead letters", "Dead letters, by error", "#/dead"),
            ("Groups", "Consumer groups", "#/groups"),
        ):
            await views.get_by_role("link", name=name).click()
            await expect(page.get_by_role("heading", name=heading)).to_be_visible()
            await expect(chosen).to_have_text(re.compile(f"^{name}"))
            assert page.url == ours.url + address
            await page.reload()
            await expect(page.get_by_role("heading", name=heading)).to_be_visible()
            await expect(page.locator(".tiles")).to_be_hidden()
        await page.go_back()
        await expect(page.get_by_role("heading", name="Dead letters, by error")).to_be_visible()
        await views.get_by_role("link", name="Now").click()
        await expect(page.locator(".tiles")).to_be_visible()
        await page.goto(f"{ours.url}#/nonsense/%?x=%")  # a link that was cut in a mail
        await expect(page.locator(".tiles")).to_be_visible()


@asynccontextmanager
async def behind(path: str, url: str) -> AsyncIterator[str]:
    """A proxy that shows what is at `url` below a path of its own, as an ingress and `kubectl proxy` do."""

    async def forward(request: web.Request) -> web.Response:
        rest = request.match_info["rest"]
        async with asking.get(f"{url}{rest}", params=request.query) as answer:
            kept = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
            return web.Response(body=await answer.read(), status=answer.status, headers=kept)

    proxy = web.Application()
    proxy.add_routes([web.get(path + "{rest:.*}", forward)])
    async with aiohttp.ClientSession() as asking, served(proxy) as client:
        yield f"http://127.0.0.1:{port_of(client)}{path}"


@pytest.mark.promise("console")
async def test_below_a_path_of_a_proxy(open_page: OpenPage) -> None:
    async with (
        fed() as ours,
        behind("/api/v1/namespaces/shop/outbox/", ours.url) as url,
        open_page(url, allow=(NOT_FOUND,)) as page,
    ):
        ours.calm()
        await expect(page.locator("#headline")).to_have_text("All is well")
        await expect(page.locator("#chart-latency .readout")).to_contain_text("p50 1.5 ms")
        assert await page.locator("header img").evaluate("image => image.naturalWidth") > 0
        await page.get_by_role("link", name="Dead letters", exact=True).click()
        assert page.url == f"{url}#/dead"
        metrics = page.get_by_role("link", name="Metrics")
        assert await metrics.evaluate("link => link.href") == f"{url}metrics"
