"""Several sinks speak with one voice."""

from dispatcher.core.events import BreakerChanged, ShardsChanged, TelemetryEvent
from dispatcher.service.one_voice import OneVoice

OPEN, CLOSED = BreakerChanged("open", "away"), BreakerChanged("closed", None)


def joined(*names: str) -> tuple[list[TelemetryEvent], list[OneVoice]]:
    told: list[TelemetryEvent] = []
    voices = [OneVoice(name, told.append) for name in names]
    OneVoice.join(voices)
    return told, voices


def test_an_outage_ends_with_the_last_shard_that_is_back() -> None:
    told, (one, two) = joined("orders:{0}", "orders:{1}")
    for voice, event in ((one, OPEN), (two, OPEN), (one, CLOSED), (two, CLOSED)):
        voice.observe(event)
    assert told == [
        OPEN,
        ShardsChanged(1, "orders:{0}"),
        ShardsChanged(2, "orders:{0}"),
        ShardsChanged(1, "orders:{1}"),
        CLOSED,
        ShardsChanged(0, None),
    ]


def test_streams_that_cannot_be_left_out_are_no_shards() -> None:
    told, (one, _) = joined("", "")
    one.observe(OPEN)
    one.observe(CLOSED)
    assert told == [OPEN, CLOSED]
