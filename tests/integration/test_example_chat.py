"""examples/chat: two browsers through kills and restarts, and the gateway's promises one by one."""

import asyncio
import json
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg
import pytest
from playwright.async_api import Page, expect
from redis.asyncio import Redis

from tests.support.axe import barriers
from tests.support.browser import OpenPage
from tests.support.child import StartCli
from tests.support.examples import Gateway, example, pid_of, running_again
from tests.support.page_checks import CONTRAST, SMALL, UNNAMED, WIDE
from tests.support.rows import STREAM, insert_events, read_table
from tests.support.waiting import becomes, pass_time, until

CUT_OFF = ("WebSocket connection", "ERR_CONNECTION", "Failed to load resource")  # a browser complains of an outage
SHOWN = "() => [...document.querySelectorAll('#messages li')].map((item) => Number(item.dataset.number))"
RESUME, RELOAD, RESTARTS = 4001, 4002, 1012
PATIENCE_S = 60.0
ADA = "chat.html?room=lobby&name=Ada"


def message(body: str, author: str = "test") -> dict[str, str]:
    return {"key": str(uuid.uuid4()), "author": author, "body": body}


async def post(session: aiohttp.ClientSession, url: str, given: dict[str, str], room: str = "lobby") -> int:
    """Post a message, again and again until the gateway has it; its number."""

    async def once() -> int:
        try:
            async with session.post(f"{url}rooms/{room}/messages", json=given) as answer:
                return int((await answer.json())["number"]) if answer.status == 201 else 0
        except aiohttp.ClientError:
            return 0

    return int(await until(once, "the message is taken", PATIENCE_S))


class Pane:
    """A page, and the messages that its WebSockets brought."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.numbers: list[int] = []
        page.on("websocket", lambda opened: opened.on("framereceived", self._came))

    def _came(self, text: str | bytes) -> None:
        frame = json.loads(text)
        if frame["type"] == "message":
            self.numbers.append(frame["message"]["number"])

    async def say(self, text: str) -> None:
        await self.page.get_by_label("Your message").fill(text)
        await self.page.keyboard.press("Enter")

    async def shows(self, count: int) -> None:
        """All messages, in order and once, and none came twice."""
        await becomes(lambda: self.page.evaluate(SHOWN), list(range(1, count + 1)), "what is shown", PATIENCE_S)
        await expect(self.page.locator("#unsent li")).to_have_count(0)
        assert len(self.numbers) == len(set(self.numbers))


async def test_two_browsers_through_a_killed_dispatcher_and_two_gateways(open_page: OpenPage) -> None:
    """By its one command. Nothing is missed, nothing comes twice, all in order, in both panes."""
    async with example("-m", "chat", "--no-browser") as chat, aiohttp.ClientSession() as session:
        url = (await chat.line("Two panes: ", timeout=180)).removeprefix("Two panes: ")
        dispatcher, gateway = pid_of(chat, "dispatcher 1"), pid_of(chat, "gateway")
        async with (
            open_page("about:blank", allow=CUT_OFF) as first,
            open_page("about:blank", allow=CUT_OFF) as second,
        ):
            ada, grace = Pane(first), Pane(second)
            for pane, name in ((ada, "Ada"), (grace, "Grace")):
                await pane.page.goto(f"{url}chat.html?room=lobby&name={name}")
                await expect(pane.page.get_by_role("status")).to_have_text("Connected")

            async def others() -> None:
                for number in range(100):
                    await post(session, url, message(f"other {number}"))

            writing = asyncio.create_task(others())
            await ada.say("Does anybody hear me?")
            await expect(grace.page.get_by_text("Does anybody hear me?")).to_be_visible()
            os.kill(dispatcher, signal.SIGKILL)
            await grace.say("I do.")
            await running_again(chat, "dispatcher 1", dispatcher)
            os.kill(gateway, signal.SIGTERM)
            await ada.say("And now?")
            await grace.say("<b>Still</b>")
            gateway = await running_again(chat, "gateway", gateway)
            await expect(grace.page.get_by_text("And now?")).to_be_visible()
            os.kill(gateway, signal.SIGKILL)
            await ada.say("And without a good-bye?")
            await running_again(chat, "gateway", gateway)
            await writing
            for pane in (ada, grace):
                await pane.shows(105)
                await expect(pane.page.get_by_text("<b>Still</b>")).to_be_visible()
                assert pane.numbers, "they came by WebSocket"
    assert chat.lines[-1] == "Stopped; nothing is left of it."


@pytest.fixture
async def gateway(database_url: str, redis_url: str, cli: StartCli) -> Gateway:
    """A gateway that is not started yet, and a dispatcher that is."""
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url})
    await relay.ready()
    return Gateway(database_url, redis_url, {})


class Socket:
    """A browser's WebSocket, without a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.place = ""

    async def frame(self) -> dict[str, Any]:
        """The next frame; {"closed": code} at the end."""
        async with asyncio.timeout(PATIENCE_S):
            got = await self.socket.receive()
        if got.type is not aiohttp.WSMsgType.TEXT:
            return {"closed": self.socket.close_code}
        frame: dict[str, Any] = json.loads(got.data)
        self.place = frame.get("id", self.place)
        return frame

    async def bodies(self, count: int) -> list[str]:
        return [(await self.frame())["message"]["body"] for _ in range(count)]


@asynccontextmanager
async def connected(
    gateway: Gateway, after: str = "", room: str = "lobby"
) -> AsyncIterator[tuple[Socket, dict[str, Any]]]:
    """The socket and its first frame."""
    url = f"{gateway.url}rooms/{room}/live?after={after}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as opened:
        here = Socket(opened)
        yield here, await here.frame()


async def test_a_browser_that_was_away_gets_what_it_lacks_and_no_more(gateway: Gateway, redis: "Redis") -> None:
    async with aiohttp.ClientSession() as session:
        async with gateway.running() as running:
            await post(session, gateway.url, message("before"))
            async with connected(gateway) as (here, first):
                assert first["why"] == ""
                assert [each["body"] for each in first["messages"]] == ["before"]
                await post(session, gateway.url, message("elsewhere"), room="attic")
                await post(session, gateway.url, message("one"))
                got = await here.frame()
                while got["message"]["body"] == "before":  # it was on its way while the room was read
                    got = await here.frame()
                assert got["message"]["body"] == "one"
                place = here.place
            await post(session, gateway.url, message("two"))
            async with connected(gateway, place) as (here, first):
                assert first == {"type": "resumed"}
                assert await here.bodies(1) == ["two"]
                await post(session, gateway.url, message("three"))
                assert await here.bodies(1) == ["three"]
                running.signal(signal.SIGTERM)
                assert await here.frame() == {"closed": RESTARTS}
            assert await running.wait() == 0
        # Another gateway, which keeps two entries only: the rest it reads from the stream.
        async with gateway.running(CHAT_BACKLOG="1"):
            for number in range(4):
                await post(session, gateway.url, message(f"kept {number}"))
            async with connected(gateway, place) as (here, first):
                assert first == {"type": "resumed"}
                assert await here.bodies(6) == ["two", "three", *(f"kept {number}" for number in range(4))]
            # The stream has lost what came after the id.
            await redis.xtrim(STREAM, maxlen=2, approximate=False)
            async with connected(gateway, place) as (here, first):
                assert first["why"] == "you were away for too long"
                assert [each["number"] for each in first["messages"]] == list(range(1, 9))
                await post(session, gateway.url, message("after it"))
                assert await here.bodies(1) == ["after it"]


async def test_with_shards_every_room_gets_its_messages(
    database_url: str, redis_url: str, redis: "Redis", cli: StartCli
) -> None:
    """Live, resumed from the memory of another gateway, and from the stream; none twice."""
    settings = {"DISPATCH_STREAM_SHARDS": "8"}
    relay = await cli("run", "--enabled", env={"DATABASE_URL": database_url, "REDIS_URL": redis_url, **settings})
    await relay.ready()
    gateway, rooms = Gateway(database_url, redis_url, settings), [f"room {number}" for number in range(20)]
    places, missed = dict[str, str](), {room: [f"second in {room}"] for room in rooms}
    async with aiohttp.ClientSession() as session:
        async with gateway.running():
            for room in rooms:
                async with connected(gateway, room=room) as (here, _):
                    await post(session, gateway.url, message(f"first in {room}"), room)
                    assert await here.bodies(1) == [f"first in {room}"]
                    places[room] = here.place
                await post(session, gateway.url, message(f"second in {room}"), room)
        keys = [key async for key in redis.scan_iter(_type="stream")]
        assert len(keys) > 4, "the rooms are in several shards"
        for backlog in ("1000", "1"):
            async with gateway.running(CHAT_BACKLOG=backlog):
                for room in rooms:
                    async with connected(gateway, places[room], room) as (here, first):
                        assert first == {"type": "resumed"}
                        assert await here.bodies(len(missed[room])) == missed[room]
                        await post(session, gateway.url, message(backlog), room)
                        assert await here.bodies(1) == [backlog]
                        missed[room].append(backlog)


async def test_who_takes_nothing_is_cut_and_told_to_resume(gateway: Gateway) -> None:
    """The others get everything meanwhile."""
    address = urlsplit(gateway.url)
    async with gateway.running(CHAT_QUEUE="100") as running, aiohttp.ClientSession() as session:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects: a small window
            slow.connect((address.hostname, address.port))
            slow.sendall(
                f"GET /rooms/lobby/live HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            async with connected(gateway) as (here, _):
                sent, got = 0, set[int]()
                while "too slow" not in running.output:
                    posts = [post(session, gateway.url, message("\N{ROCKET}" * 4_000)) for _ in range(20)]
                    sent += len(await asyncio.gather(*posts))
                    assert sent < 5_000, "nobody was cut"
                while len(got) < sent:
                    frame = await here.frame()
                    assert "closed" not in frame
                    if frame["type"] == "message":
                        assert frame["message"]["number"] not in got
                        got.add(frame["message"]["number"])
            slow.settimeout(PATIENCE_S)
            came = b""
            while chunk := await asyncio.to_thread(slow.recv, 1 << 20):
                came += chunk
        assert came.endswith(b"\x88\x02" + RESUME.to_bytes(2, "big"))


async def test_a_gateway_that_stood_still_for_too_long_says_so(
    gateway: Gateway, db: psycopg.AsyncConnection, redis: "Redis"
) -> None:
    async with gateway.running() as running, aiohttp.ClientSession() as session, connected(gateway) as (here, _):
        await post(session, gateway.url, message("before"))
        assert await here.bodies(1) == ["before"]
        running.signal(signal.SIGSTOP)
        for _ in range(3):
            await insert_events(db, 1, event_type="message.posted", aggregate_type="room", aggregate_id="lobby")
        await becomes(lambda: redis.xlen(STREAM), 4)
        await redis.xtrim(STREAM, maxlen=1, approximate=False)
        await pass_time(2.5)  # longer than a read of the gateway may wait
        running.signal(signal.SIGCONT)
        while "closed" not in (frame := await here.frame()):
            pass
        assert frame == {"closed": RELOAD}
        async with connected(gateway, here.place) as (_, first):
            assert first["why"] == "you were away for too long"


async def test_a_message_and_its_event_are_both_there_or_neither_and_once(
    gateway: Gateway, db: psycopg.AsyncConnection
) -> None:
    async with gateway.running(), aiohttp.ClientSession() as session:
        given = message("hello")
        assert await asyncio.gather(*(post(session, gateway.url, given) for _ in range(5))) == [1] * 5
        await db.execute("ALTER TABLE messaging.message_outbox ADD CHECK (payload ->> 'body' <> 'refused') NOT VALID")
        async with session.post(f"{gateway.url}rooms/lobby/messages", json=message("refused")) as answer:
            assert answer.status == 500
        assert await post(session, gateway.url, message("next")) == 2
        cursor = await db.execute("SELECT number, body FROM message ORDER BY number")
        assert await cursor.fetchall() == [(1, "hello"), (2, "next")]
        assert [row["payload"]["body"] for row in await read_table(db)] == ["hello", "next"]


async def test_what_is_no_message_is_refused_in_one_sentence(gateway: Gateway) -> None:
    no_messages: list[object] = [
        {},
        [],
        message(""),
        message("x" * 4_001),
        message("a\0b"),
        message("\ud800"),
        message("x") | {"key": "1"},
    ]
    async with gateway.running() as running, aiohttp.ClientSession() as session:
        for given in no_messages:
            async with session.post(f"{gateway.url}rooms/lobby/messages", json=given) as answer:
                assert answer.status == 400, given
                assert "must" in (said := await answer.text()) or "is a JSON object" in said
        said_else = [
            line for line in running.output.splitlines() if "has no entry" not in line
        ]  # the stream is empty yet
        assert said_else == []


async def test_pages_of_other_sites_and_wrong_addresses_are_refused(gateway: Gateway) -> None:
    strange = {"Origin": "https://elsewhere.example"}
    async with gateway.running(), aiohttp.ClientSession() as session:
        for path, headers, status in (
            ("rooms/lobby/live", strange, 403),
            ("rooms/lobby/live?after=x", {}, 400),
            ("rooms/a%2Fb/live", {}, 404),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{gateway.url}{path}", headers=headers)
            assert refused.value.status == status
        async with session.post(f"{gateway.url}rooms/lobby/messages", json=message("x"), headers=strange) as answer:
            assert answer.status == 403


@asynccontextmanager
async def page_of(
    gateway: Gateway, open_page: OpenPage, path: str = "chat.html?room=lobby&name=Ada", **options: Any
) -> AsyncIterator[Page]:
    async with open_page(f"{gateway.url}{path}", allow=CUT_OFF, **options) as page:
        if "chat" in path:
            await expect(page.get_by_role("status")).to_have_text("Connected")
        yield page


async def test_a_browser_that_was_away_for_too_long_loads_the_room_again(
    gateway: Gateway, redis: "Redis", open_page: OpenPage
) -> None:
    async with aiohttp.ClientSession() as session, gateway.running() as running:
        await post(session, gateway.url, message("before"))
        async with page_of(gateway, open_page) as page:
            await expect(page.get_by_text("before")).to_be_visible()
            running.signal(signal.SIGTERM)
            await running.wait()
            await expect(page.get_by_role("status")).to_have_text("Connecting again")
            async with gateway.running():
                await expect(page.get_by_role("status")).to_have_text("Connected")
                for number in range(60):
                    await post(session, gateway.url, message(f"number {number}"))
                await expect(page.get_by_text("number 59")).to_be_visible()
            await expect(page.get_by_role("status")).to_have_text("Connecting again")
            await redis.delete(STREAM)
            async with gateway.running():
                await expect(page.get_by_role("status")).to_have_text("Loaded again: you were away for too long")
                assert await page.evaluate(SHOWN) == list(range(12, 62))
                await page.get_by_role("button", name="Earlier messages").click()
                await becomes(lambda: page.evaluate(SHOWN), list(range(1, 62)))
                await expect(page.get_by_role("button", name="Earlier messages")).to_be_hidden()


async def test_a_message_that_never_came_is_noticed_by_its_number(
    gateway: Gateway, db: psycopg.AsyncConnection, open_page: OpenPage
) -> None:
    async with gateway.running(), aiohttp.ClientSession() as session, page_of(gateway, open_page) as page:
        await post(session, gateway.url, message("first"))
        await expect(page.get_by_text("first")).to_be_visible()
        # Without an event.
        await db.execute("INSERT INTO message VALUES ('lobby', 2, gen_random_uuid(), 'x', 'second')")
        await db.execute("UPDATE room SET last_number = 2")
        await post(session, gateway.url, message("third"))
        await becomes(lambda: page.evaluate(SHOWN), [1, 2, 3])


NARROW = {"viewport": {"width": 320, "height": 568}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_and_write(
    gateway: Gateway, open_page: OpenPage, axe_script: str, scheme: str
) -> None:
    async with gateway.running(), aiohttp.ClientSession() as session:
        await post(session, gateway.url, message("W" * 300, author="M" * 40))
        for size in ({}, NARROW):
            for path in (ADA, ""):
                async with page_of(gateway, open_page, path, color_scheme=scheme, **size) as page:
                    for frame in page.frames:
                        await expect(frame.locator("li, iframe").first).to_be_visible()
                        for check in (CONTRAST, SMALL, UNNAMED, WIDE):
                            assert await frame.evaluate(check) == [], (size, frame.url)
                    if path:
                        assert await barriers(page, axe_script) == []
        async with page_of(gateway, open_page, color_scheme=scheme) as page:
            assert await page.title() == "lobby, Ada: Chat"
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name="Skip to the message")).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("Your message")).to_be_focused()
            await page.keyboard.type("by keyboard")
            await page.keyboard.press("Shift+Enter")
            await page.keyboard.type("alone")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("log").get_by_text("by keyboard\nalone")).to_be_visible()
            await expect(page.get_by_label("Your message")).to_be_focused()
            await expect(page.get_by_label("Your message")).to_have_value("")
