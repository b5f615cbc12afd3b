"""Layouts of streams, as tests need them."""

from dispatcher.core.layout import Layout
from dispatcher.upkeep.standing_layout import StandingLayout
from tests.support.rows import STREAM


def standing(layout: Layout | None = None) -> StandingLayout:
    """A layout that was found in Postgres and is ours; the plain one of STREAM by default."""
    ours = layout or Layout(STREAM)
    found = StandingLayout(ours, "test", lambda event: None)
    found._stands = ours.fingerprint
    return found
