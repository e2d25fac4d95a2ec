"""`vqa-rad` and `path-vqa`: questions on radiographs, scans and microscope slides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stabfw.components import Benchmark, Outline
from stabfw.registry import hookimpl

from stabfw_benchmarks.hub import Split
from stabfw_benchmarks.hub.medical import MedicalBenchmark


class VqaRad(MedicalBenchmark):
    """VQA-RAD (Lau et al., 2018): asked by clinicians; its train split has the same pictures."""

    hub_id = "flaviagiammarino/vqa-rad"
    hub_splits: ClassVar[Mapping[str, Split]] = {"test": Split("test", 451)}
    columns = ("image", "question", "answer")
    typical = Outline(0, ((1024, 1024),), 40)


class PathVqa(MedicalBenchmark):
    """PathVQA (He et al., 2020, arXiv 2003.10286): made from the captions of pathology books."""

    hub_id = "flaviagiammarino/path-vqa"
    hub_splits: ClassVar[Mapping[str, Split]] = {
        "test": Split("test", 6719),
        # To calibrate on.
        "train": Split("train", 19_654),
    }
    columns = ("image", "question", "answer")
    typical = Outline(0, ((650, 500),), 40)


@hookimpl
def stabfw_register_benchmarks(register: Callable[[str, type[Benchmark[Any]]], None]) -> None:
    """Offer the benchmarks."""
    register("vqa-rad", VqaRad)
    register("path-vqa", PathVqa)
