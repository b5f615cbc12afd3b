"""Several sinks speak with one voice: an outage of one is told once, and its end when the last one is over."""

from collections.abc import Sequence

from dispatcher.core.events import (
    AuditChanged,
    BackpressureBlind,
    BackpressureChanged,
    BreakerChanged,
    Observer,
    ShardsChanged,
    TelemetryEvent,
)

_OF_A_STATE = (AuditChanged, BackpressureBlind, BackpressureChanged, BreakerChanged)


class OneVoice:
    """What one of several sinks tells. Of a state that all of them have the worst is told, when it changes.

    `name`: of the shard, which is left out of the claims while it takes no entries, and that is told too; empty: it
    cannot be left out.
    """

    def __init__(self, name: str, tell: Observer) -> None:
        self._name = name
        self._tell = tell
        self._others: Sequence[OneVoice] = (self,)
        self._bad: dict[type, TelemetryEvent] = {}  # by class of event, while it is bad
        self._told: dict[type, TelemetryEvent] = {}  # shared by all of them

    @staticmethod
    def join(voices: "Sequence[OneVoice]") -> None:
        """Let these speak as one."""
        told: dict[type, TelemetryEvent] = {}
        for voice in voices:
            voice._others, voice._told = voices, told

    def observe(self, event: TelemetryEvent) -> None:
        """Hear what the sink tells."""
        kind = type(event)
        if kind not in _OF_A_STATE:
            self._tell(event)
            return
        if _is_bad(event):
            self._bad[kind] = event
        else:
            self._bad.pop(kind, None)
        worst = next((voice._bad[kind] for voice in self._others if kind in voice._bad), event)
        if self._told.get(kind) != worst:
            self._told[kind] = worst
            self._tell(worst)
        if kind is BreakerChanged and self._name:
            names = [voice._name for voice in self._others if kind in voice._bad]
            away = ShardsChanged(len(names), names[0] if names else None)
            if self._told.get(ShardsChanged, ShardsChanged(0, None)) != away:
                self._told[ShardsChanged] = away
                self._tell(away)


def _is_bad(event: TelemetryEvent) -> bool:
    match event:
        case BreakerChanged(state=state):
            return state != "closed"
        case AuditChanged(on=on):
            return not on
        case BackpressureChanged(on=on):
            return on
        case BackpressureBlind(reason=reason):
            return reason is not None
    return False
