"""The page of an experiment: what changed, beyond what noise, where, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

from stabfw.metrics.stability import FlipCauses, MetricValue
from stabfw.report.forest import forest_svg, ordered
from stabfw.report.gates import HEAD, WORDS, row, title
from stabfw.report.layout import CELLS, FLIPS, slug
from stabfw.report.results import (
    CellResult,
    Comparison,
    GateResult,
    Metrics,
    Results,
    Role,
    Summary,
)
from stabfw.report.templates import render
from stabfw.report.wording import (
    ESTIMANDS,
    JUDGED,
    NOTHING,
    beyond_floor,
    foresight_rule,
    interval,
    is_control,
    number,
    p_value,
    percent,
    plain,
    points,
    value_of,
)

_LOGLIK = "answer_loglik_delta"


def report_page(results: Results) -> str:
    """Make the page that shows an experiment's results.

    It is self-contained but for its links to the pages of changed answers, which are relative
    to the directory of the run.

    Args:
        results: The results.

    Returns:
        The page as HTML.

    Raises:
        RunError: If jinja2 is not installed.
    """
    comparisons = ordered(results.comparisons)
    likelihood = any(_LOGLIK in c.metrics for c in comparisons)
    return render(
        "report.html.j2",
        script="report.js",
        results=results,
        summary=summary(results),
        gates=[_gate(gate) for gate in results.gates],
        gate_head=(*HEAD, "why"),
        stacks=[_line(c, likelihood) for c in comparisons if not is_control(c)],
        controls=[_line(c, likelihood) for c in comparisons if is_control(c)],
        forest=forest_svg(results) if comparisons else "",
        judged=_judged(comparisons),
        foresight=_foresight([c for c in comparisons if not is_control(c)]),
        foresight_rule="" if results.foresight is None else foresight_rule(results.foresight),
        aggregates=_aggregates(results, comparisons),
        slices=_slices([c for c in comparisons if not is_control(c)]),
        worst=[_worst_slice(c) for c in comparisons if c.worst is not None and not is_control(c)],
        summaries=[_Numbers.of_summary(s) for s in results.summaries],
        numbers_of=[_Numbers.of(c) for c in comparisons],
        cells=[_cell(cell) for cell in results.cells if cell.condition.role is not Role.FLOOR],
        repeats=sum(cell.condition.role is Role.FLOOR for cell in results.cells),
        likelihood=likelihood,
        self_floor=any(c.self_floor for c in comparisons),
        several_places=len({(c.condition.model, c.condition.benchmark) for c in comparisons}) > 1,
        estimand_means=ESTIMANDS.get(results.estimand, ""),
    )


def _gate(gate: GateResult) -> tuple[str, str, list[tuple[str, ...]]]:
    """A gate's name, its verdict, and the verdict on each of its cells."""
    name = f"{title(gate)}, at {gate.confidence:.4g}"
    return name, WORDS[gate.verdict], [(*row(gate, cell), cell.reason) for cell in gate.cells]


def summary(results: Results) -> list[str]:
    """Say in a few sentences what the results show; never that a stack is safe.

    Args:
        results: The results.

    Returns:
        Sentences, the most important first.
    """
    stacks = [c for c in results.comparisons if not is_control(c)]
    known = [c for c in stacks if value_of(c, "divergence_ratio") is not None]
    if not known:
        return ["No stack could be compared with its baseline, so nothing is known yet."]
    sentences = [] if results.verdict is None else [f"Gates: {WORDS[results.verdict]}."]
    sentences.append(_spread(known))
    losing = [c for c in known if c.label_preserved and value_of(c, "correct_loss_rate")]
    if losing:
        worst = max(losing, key=lambda c: value_of(c, "correct_loss_rate") or 0.0)
        sentences.append(_worst(worst))
    sentences += _against_noise(known)
    sentences += _against_itself(known)
    unreadable = sum(FlipCauses(**c.causes).fix_the_parser_first for c in known)
    if unreadable:
        sentences.append(
            f"In {unreadable} of {len(known)} comparisons more than a fifth of the changes are "
            "answers that could not be read: fix the parser first."
        )
    if results.failures:
        n = len(results.failures)
        sentences.append(f"{n} {'cell has' if n == 1 else 'cells have'} no outcome, see below.")
    return sentences


def _spread(known: Sequence[Comparison]) -> str:
    changed = [value_of(c, "divergence_ratio") or 0.0 for c in known]
    low, high = percent(min(changed)), percent(max(changed))
    span = f"{high} of the answers" if low == high else f"{low} to {high} of the answers"
    across = (
        f" in {known[0].condition.stack} on {known[0].condition.perturbation} inputs"
        if len(known) == 1
        else f" across {len(known)} comparisons"
    )
    sentence = f"{span} changed{across}"
    deltas = [
        abs(d)
        for c in known
        if c.label_preserved and (d := value_of(c, "accuracy_delta")) is not None
    ]
    if deltas:
        sentence += f", while accuracy moved by at most {number(max(deltas) * 100, 1)} points"
    return sentence + "."


def _worst(comparison: Comparison) -> str:
    metric = comparison.metrics["correct_loss_rate"]
    floor = comparison.floor.get("correct_loss_rate")
    noise = (
        f"; the baseline loses {percent(floor.value)} of its own from run to run"
        if floor is not None and floor.value is not None
        else ""
    )
    where = f"{comparison.condition.stack} on {comparison.condition.perturbation} inputs"
    loss = f"{percent(metric.value)} {interval(metric)}".rstrip()
    return f"The largest loss of right answers is {loss}, in {where}{noise}."


def _against_noise(known: Sequence[Comparison]) -> list[str]:
    judged = [beyond for c in known if (beyond := beyond_floor(c)) is not None]
    if not judged:
        return ["No noise floor was measured, so part of the change may be run-to-run noise."]
    if all(judged):
        return ["Every divergence lies beyond the noise floor."]
    clear = sum(judged)
    return [
        f"{clear} of {len(judged)} divergences lie beyond the noise floor; the others cannot be "
        "told apart from it with this many instances, which does not make them equal."
    ]


def _against_itself(known: Sequence[Comparison]) -> list[str]:
    """What the stacks make of other batches, where that was asked for."""
    own = [c for c in known if value_of(c, "divergence_ratio", c.self_floor) is not None]
    if not own:
        return []
    worst = max(own, key=lambda c: value_of(c, "divergence_ratio", c.self_floor) or 0.0)
    if not value_of(worst, "divergence_ratio", worst.self_floor):
        return ["No stack changed an answer of its own when only the batches differed."]
    metric = worst.self_floor["divergence_ratio"]
    base = value_of(worst, "divergence_ratio", worst.floor)
    return [
        f"When only the batches differ, {worst.condition.stack} changes {percent(metric.value)} "
        f"{interval(metric)} of its own answers on {worst.condition.perturbation} inputs, and the "
        f"baseline {percent(base)} of its own."
    ]


@dataclass(frozen=True)
class _Line:
    """A comparison as a row of a table; a cell of the table is its lines of text."""

    comparison: Comparison
    link: str
    columns: tuple[tuple[str, ...], ...]


def _line(comparison: Comparison, likelihood: bool) -> _Line:
    metrics = comparison.metrics
    unread = ("not read",)
    read = comparison.label_preserved
    changed, lost = "divergence_ratio", "correct_loss_rate"
    return _Line(
        comparison=comparison,
        link=f"{CELLS}/{slug(comparison.condition)}/{FLIPS}",
        columns=(
            _difference(metrics.get("accuracy_delta")) if read else unread,
            (
                *_share(metrics.get(changed)),
                *_noise(comparison, changed),
                *_causes(comparison),
            ),
            _difference(metrics.get("excess_divergence")),
            *([_nats(metrics, _LOGLIK)] if likelihood else []),
            (*_share(metrics.get(lost)), *_noise(comparison, lost)) if read else unread,
            (f"{comparison.counts.n:,}",),
        ),
    )


def _causes(comparison: Comparison) -> tuple[str, ...]:
    """How many answers changed for another reason than what they say."""
    told = [f"{n} {cause}" for cause, n in comparison.causes.items() if n and cause != "semantic"]
    return (f"of them {', '.join(told)}",) if told else ()


def _share(metric: MetricValue | None) -> tuple[str, ...]:
    return percent(None if metric is None else metric.value), interval(metric)


def _difference(metric: MetricValue | None) -> tuple[str, ...]:
    return points(None if metric is None else metric.value), interval(metric)


def _nats(metrics: Metrics, name: str) -> tuple[str, ...]:
    each, token = metrics.get(name), metrics.get(f"{name}_per_token")
    if each is None or token is None:
        return (NOTHING,)
    bounds = "" if each.low is None else f"[{number(each.low, 3)}, {number(each.high, 3)}]"
    return number(each.value, 3), bounds, f"{number(token.value, 3)} a token"


def _noise(comparison: Comparison, name: str) -> tuple[str, ...]:
    found = (("floor", comparison.floor), ("self floor", comparison.self_floor))
    return tuple(
        f"{what} {percent(metric.value)} {interval(metric)}"
        for what, floor in found
        if (metric := floor.get(name)) is not None and metric.value is not None
    )


@dataclass(frozen=True)
class _Grid:
    """How the stacks do by one name or another; the longer of the two goes downwards."""

    name: str
    place: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    @classmethod
    def of(
        cls,
        name: str,
        place: str,
        members: Sequence[Comparison],
        levels: tuple[str, ...],
        cell: Callable[[Comparison, str], tuple[str, ...]],
    ) -> _Grid:
        heads = tuple(f"{c.condition.stack}, {c.condition.perturbation}" for c in members)
        grid = [tuple(cell(c, level) for level in levels) for c in members]
        if len(levels) > len(members):
            across, down, grid = heads, levels, list(zip(*grid, strict=True))
        else:
            across, down = levels, heads
        return cls(name, place, across, tuple(zip(down, grid, strict=True)))


def _place(comparison: Comparison) -> str:
    return f"{comparison.condition.benchmark} · {comparison.condition.model}"


def _aggregates(results: Results, comparisons: Sequence[Comparison]) -> list[_Grid]:
    """Return one table per benchmark and model of the scores that the benchmark has of its own."""
    values = {id(c): results.aggregates(c) for c in comparisons if c.label_preserved}
    places: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if values.get(id(c)):
            places.setdefault(_place(c), []).append(c)

    def cell(comparison: Comparison, name: str) -> tuple[str, ...]:
        found = values[id(comparison)].get(name)
        if found is None:
            return (NOTHING,)
        base, variant = found
        return _fact(variant), f"baseline {_fact(base)}", f"change {variant - base:+.3g}"

    return [
        _Grid.of(
            place,
            "",
            members,
            tuple(dict.fromkeys(n for c in members for n in values[id(c)])),
            cell,
        )
        for place, members in places.items()
    ]


def _judged(comparisons: Sequence[Comparison]) -> list[_Grid]:
    """Return one table per benchmark and model of what a judge says of its free answers."""
    places: dict[str, list[Comparison]] = {}
    for c in comparisons:
        if JUDGED.keys() & c.metrics.keys():
            places.setdefault(_place(c), []).append(c)

    def cell(comparison: Comparison, name: str) -> tuple[str, ...]:
        metric = comparison.metrics.get(name)
        if metric is None:
            return (NOTHING,)
        return (*_share(metric), f"n {metric.n}", *_noise(comparison, name))

    grids = []
    for place, members in places.items():
        names = tuple(name for name in JUDGED if any(name in c.metrics for c in members))
        grid = _Grid.of(place, "", members, names, cell)
        columns = tuple(JUDGED.get(head, head) for head in grid.columns)
        rows = tuple((JUDGED.get(head, head), lines) for head, lines in grid.rows)
        grids.append(replace(grid, columns=columns, rows=rows))
    return grids


def _foresight(comparisons: Sequence[Comparison]) -> list[_Grid]:
    """Return one table per benchmark and model of the margin from which on answers hold."""
    columns = (
        "Threshold, nats",
        "Answers above it",
        "Harmed of these",
        "Harm caught below it",
        "Harmed above it when fitted",
    )
    places: dict[str, list[tuple[str, tuple[tuple[str, ...], ...]]]] = {}
    for c in comparisons:
        if (found := c.metrics.get("foresight_threshold")) is None:
            continue
        lines: tuple[tuple[str, ...], ...] = ((NOTHING, found.method),) + 4 * ((NOTHING,),)
        if found.value is not None:
            fitted = c.metrics["foresight_risk_fit"]
            shares = (c.metrics[f"foresight_{n}"] for n in ("coverage", "risk", "foreseen"))
            lines = (
                (number(found.value),),
                *((*_share(metric), f"n {metric.n:,}") for metric in shares),
                (percent(fitted.value), f"at most {percent(fitted.high)}", f"n {fitted.n:,}"),
            )
        name = f"{c.condition.stack}, {c.condition.perturbation}"
        places.setdefault(_place(c), []).append((name, lines))
    return [_Grid(place, "", columns, tuple(rows)) for place, rows in places.items()]


def _slices(comparisons: Sequence[Comparison]) -> list[_Grid]:
    """Return one table per slice, benchmark and model."""
    tables: dict[tuple[str, str], list[Comparison]] = {}
    for c in comparisons:
        for name in c.slices:
            tables.setdefault((name, _place(c)), []).append(c)
    return [
        _Grid.of(
            name,
            place,
            members,
            tuple(dict.fromkeys(level for c in members for level in c.slices[name])),
            partial(_slice_cell, name),
        )
        for (name, place), members in tables.items()
    ]


def _slice_cell(name: str, comparison: Comparison, level: str) -> tuple[str, ...]:
    metrics = comparison.slices[name].get(level)
    if metrics is None or "divergence_ratio" not in metrics:
        return ("too few",)
    changed, lost = metrics["divergence_ratio"], metrics.get("correct_loss_rate")
    lines = [percent(changed.value), f"{interval(changed)} n {changed.n}".strip()]
    lines += _q(metrics, changed.name)
    if lost is not None and comparison.label_preserved:
        lines += [f"lost {percent(lost.value)} {interval(lost)}", *_q(metrics, lost.name)]
    return tuple(lines)


def _q(metrics: Metrics, rate: str) -> list[str]:
    """How surely a level is unlike the rest; it is mentioned only where it might be."""
    q = metrics.get(f"{rate}_q")
    return [f"q {p_value(q.value)}"] if q and q.value is not None and q.value < 0.1 else []


def _worst_slice(comparison: Comparison) -> tuple[str, ...]:
    worst = comparison.worst
    assert worst is not None
    what = "lost" if worst.rate.name == "correct_loss_rate" else "changed"
    return (
        f"{comparison.condition.stack}, {comparison.condition.perturbation}",
        _place(comparison),
        f"{worst.slice} {worst.level}",
        f"{what} {percent(worst.rate.value)} {interval(worst.rate)}",
        f"{worst.rate.n:,}",
        p_value(worst.p_holm),
        str(worst.looked_at),
    )


class _Row(NamedTuple):
    name: str
    value: str
    bounds: str
    floors: tuple[tuple[str, str], ...]
    n: str
    method: str


@dataclass(frozen=True)
class _Numbers:
    """All metrics of something as a table: name, value, interval, each floor, n, method."""

    title: str
    note: str
    floors: tuple[str, ...]
    rows: tuple[_Row, ...]

    @classmethod
    def of(cls, comparison: Comparison) -> _Numbers:
        """Every number of a comparison, and the tables of counts."""
        floors = _floors(comparison)
        rows = [_number(m, floors) for m in comparison.metrics.values()]
        counts = {
            "Noise floor": comparison.floor_counts,
            "Self floor": comparison.self_floor_counts,
        }
        again = [asdict(counts[name]) for name in floors]
        for name, count in asdict(comparison.counts).items():
            repeated = tuple((str(floor[name]), "") for floor in again)
            rows.append(_Row(name, str(count), "", repeated, "", "count"))
        return cls(comparison.condition.label, "", tuple(floors), tuple(rows))

    @classmethod
    def of_summary(cls, summary: Summary) -> _Numbers:
        """The numbers over several comparisons."""
        floors = _floors(summary)
        rows = tuple(_number(m, floors) for m in summary.metrics.values())
        return cls(summary.condition.label, ", ".join(summary.members), tuple(floors), rows)


def _floors(of: Comparison | Summary) -> dict[str, Metrics]:
    """The floors that were measured, by the head of their column."""
    found = {"Noise floor": of.floor, "Self floor": of.self_floor}
    return {name: floor for name, floor in found.items() if floor}


def _number(metric: MetricValue, floors: Mapping[str, Metrics]) -> _Row:
    again = (floor.get(metric.name) for floor in floors.values())
    return _Row(
        metric.name,
        plain(metric.value),
        _bounds(metric),
        tuple(("", "") if m is None else (plain(m.value), _bounds(m)) for m in again),
        f"{metric.n:,}",
        metric.method,
    )


def _bounds(metric: MetricValue) -> str:
    return "" if metric.low is None else f"{plain(metric.low)} … {plain(metric.high)}"


@dataclass(frozen=True)
class _Cell:
    """A cell on its own: how accurate, and what it said of itself."""

    result: CellResult
    accuracy: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def _cell(cell: CellResult) -> _Cell:
    facts = [("unanswered", _fact(cell.unanswered))] if cell.unanswered else []
    facts += [(name, _fact(value)) for name, value in cell.aggregates.items()]
    facts += [(name, _fact(value)) for name, value in cell.facts.items()]
    for member, said in cell.report.items():
        facts += [(f"{member}: {name}", _fact(value)) for name, value in said.items()]
    return _Cell(cell, _share(cell.accuracy), tuple(facts))


def _fact(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, list | tuple):
            return ", ".join(_fact(item) for item in value)
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
