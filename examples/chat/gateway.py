"""The gateway: takes messages over HTTP, and sends those that the dispatcher published to the browsers of their room.

Start as many as you like: each reads the whole stream, without a consumer group, and leaves nothing behind in Redis.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
from contextlib import aclosing
from typing import Any

import asyncpg
import redis.asyncio
from aiohttp import WSCloseCode, web
from dispatcher.client import is_outage
from dispatcher.client.group import shard_keys
from dispatcher.client.received import Received
from dispatcher.client.tail import AsyncTail

from chat import messages
from chat.fanout import BACKLOG, QUEUE, Browser, Fanout, Frame, Id, parse, written

log = logging.getLogger("chat")
RESUME, RELOAD, RESTARTS = 4001, 4002, WSCloseCode.SERVICE_RESTART  # close codes; after 4002 the id is worthless
TALK_S = 15.0  # a frame at least so often: a browser that hears nothing for three times as long connects again
CLOSE_S = 5.0  # for a browser that does not take its close frame
WARM_UP_S = 300  # how much of the stream a new gateway reads, for the browsers of the one before
START_S = 30.0
MOST = 20_000  # entries that are read for one browser that was away; beyond it the database is quicker
ID = re.compile(r"\d{1,20}-\d{1,20}")


def frame_of(event: Received) -> str:
    """The frame of an event; its payload goes into it as it is."""
    return f'{{"type":"message","id":"{event.entry_id}","message":{event.text}}}'


def is_message(event: Received) -> bool:
    """Others may use the stream too."""
    return event.event_type == messages.EVENT_TYPE and event.aggregate_type == messages.AGGREGATE_TYPE


class Gateway:
    """The stream on one side, the browsers on the other. Made by `running`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", client: "redis.asyncio.Redis", stream: str, shards: int) -> None:
        self.pool = pool
        kept = int(os.environ.get("CHAT_BACKLOG", BACKLOG))
        self._fanouts = {key: Fanout(RESUME, kept) for key in shard_keys(stream, shards)}
        self._client = client
        self._stream = stream
        self._shards = shards
        self._turns = asyncio.Semaphore(4)  # that read the stream for one browser
        self._queue = int(os.environ.get("CHAT_QUEUE", QUEUE))
        self._open: set[Browser] = set()

    def stop(self) -> None:
        """Tell all browsers to come back to whoever takes over."""
        for browser in self._open:
            browser.end(RESTARTS)

    async def start(self) -> asyncio.Task[None]:
        """Follow the stream from a little before now, for the browsers that come from another gateway. Returns the task
        that goes on, once it has read what is there."""
        seconds, _ = await self._client.time()
        begins, ends = dict[str, str](), dict[str, Id]()
        for key, fanout in self._fanouts.items():
            begin = ((seconds - WARM_UP_S) * 1000, 0)
            if await self._client.xrevrange(key, written(begin), count=1):
                fanout.pass_over(begin)
            else:  # the stream begins later
                begin = (0, 0)
            begins[key] = written(begin)
            newest: Any = await self._client.xrevrange(key, count=1)
            if newest and parse(newest[0][0]) > begin:
                ends[key] = parse(newest[0][0])
        there = asyncio.Event()
        following = asyncio.create_task(self._follow(begins, ends, there), name="follow the stream")
        if ends:
            with contextlib.suppress(TimeoutError):  # the newest entry is none of the dispatcher's
                await asyncio.wait_for(there.wait(), START_S)
        return following

    async def _follow(self, begins: dict[str, str], ends: dict[str, Id], there: asyncio.Event) -> None:
        tail = AsyncTail(self._client, self._stream, shards=self._shards, after=begins, on_missed=self._missed)
        async for event in tail:
            fanout, place = self._fanouts[event.stream], parse(event.entry_id)
            if is_message(event):
                fanout.publish(Frame(place, event.aggregate_id, frame_of(event)))
            else:
                fanout.pass_over(place)
            if event.stream in ends and place >= ends[event.stream]:
                del ends[event.stream]
                if not ends:
                    there.set()

    def _missed(self, key: str) -> None:
        self._fanouts[key].restart(RELOAD)

    async def talk(self) -> None:
        """Tell every browser its place now and then: in a quiet room it would grow too old, and silence is no sign."""
        while True:
            await asyncio.sleep(TALK_S)
            for fanout in self._fanouts.values():
                fanout.say_all(f'{{"type":"place","id":"{written(fanout.place)}"}}')

    async def _key_of(self, room: str) -> str:
        """The key that has the room's events. Postgres hashes it, as for the dispatchers."""
        keys = tuple(self._fanouts)
        return keys[0 if len(keys) == 1 else await messages.slot_of(self.pool, room) * len(keys) // 256]

    async def serve(self, request: web.Request, room: str, after: str) -> web.WebSocketResponse:
        """One browser: what it lacks since `after`, then what comes, until one side ends it."""
        if after and not ID.fullmatch(after):
            raise web.HTTPBadRequest(text="after is not the id of an entry")
        key = await self._key_of(room)
        fanout = self._fanouts[key]
        socket = web.WebSocketResponse(heartbeat=2 * TALK_S, timeout=CLOSE_S, max_msg_size=1024, compress=False)
        await socket.prepare(request)
        browser = Browser(room, self._queue)
        self._open.add(browser)
        listening = asyncio.create_task(self._listen(socket, browser))
        sending = asyncio.create_task(self._send(socket, browser, key, after))
        try:
            code = await browser.ended
        finally:
            self._open.discard(browser)
            fanout.leave(browser)
            sending.cancel()
        await asyncio.wait([sending])
        if code == RESUME:
            log.info("a browser in a room was too slow: it is cut, and comes back")
        try:
            async with asyncio.timeout(CLOSE_S):
                await socket.close(code=code)
        except TimeoutError:  # it takes nothing any more, not even this
            if request.transport is not None:
                request.transport.abort()
        await asyncio.wait([listening])
        return socket

    async def _listen(self, socket: web.WebSocketResponse, browser: Browser) -> None:
        """Until the browser goes away; it has nothing to say here."""
        async for _ in socket:
            pass
        browser.end(WSCloseCode.OK)

    async def _send(self, socket: web.WebSocketResponse, browser: Browser, key: str, after: str) -> None:
        try:
            for text in await self._what_it_lacks(browser, key, after):
                await socket.send_str(text)
            while True:
                await socket.send_str(await browser.frames.get())
        except ConnectionError:
            browser.end(WSCloseCode.OK)
        except Exception as error:
            if is_outage(error):
                log.warning("a browser has to wait for the database: %s", type(error).__name__)
            else:
                log.exception("a browser is sent no more")
            browser.end(WSCloseCode.TRY_AGAIN_LATER)

    async def _what_it_lacks(self, browser: Browser, key: str, after: str) -> list[str]:
        """The first frames; the browser is in its room then."""
        fanout = self._fanouts[key]
        if after:
            place = parse(after)
            if fanout.covers(place):
                return resumed(fanout.resume(browser, place))
            if (found := await self._look_back(browser, key, place)) is not None:
                return resumed(found)
        place = fanout.enter(browser)  # before the database is read: what is committed later, comes as a frame
        listed = await messages.read(self.pool, browser.room)
        return [state(place, listed, "you were away for too long" if after else "")]

    async def _look_back(self, browser: Browser, key: str, place: Id) -> list[str] | None:
        """What is no more kept here is read from the stream; None when it is gone from there too, or very much."""
        fanout = self._fanouts[key]
        if not (0, 0) < place < fanout.place:
            return None
        missed: list[str] = []
        frames: list[str] = []
        tail = AsyncTail(self._client, key, after=written(place), on_missed=missed.append)
        async with self._turns:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_S), aclosing(aiter(tail)) as events:
                    count = 0
                    async for event in events:
                        count += 1
                        if missed or count > MOST:
                            return None
                        if is_message(event) and event.aggregate_id == browser.room:
                            frames.append(frame_of(event))
                        if fanout.covers(parse(event.entry_id)):
                            return frames + fanout.resume(browser, parse(event.entry_id))
        return None


def resumed(frames: list[str]) -> list[str]:
    """What comes first where a browser goes on where it was."""
    return ['{"type":"resumed"}', *frames]


def state(place: Id, listed: list[messages.Posted], why: str) -> str:
    """What comes first where it begins anew: the last messages of the room, and why it has to."""
    return json.dumps({"type": "state", "id": written(place), "why": why, "messages": [m.plain() for m in listed]})
