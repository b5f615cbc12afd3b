"""Values reach their readers as they stand in the outbox; what Python cannot parse is dead at once, with the cause."""

import json
import sys
import uuid
from decimal import Decimal
from typing import Any

import pytest
from playwright.async_api import expect
from redis import asyncio as aio

from dispatcher.client.consumer import Received
from dispatcher.core.events import Settled
from dispatcher.handlers import Event
from tests.support.browser import OpenPage
from tests.support.command import HearCommand
from tests.support.consumers import consuming, dead, group, until_nothing_is_pending
from tests.support.dead_letters import bury
from tests.support.handlers import MakeModule
from tests.support.rows import STREAM, insert_events
from tests.support.running import StartDispatcher

EXACT = '{"total": 12345678901234567.89, "tiny": 0.000000000000000000000000000012345678901234567}'
DIGITS = "1" * 5000
EXPONENT = "1e131071"
NESTED = "[" * 3000 + "]" * 3000


@pytest.mark.promise("handlers")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_gets_the_text_and_exact_numbers_when_it_asks(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Any, asynchronous: bool
) -> None:
    got: list[Any] = []

    def handle(payload: Any, event: Event) -> None:
        got.extend([payload, event.text, event.json(parse_float=Decimal), event.json()])

    async def handle_async(payload: Any, event: Event) -> None:
        handle(payload, event)

    name = handlers_module({"t": handle_async if asynchronous else handle})
    async with dispatcher(handlers=name, unrouted="dead", redis_url="") as running:
        await insert_events(db, event_type="t", payload=EXACT)
        await running.tap.add_up(Settled, sent=1)
    payload, text, exact, again = got
    assert payload == again == json.loads(EXACT)
    assert json.loads(text, parse_float=Decimal) == exact == json.loads(EXACT, parse_float=Decimal)
    assert str(exact["total"]) == "12345678901234567.89"


@pytest.mark.parametrize("headers", ["[]", "5", '"x"', "null"])
async def test_headers_that_are_no_object_are_none_and_the_event_is_handled(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Any, redis: "aio.Redis", redis_url: str, headers: str
) -> None:
    """PHP writes [] for an empty array."""
    got: list[Any] = []
    name = handlers_module({"handled": lambda payload, event: got.append(event.headers)})
    async with dispatcher(handlers=name) as running:
        for event_type in ("handled", "published"):
            await insert_events(db, event_type=event_type, headers=headers)
        await running.tap.add_up(Settled, sent=2)
    async with consuming("asyncio", redis_url, group()) as running_consumer:
        got.append((await running_consumer.next()).headers)
        await until_nothing_is_pending(redis)
    assert got == [None, None]


@pytest.mark.promise("handlers")
@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        pytest.param({"payload": DIGITS}, "the payload holds a number of more than 4300 digits", id="digits"),
        pytest.param(
            {"payload": f'{{"n": [{EXPONENT}]}}'}, "the payload holds a number of more than 4300", id="exponent"
        ),
        pytest.param(
            {"headers": f"[{DIGITS}]"}, "the text of the headers holds a number of more than 4300 digits", id="headers"
        ),
        pytest.param(
            {"payload": "[" * 1500 + "]" * 1500},
            "the payload is nested too deeply",
            id="nested",
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python parses it"),
        ),
    ],
)
async def test_what_python_cannot_parse_is_dead_at_once_with_the_cause(
    dispatcher: StartDispatcher, handlers_module: MakeModule, db: Any, columns: dict[str, Any], cause: str
) -> None:
    def handle(payload: Any, event: Event) -> None:
        raise AssertionError("it was called")

    async with dispatcher(handlers=handlers_module({"t": handle}), unrouted="dead", redis_url="") as running:
        await insert_events(db, event_type="t", **columns)
        await running.tap.add_up(Settled, dead=1)
    [(attempts, error)] = await (
        await db.execute("SELECT attempts, last_error FROM messaging.message_outbox WHERE status = 'dead'")
    ).fetchall()
    assert (attempts, error.startswith(f"CannotParse: {cause}"), "1111" in error) == (1, True, False)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_a_consumer_puts_away_at_once_what_python_cannot_parse(
    kind: str, redis: "aio.Redis", redis_url: str
) -> None:
    got: list[Any] = []

    def behave(event: Received) -> None:
        got.append((isinstance(event.text, str), event.json(parse_float=Decimal)))

    for payload in (DIGITS, '{"total": 12345678901234567.89}', "{"):
        fields: dict[Any, Any] = dict.fromkeys(("event_type", "aggregate_type", "aggregate_id"), "a")
        fields |= {name: str(uuid.uuid4()) for name in ("event_id", "message_id")}
        await redis.xadd(STREAM, fields | {"occurred_at": "2025-06-01T12:00:00+00:00", "payload": payload})
    async with consuming(kind, redis_url, group(), behave) as running:
        came = [await running.next() for _ in range(3)]
        await until_nothing_is_pending(redis)
    assert [event.deliveries for event in came] == [1, 1, 1]
    assert got == [(True, {"total": Decimal("12345678901234567.89")})]
    assert [entry["dead_reason"] for entry in await dead(redis)] == [
        "CannotParse: the payload holds a number of more than 4300 digits, which is the most that Python parses",
        "CannotParse: the payload is no JSON at character 1",
    ]


async def test_a_dead_event_is_shown_with_its_numbers_as_they_stand(db: Any, heard: HearCommand) -> None:
    ids = []
    for payload in (EXACT, DIGITS, NESTED, '{", \\"payload\\" : ": [", \\"headers\\" : ", null]}'):
        ids += await insert_events(db, payload=payload, headers=f'{{"id": {DIGITS}}}')
    await bury(db, ids, "ERR")
    for row in ids:
        [(payload, headers)] = await (
            await db.execute("SELECT payload::text, headers::text FROM messaging.message_outbox WHERE id = %s", (row,))
        ).fetchall()
        code, out, err = await heard("dlq", "show", str(row), "--payload")
        assert (code, err) == (0, "")
        shown = [line.partition(":") for line in out.splitlines()[-2:]]
        assert [(name, text.strip()) for name, _, text in shown] == [("payload", payload), ("headers", headers)]
        code, out, _ = await heard("dlq", "show", str(row), "--payload", "--json")
        assert f'"payload" : {payload}, "headers" : {headers}}}' in out
    [only] = await insert_events(db)
    await bury(db, [only], "ERR")
    out = (await heard("dlq", "show", str(only), "--payload"))[1]
    assert [line.split(maxsplit=1) for line in out.splitlines()[-2:]] == [["payload:", '{"n": 1}'], ["headers:", "-"]]


@pytest.mark.promise("console")
async def test_the_console_shows_numbers_as_they_stand(
    dispatcher: StartDispatcher, db: Any, open_page: OpenPage
) -> None:
    [row] = await insert_events(db, payload='{"total": 12345678901234567.89, "text": "a \\\\ 1.50 \\" 2.50"}')
    await bury(db, [row], "ERR refused")
    async with (
        dispatcher(http_enabled=True, enabled=False) as running,
        open_page(f"{running.http_url}/#/event/{row}") as page,
    ):
        await page.get_by_role("button", name="Show the payload").click()
        shown = page.locator("#event-payload pre")
        await expect(shown).to_contain_text('"total": 12345678901234567.89')
        await expect(shown).to_contain_text('"text": "a \\\\ 1.50 \\" 2.50"')
