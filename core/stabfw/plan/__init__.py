"""Spec to sessions and cells: what has to be computed, under which keys."""

from stabfw.plan.cells import Cell, Fit, Member, Plan, Session, Unsupported, make_plan
from stabfw.plan.conditions import Condition, Role
from stabfw.plan.datasets import Dataset, Row
from stabfw.plan.estimate import EFFICIENCY, GPUS, Estimator
from stabfw.plan.explain import explain
from stabfw.plan.gates import Forecast, forecasts, gated, refuse_gates
from stabfw.plan.judges import Judge
from stabfw.plan.recorders import Recorder

__all__ = [
    "EFFICIENCY",
    "GPUS",
    "Cell",
    "Condition",
    "Dataset",
    "Estimator",
    "Fit",
    "Forecast",
    "Judge",
    "Member",
    "Plan",
    "Recorder",
    "Role",
    "Row",
    "Session",
    "Unsupported",
    "explain",
    "forecasts",
    "gated",
    "make_plan",
    "refuse_gates",
]
