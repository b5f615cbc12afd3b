"""The doctor: asks both servers everything an operator would, judges the answers, and says what to do about each."""

from dispatcher.ops.doctor.examine import Examination, examine

__all__ = ["Examination", "examine"]
