"""What a user asks for: reading, checking and describing experiment specs."""

from stabfw.spec.compose import (
    SelectedAccelerator,
    SelectedBenchmark,
    SelectedMetric,
    SelectedModel,
    SelectedPerturbation,
    Selection,
    components,
    label,
)
from stabfw.spec.load import load_spec, parse_spec, to_yaml
from stabfw.spec.models import (
    BASELINE,
    CLEAN,
    Calibration,
    Controls,
    Execution,
    ExperimentSpec,
    Gate,
    Generation,
    Judge,
    NoiseFloor,
    Published,
    Tracking,
)

__all__ = [
    "BASELINE",
    "CLEAN",
    "Calibration",
    "Controls",
    "Execution",
    "ExperimentSpec",
    "Gate",
    "Generation",
    "Judge",
    "NoiseFloor",
    "Published",
    "SelectedAccelerator",
    "SelectedBenchmark",
    "SelectedMetric",
    "SelectedModel",
    "SelectedPerturbation",
    "Selection",
    "Tracking",
    "components",
    "label",
    "load_spec",
    "parse_spec",
    "to_yaml",
]
