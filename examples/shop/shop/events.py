# shop/events.py
from decimal import Decimal

from pydantic import BaseModel, Field


class NewOrder(BaseModel):
    """What is posted, and what the event carries: the API and the worker share it."""

    customer: str = Field(min_length=1)
    total: Decimal = Field(gt=0)
