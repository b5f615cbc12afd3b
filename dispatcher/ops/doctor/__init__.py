"""The checks of `dispatcher doctor`. Each asks a server, and answers with a Finding: level, what it found, remedy."""

from dispatcher.ops.doctor.examine import Examination, examine

__all__ = ["Examination", "examine"]
