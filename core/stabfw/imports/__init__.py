"""Answers given elsewhere: logs of other harnesses to the one file that `compare` reads."""

from stabfw.imports.answers import (
    WHOLE,
    Answers,
    Given,
    Sides,
    against,
    asked_differently,
    read_answers,
    write_answers,
)
from stabfw.imports.logs import EXACT, FORMATS, read_log

__all__ = [
    "EXACT",
    "FORMATS",
    "WHOLE",
    "Answers",
    "Given",
    "Sides",
    "against",
    "asked_differently",
    "read_answers",
    "read_log",
    "write_answers",
]
