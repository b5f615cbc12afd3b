"""A run of the demo ends at a signal, whatever becomes of the error that the signal raises."""

import select
import signal

import pytest

from dispatcher.demo.cleanup import InterruptedRunError, ending_in_order

PATIENCE_S = 30.0


class RaisesAtItsEnd:
    """A signal comes while this is collected: Python drops what its handler raises."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def goes_on() -> None:
    """A run that nothing but a signal ends."""
    with ending_in_order():
        RaisesAtItsEnd()
        select.select([], [], [], PATIENCE_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_error_is_dropped_ends_the_run_all_the_same() -> None:
    with pytest.raises(InterruptedRunError, match="ended by SIGTERM"):
        goes_on()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
