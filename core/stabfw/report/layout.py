"""Where things lie in the directory of a run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from stabfw.report.results import Condition

RESULTS = "results.json"
SPEC = "spec.yaml"
REPORT = "report.html"
FOREST = "forest.html"
FOREST_SVG = "forest.svg"
CELLS = "cells"
FLIPS = "flips.html"
INSTANCES = "instances.parquet"
CHANGES = "changes.jsonl"
PUBLISHED = "mlflow.json"
VERDICT = "verdict.json"
JUNIT = "junit.xml"
SUMMARY = "summary.md"


def slug(condition: Condition) -> str:
    """Name a cell for use in a path or a link: readable, unique, lower case ASCII.

    Example:
        >>> from stabfw.report.results import Role
        >>> slug(Condition("tiny", "hqq 4bit", "shapes", "clean", 0, Role.STACK))
        'hqq-4bit_clean_shapes_tiny_s0-a91547'
    """
    names = [condition.stack, condition.circumstance, condition.perturbation]
    names += [condition.benchmark, condition.model, f"s{condition.seed}"]
    names += [f"r{condition.repeat}"] if condition.repeat else []
    plain = [re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-.")[:40] for name in names if name]
    # Two names may differ only in what was replaced or cut.
    digest = hashlib.sha256(repr(condition).encode()).hexdigest()[:6]
    return "_".join(plain) + f"-{digest}"


def cell_directory(directory: Path, condition: Condition) -> Path:
    """Return where the pages and tables of a cell lie; it need not exist."""
    return directory / CELLS / slug(condition)
