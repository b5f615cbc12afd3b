"""What the parts of one dispatcher process share."""

from dataclasses import dataclass
from random import Random

from dispatcher.core.events import Observer
from dispatcher.core.owned_slots import OwnedSlots
from dispatcher.relay.policy import MakeSpans
from dispatcher.service.sessions import Sessions
from dispatcher.settings import Settings
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.upkeep.pause import PauseWatcher
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.standing_layout import StandingLayout


@dataclass(frozen=True, slots=True)
class Context:
    """`name`: what the registry and Redis know this process by. `stream_slots`, `handler_slots`: with an order only."""

    settings: Settings
    name: str
    sessions: Sessions
    doorbell: Doorbell
    registry: Registry
    pause: PauseWatcher
    layout: StandingLayout
    observe: Observer
    rng: Random
    stream_slots: OwnedSlots | None = None
    handler_slots: OwnedSlots | None = None
    make_spans: MakeSpans | None = None
