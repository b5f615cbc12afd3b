"""The model of order as a whole: all interleavings for two dispatchers, two slots and three events. Takes minutes."""

import pytest

from tests.model.order.protocol import Order


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", [Order(lanes=1), Order(moves=0)], ids=["slots that move", "two lanes"])
def test_no_event_is_out_of_order_doubled_or_lost(model: Order) -> None:
    assert model.check().trace == []
