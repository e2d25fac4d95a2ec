"""Results as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stabfw.metrics.counts import Counts
from stabfw.metrics.gates import Verdict
from stabfw.metrics.stability import MetricValue
from stabfw.report.gates import HEAD, row, title
from stabfw.report.results import Comparison, GateResult, Metrics, Results, Role
from stabfw.report.wording import JUDGED, NOTHING, interval, percent, plain, points

_COLOURS = {
    Verdict.PASS: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_MEASURABLE: "magenta",
    Verdict.FAIL: "red",
}
_ORDER = {Role.STACK: 0, Role.EQUAL_BUDGET: 1, Role.LOSSLESS: 2}


def terminal() -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 116))


def comparison_table(results: Results) -> Table:
    """Stacks and controls × accuracy delta, divergence, correct loss and noise floor."""
    several_models = len({c.condition.model for c in results.comparisons}) > 1
    several_benchmarks = len({c.condition.benchmark for c in results.comparisons}) > 1
    several_seeds = len({c.condition.seed for c in results.comparisons}) > 1
    table = Table(
        title=escape(f"{results.name}: {results.estimand} comparison, 95 % intervals"),
        title_justify="left",
        header_style="bold",
        caption="acc Δ in points; the rest in % of the answers (correct loss: of the right ones)",
        caption_justify="left",
    )
    for several, name in ((several_models, "model"), (several_benchmarks, "benchmark")):
        if several:
            table.add_column(name, overflow="fold")
    table.add_column("stack", overflow="fold")
    table.add_column("perturbation", overflow="fold")
    heads = ["acc Δ", "answers changed", "correct loss", "noise floor", "beyond floor"]
    heads += ["self floor"] if any(c.self_floor for c in results.comparisons) else []
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    ordered = sorted(
        results.comparisons,
        key=lambda c: (c.condition.model, c.condition.benchmark, _ORDER[c.condition.role]),
    )
    before: tuple[str, ...] = ()
    for item in ordered:
        condition = item.condition
        group = (condition.model, condition.benchmark, condition.stack)
        if before and group != before:
            table.add_section()
        names = [condition.model] if several_models else []
        names += [condition.benchmark] if several_benchmarks else []
        seed = f" seed {condition.seed}" if several_seeds else ""
        is_stack = condition.role is Role.STACK
        note = "" if is_stack else f"\n({condition.role})"
        shown = condition.stack + note if group != before else ""
        table.add_row(
            *map(escape, names),
            escape(shown),
            escape(condition.perturbation + seed),
            *_numbers(item)[: len(heads)],
            style="" if is_stack else "dim",
        )
        before = group
    return table


def judged_table(comparisons: Sequence[Comparison]) -> Table:
    """What a judge says of free answers, by comparison."""
    table = Table(
        title="Free answers before a judge, in %", title_justify="left", header_style="bold"
    )
    table.add_column("comparison", overflow="fold")
    for name in JUDGED.values():
        table.add_column(name, justify="right")
    for item in comparisons:
        found = (item.metrics.get(name) for name in JUDGED)
        shown = (_with_interval(m, percent(m.value if m else None)) for m in found)
        table.add_row(escape(item.condition.label), *shown)
    return table


def metrics_table(title: str, metrics: Metrics, counts: Counts | None = None) -> Table:
    """Every metric of one comparison with its interval, and the table of counts if given."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("metric", "value", "95 % interval", "n", "method"):
        table.add_column(name, justify="right" if name in ("value", "n") else "left")
    for metric in metrics.values():
        # What was asked of some rows and has no answer is said; what had no rows is not.
        if metric.value is None and not metric.n:
            continue
        low, high = plain(metric.low), plain(metric.high)
        bounds = f"{low} … {high}" if metric.low is not None else ""
        table.add_row(metric.name, plain(metric.value), bounds, str(metric.n), metric.method)
    for name, count in asdict(counts).items() if counts else ():
        table.add_row(name, str(count), "", "", "count")
    return table


def gate_table(gate: GateResult) -> Table:
    """The verdict of one gate on each of its cells."""
    table = Table(
        title=escape(f"{title(gate)}, at {gate.confidence:.4g}: {gate.verdict}"),
        title_justify="left",
        header_style="bold",
        caption="one-sided bounds; missing and unreadable answers count as lost",
        caption_justify="left",
    )
    for name in HEAD:
        table.add_column(name, overflow="fold", no_wrap=name in ("verdict", "value", "bounds"))
    for cell in gate.cells:
        label, verdict, *told = map(escape, row(gate, cell))
        table.add_row(label, f"[{_COLOURS[cell.verdict]}]{verdict}[/]", *told)
    return table


def print_gates(console: Console, results: Results) -> None:
    """Print the verdicts, why they are no pass, and over all; nothing where there are no gates."""
    for gate in results.gates:
        console.print(gate_table(gate))
        for cell in gate.cells:
            if cell.verdict is not Verdict.PASS:
                line = f"{cell.condition.label}: {cell.reason}"
                console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if results.verdict is not None:
        colour = _COLOURS[results.verdict]
        console.print(f"verdict  [{colour}]{results.verdict}[/]", highlight=False)


def print_results(console: Console, results: Results) -> None:
    """Print notices, the table and what is missing."""
    for notice in results.notices:
        console.print(f"[yellow]note[/] {escape(notice)}", highlight=False)
    if results.comparisons:
        console.print(comparison_table(results))
    if judged := [c for c in results.comparisons if JUDGED.keys() & c.metrics.keys()]:
        console.print(judged_table(judged))
    for cell in results.cells:
        if cell.condition.role is Role.BASELINE and not results.comparisons:
            bounds = interval(cell.accuracy)
            console.print(
                escape(f"{cell.condition.label}: accuracy {percent(cell.accuracy.value)} {bounds}")
            )
    for failure in results.failures:
        console.print(
            f"[red]{failure.status}[/] {escape(f'{failure.condition.label}: {failure.reason}')}",
            highlight=False,
        )


def _numbers(item: Comparison) -> Sequence[str]:
    def rate(metrics: Metrics, name: str) -> str:
        metric = metrics.get(name)
        return _with_interval(metric, percent(metric.value if metric else None))

    delta = item.metrics.get("accuracy_delta")
    excess = item.metrics.get("excess_divergence")
    preserved = item.label_preserved
    return (
        _with_interval(delta, points(delta.value if delta else None)) if preserved else NOTHING,
        rate(item.metrics, "divergence_ratio"),
        rate(item.metrics, "correct_loss_rate") if preserved else NOTHING,
        rate(item.floor, "divergence_ratio"),
        _with_interval(excess, points(excess.value if excess else None)),
        rate(item.self_floor, "divergence_ratio"),
    )


def _with_interval(metric: MetricValue | None, value: str) -> str:
    bounds = interval(metric)
    return f"{value}\n{bounds}" if bounds else value
