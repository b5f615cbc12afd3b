"""Events of the slots that dispatchers share, where events are kept in order."""

from dataclasses import dataclass

from dispatcher.core.events.base import TelemetryEvent


@dataclass(frozen=True, slots=True)
class SlotsChanged(TelemetryEvent):
    """With an order: this dispatcher owns other slots than before. `owned`: of 256; `ranges`: in so many ranges.

    `revoked`: another dispatcher took so many from us, because we looked dead or frozen.
    """

    owned: int
    ranges: int
    gained: int
    released: int
    revoked: int


@dataclass(frozen=True, slots=True)
class SlotsWithoutOwner(TelemetryEvent):
    """With an order: nobody has owned so many slots for a while, so their events wait; 0: all have an owner again."""

    slots: int


@dataclass(frozen=True, slots=True)
class SlotsRevoked(TelemetryEvent):
    """With an order: we took so many slots from another dispatcher that is dead or frozen.

    Emitted before it is fenced. SlotsFreed follows when others may own them.
    """

    slots: int
    owner: str


@dataclass(frozen=True, slots=True)
class SlotsFreed(TelemetryEvent):
    """With an order: slots that were revoked are free, as nothing of them is in hand any more."""

    slots: int
