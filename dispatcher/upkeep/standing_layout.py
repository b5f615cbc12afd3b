"""The layout that stands in Postgres, as it was read last: where it is not ours, nothing is claimed for a stream.

Nor for handlers, where it has an order. It is read together with the pause. Each claim asks for it too, so no layout
that was changed a moment ago is missed: a claim by another one takes no row.
"""

from collections.abc import Awaitable, Callable

from dispatcher.core.events import LayoutChanged, Observer
from dispatcher.core.layout import Layout

Ask = Callable[[str, dict[str, object] | None], Awaitable[list[tuple[object, ...]] | None]]


class StandingLayout:
    """`ours`: as the settings have it. Written by the task that reads the pause.

    `used`: whether any event goes to a stream, or an order is kept. `handlers`: whether any event goes to handlers;
    without an order these go on under any layout that has none.
    """

    def __init__(
        self, ours: Layout, name: str, observe: Observer, *, used: bool = True, handlers: bool = False
    ) -> None:
        self.ours = ours
        self._name = name
        self._observe = observe
        self._used = used
        self._handlers = handlers
        self._ordered = False  # whether an order stands
        self._stands: str | None = None  # its fingerprint; None: not read yet
        self._told: str | None = None
        self._read = False
        self.read_soon: Callable[[], None] = lambda: None  # replaced by whoever reads it

    @property
    def our_fingerprint(self) -> str:
        """The fingerprint that claims have to find in Postgres."""
        return self.ours.fingerprint

    @property
    def differs(self) -> bool:
        """Whether nothing may be claimed for the stream: another layout stands, or none was read yet."""
        return self._stands != self.ours.fingerprint

    @property
    def bars_handlers(self) -> bool:
        """Whether nothing may be claimed for handlers: an order stands, and we keep none."""
        return self._handlers and self._ordered and self.ours.order == "none"

    async def heard(self, fingerprint: str, ask: Ask, *, ordered: bool) -> bool | None:
        """Hear which layout stands, and whether it has an order. Returns whether that is a change.

        `ask(statement, parameters)` asks Postgres. An outbox from which nothing was ever published takes the first
        layout that it meets. None: Postgres did not answer whether it takes ours, so which layout stands is as it was
        known.
        """
        if fingerprint == "" and self._used and self.ours.fingerprint:
            parameters = {**self.ours.columns(), "former": [], "by": self._name, "first": True}
            if (rows := await ask("layout_set", parameters)) is None:
                return None
            if rows == [(None,)]:
                fingerprint = self.ours.fingerprint
        was, self._stands, self._ordered = self._stands, fingerprint, ordered
        reason = None
        if (self._used and self.differs) or self.bars_handlers:
            reason = f"the layout in Postgres is not that of the settings ({self.ours}): see `dispatcher layout`"
        first, self._read = not self._read, True
        if first or reason != self._told:
            self._told = reason
            self._observe(LayoutChanged(reason, first))
        return was != fingerprint
