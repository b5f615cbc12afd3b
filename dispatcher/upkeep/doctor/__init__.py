"""The doctor: asks both servers everything an operator would, judges the answers, and says what to do about each."""

from dispatcher.upkeep.doctor.examine import Wanted, examine

__all__ = ["Wanted", "examine"]
