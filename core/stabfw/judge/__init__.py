"""Free answers before a judge: what it is asked, its replies, and how far it agrees with itself."""

from stabfw.judge.asking import ask
from stabfw.judge.cases import Case, Opinion, comparing, opinion, scoring
from stabfw.judge.equivalence import VERSION, SameAnswer

__all__ = [
    "VERSION",
    "Case",
    "Opinion",
    "SameAnswer",
    "ask",
    "comparing",
    "opinion",
    "scoring",
]
