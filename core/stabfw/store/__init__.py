"""Outcomes at rest: every answer, keyed by everything that can change it."""

from stabfw.store.keys import changed_fields, digest
from stabfw.store.outcomes import CellRow, Outcome, Store, Strength

__all__ = ["CellRow", "Outcome", "Store", "Strength", "changed_fields", "digest"]
