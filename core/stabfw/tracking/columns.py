"""Which number becomes which column in MLflow.

Its lists sort columns by name and cut names at about 14 characters, so the names are short,
related ones begin alike, and values are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from stabfw.metrics.stability import MetricValue
from stabfw.report.results import CellResult, Comparison, Results, Summary


@dataclass(frozen=True)
class Column:
    """A metric's column.

    Attributes:
        name: In MLflow; the interval is in `<name>_lo` and `<name>_hi`.
        metric: In stabfw.
        bounds: Whether the interval is logged too.
    """

    name: str
    metric: str
    bounds: bool = True


#: Of a comparison; any other metric keeps its own name and has no interval columns.
COLUMNS = (
    Column("acc_base", "accuracy_base", bounds=False),
    Column("acc", "accuracy_variant"),
    Column("acc_d", "accuracy_delta"),
    Column("amplify", "perturbation_amplification"),
    Column("churn", "wrong_churn", bounds=False),
    Column("div", "divergence_ratio"),
    Column("excess", "excess_divergence"),
    Column("foresee", "foresight_foreseen", bounds=False),
    Column("foresee_nats", "foresight_threshold", bounds=False),
    Column("foresee_risk", "foresight_risk"),
    Column("foresee_sure", "foresight_coverage", bounds=False),
    Column("flips", "flips", bounds=False),
    Column("group_acc", "group_accuracy_base", bounds=False),
    Column("group_acc_d", "group_accuracy_delta"),
    Column("group_loss", "group_correct_loss_rate"),
    Column("loss", "correct_loss_rate"),
    Column("neg", "negative_flip_rate", bounds=False),
    Column("neg_share", "negative_share", bounds=False),
    Column("p_mcn", "mcnemar_p", bounds=False),
    Column("pos", "positive_flip_rate", bounds=False),
)

#: Of the noise floor, and of the accelerated model against itself.
FLOOR_COLUMNS = (
    Column("floor", "divergence_ratio", bounds=False),
    Column("floor_hi", "divergence_ratio", bounds=False),
    Column("floor_loss", "correct_loss_rate", bounds=False),
)
SELF_FLOOR_COLUMNS = (
    Column("self_floor", "divergence_ratio", bounds=False),
    Column("self_floor_hi", "divergence_ratio", bounds=False),
    Column("self_loss", "correct_loss_rate", bounds=False),
)

#: Shown in the saved view of the list of runs, which puts them in this order itself.
VIEW = (
    *("acc", "acc_d", "div", "div_lo", "div_hi", "floor"),
    *("loss", "loss_lo", "loss_hi", "n", "neg", "pos"),
)

_SHORT = {column.metric: column for column in COLUMNS}


def comparison_columns(comparison: Comparison) -> dict[str, float]:
    """Return the columns of a comparison: metrics, floors and the table of counts."""
    found: dict[str, float] = {}
    for name, metric in comparison.metrics.items():
        column = _SHORT.get(name, Column(name, name, bounds=False))
        found |= _of(column, metric)
    found |= _floors(comparison)
    if comparison.label_preserved:
        found |= {name: float(number) for name, number in asdict(comparison.counts).items()}
    found["n"] = float(comparison.counts.n)
    found["n_changed"] = float(comparison.counts.n_changed)
    return found


def summary_columns(results: Results) -> dict[str, float]:
    """Return the columns of the means over benchmarks and of the corruption errors."""
    found: dict[str, float] = {}
    for summary in results.summaries:
        at = summary.condition
        where = [at.stack, at.circumstance, at.perturbation, at.benchmark, at.model]
        values = {
            _SHORT.get(name, Column(name, name)).name: metric.value
            for name, metric in summary.metrics.items()
        }
        for name, value in {**values, **_floors(summary)}.items():
            path = "/".join(part for part in [*where, str(at.seed or ""), name] if part)
            found |= _rounded(_allowed(path), value)
    return found


def cell_columns(cell: CellResult) -> dict[str, float]:
    """Return the columns of a cell on its own: accuracy, scores and every number that it told."""
    found = _of(Column("acc", "accuracy"), cell.accuracy)
    found |= {"n": float(cell.accuracy.n), "unanswered": float(cell.unanswered)}
    for name, value in cell.aggregates.items():
        found |= _rounded(_allowed(f"score.{name}"), value)
    for name, value in _numbers(cell):
        found |= _rounded(_allowed(name), value)
    return found


def _floors(of: Comparison | Summary) -> dict[str, float]:
    found: dict[str, float] = {}
    for columns, metrics in ((FLOOR_COLUMNS, of.floor), (SELF_FLOOR_COLUMNS, of.self_floor)):
        for column in columns:
            if (floor := metrics.get(column.metric)) is not None:
                value = floor.high if column.name.endswith("_hi") else floor.value
                found |= _rounded(column.name, value)
    return found


def _numbers(cell: CellResult) -> Iterator[tuple[str, float]]:
    said: list[tuple[str, object]] = list(cell.facts.items())
    for member, report in cell.report.items():
        said += [(f"{member}.{name}", value) for name, value in report.items()]
    for name, value in said:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _of(column: Column, metric: MetricValue) -> dict[str, float]:
    found = _rounded(column.name, metric.value)
    if column.bounds:
        found |= _rounded(f"{column.name}_lo", metric.low)
        found |= _rounded(f"{column.name}_hi", metric.high)
    return found


def _rounded(name: str, value: float | None) -> dict[str, float]:
    if value is None or value != value:
        return {}
    # Shares to a hundredth of a per cent; what is smaller or larger to four digits.
    return {name: round(value, 4) if 0.001 <= abs(value) <= 1 else float(f"{value:.4g}")}


def _allowed(name: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in name)
    return kept[:200]
