"""examples/django_shop: by its one command, and its own tests."""

import re
from html import unescape

import aiohttp

from tests.support.child import Child
from tests.support.examples import example
from tests.support.waiting import becomes

PATIENCE_S = 60.0
SETTINGS = {"DJANGO_SETTINGS_MODULE": "django_shop.settings"}


async def invoices(session: aiohttp.ClientSession, url: str) -> list[tuple[str, str]]:
    """Customer, and number of invoices, of each order, the newest first."""
    async with session.get(f"{url}orders/") as answer:
        rows = re.findall(r"<tr><td>\d+</td><td>(.*?)</td><td>.*?</td><td>(\d+)</td></tr>", await answer.text())
        return [(unescape(customer), number) for customer, number in rows]


async def place(session: aiohttp.ClientSession, url: str, customer: str) -> None:
    async with session.get(url) as page:
        [token] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', await page.text())
    form = {"csrfmiddlewaretoken": token, "customer": customer, "total": "42.50"}
    async with session.post(url, data=form, headers={"Referer": url}) as answer:
        assert answer.status == 200


async def test_an_order_gets_its_invoice_by_its_one_command() -> None:
    jar = aiohttp.CookieJar(unsafe=True)  # of 127.0.0.1
    async with example("-m", "django_shop") as shop, aiohttp.ClientSession(cookie_jar=jar) as session:
        url = (await shop.line("The shop: ", timeout=180)).removeprefix("The shop: ")
        for customer in ("ada", "<grace>"):
            await place(session, url, customer)
        expected = [("<grace>", "1"), ("ada", "1")]
        await becomes(lambda: invoices(session, url), expected, "orders and their invoices", PATIENCE_S)
        async with session.get(f"{url}admin/") as page:
            assert "Log in" in await page.text()


async def test_its_own_tests() -> None:
    async with example("-m", "django", "test", "django_shop", env=SETTINGS) as tests:
        await tests.line("OK", timeout=180)
        assert any(line.startswith("Ran 6 tests") for line in tests.lines)


async def test_its_migrations_are_complete() -> None:
    async with example("-W", "ignore", "-m", "django", "makemigrations", "--check", env=SETTINGS) as checked:
        await ended_well(checked)


async def ended_well(child: Child) -> None:
    assert await child.wait() == 0, "\n".join(child.lines)
