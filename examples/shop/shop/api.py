# shop/api.py
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from dispatcher.client import Event
from dispatcher.client.sqlalchemy import add_event_async
from fastapi import Depends, FastAPI, HTTPException, Request

from shop.database import Sessions, make_engine, make_sessions
from shop.events import NewOrder
from shop.models import Invoice, Order


class PlacedOrder(NewOrder):
    id: int
    invoiced: bool = False


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine = make_engine()
    app.state.sessions = make_sessions(engine)
    yield
    await engine.dispose()


def sessions_of(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


app = FastAPI(title="Shop", lifespan=lifespan)
Database = Annotated[Sessions, Depends(sessions_of)]


@app.post("/orders", status_code=201)
async def place(new: NewOrder, sessions: Database) -> PlacedOrder:
    async with sessions.begin() as session:  # one transaction: the order and its event
        order = Order(customer=new.customer, total=new.total)
        session.add(order)
        await session.flush()  # now it has its id
        event = Event(event_type="order.placed", aggregate_type="order", aggregate_id=order.id, payload=new)
        await add_event_async(session, event)
    return PlacedOrder(id=order.id, customer=order.customer, total=order.total)


@app.get("/orders/{order_id}")
async def show(order_id: int, sessions: Database) -> PlacedOrder:
    async with sessions() as session:
        order = await session.get(Order, order_id)
        if order is None:
            raise HTTPException(404, "no such order")
        invoice = await session.get(Invoice, order_id)
    return PlacedOrder(id=order.id, customer=order.customer, total=order.total, invoiced=invoice is not None)
