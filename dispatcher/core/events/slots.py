"""Events of the slots that dispatchers share, where events are kept in order."""

from dataclasses import dataclass

from dispatcher.core.events.base import Fields, LogLine, TelemetryEvent, TroubleChange


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

    def line(self) -> LogLine:
        fields: Fields = {"owned": self.owned, "ranges": self.ranges, "gained": self.gained}
        fields |= {"released": self.released, "revoked": self.revoked}
        if self.revoked:
            text = "Slots were taken from this dispatcher: another one took it for dead or frozen"
            return LogLine("WARNING", "slots_lost", text, fields)
        return LogLine("INFO", "slots_changed", "This dispatcher owns other slots than before", fields)


@dataclass(frozen=True, slots=True)
class SlotsWithoutOwner(TelemetryEvent):
    """With an order: nobody has owned so many slots for a while, so their events wait; 0: all have an owner again."""

    slots: int

    def line(self) -> LogLine:
        if not self.slots:
            return LogLine("INFO", "slots_owned_again", "All slots have an owner", {})
        text = "Nobody owns some of the slots, so their events wait; the others go on"
        return LogLine("ERROR", "slots_without_owner", text, {"slots": self.slots})

    def trouble(self) -> TroubleChange:
        return TroubleChange("slots", f"{self.slots} of 256 slots have no owner", there=self.slots > 0)


@dataclass(frozen=True, slots=True)
class SlotsRevoked(TelemetryEvent):
    """With an order: we took so many slots from another dispatcher that is dead or frozen.

    Emitted before it is fenced. SlotsFreed follows when others may own them.
    """

    slots: int
    owner: str

    def line(self) -> LogLine:
        text = "The slots of a dead or frozen dispatcher were revoked; others own them once it is fenced"
        return LogLine("WARNING", "slots_revoked", text, {"slots": self.slots, "owner": self.owner})


@dataclass(frozen=True, slots=True)
class SlotsFreed(TelemetryEvent):
    """With an order: slots that were revoked are free, as nothing of them is in hand any more."""

    slots: int

    def line(self) -> LogLine:
        text = "Slots that were revoked may be owned again: nothing of them is in hand"
        return LogLine("INFO", "slots_freed", text, {"slots": self.slots})
