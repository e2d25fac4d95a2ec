"""The forest plot: every stack under every perturbation, with intervals, as one SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil

from stabfw.metrics.stability import MetricValue
from stabfw.plan.conditions import CLEAN
from stabfw.report.results import Comparison, Results
from stabfw.report.wording import interval, is_control, percent, value_of

_LABELS = 384
_PANEL = 236
_NUMBERS = 124
_ROW = 22
_HEAD = 46
_WIDTH = _LABELS + 2 * (_PANEL + _NUMBERS)
_PANELS = (
    ("divergence_ratio", "Answers changed"),
    ("correct_loss_rate", "Right answers lost"),
)
_TICK_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_MOST_TICKS = 6

_STYLE = """
.sf-forest { --ink: #1d2430; --soft: #667085; --line: #e4e7ec; --band: #98a2b333;
  --mark: #2f5fd0; --aside: #8a94a6; --delta: #c2620a;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink); }
@media screen and (prefers-color-scheme: dark) {
  .sf-forest { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c333f; --band: #98a2b338;
    --mark: #7ea6ff; --aside: #7d8799; --delta: #f0a04b; } }
.sf-forest text { fill: var(--ink); }
.sf-forest .soft { fill: var(--soft); }
.sf-forest .name { font-weight: 600; }
.sf-forest .value { font-size: 11px; font-variant-numeric: tabular-nums; }
.sf-forest .line { stroke: var(--line); }
.sf-forest .floor { fill: var(--band); }
.sf-forest .floor-value { stroke: var(--aside); stroke-dasharray: 2 2; }
.sf-forest .stack { fill: var(--mark); stroke: var(--mark); }
.sf-forest .control { fill: var(--aside); stroke: var(--aside); }
.sf-forest .delta { fill: none; stroke: var(--delta); stroke-width: 1.5; }
.sf-forest .whisker { stroke-width: 2; }
"""


def forest_svg(results: Results) -> str:
    """Draw divergence and loss of right answers with intervals for each comparison.

    The grey band is the noise floor, the diamond the size of the accuracy change: what an
    accuracy table would show. Controls are drawn in grey. The picture needs nothing from
    outside, so it can be a file, part of a page or an image in a README.

    Args:
        results: The results.

    Returns:
        An SVG document.
    """
    comparisons = ordered(results.comparisons)
    groups = _groups(comparisons)
    several = len(groups) > 1
    axis = _axis(comparisons)
    parts: list[str] = []
    y = _HEAD
    for place, members in groups:
        if several:
            y += _ROW
            parts.append(_text(0, y - 7, place, "soft"))
        before = ""
        for comparison in members:
            name = comparison.condition.stack
            parts += _row(comparison, y, axis, show_name=name != before)
            before = name
            y += _ROW
    bottom = y + 4
    height = bottom + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sf-forest" role="img" '
            f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
            f'style="max-width:100%;height:auto" aria-label="{_spoken(results)}">',
            f"<style>{_STYLE}</style>",
            *_frame(axis, bottom),
            *parts,
            *_legend(bottom + 32, comparisons),
            "</svg>",
        ]
    )


def forest_page(results: Results) -> str:
    """Return the forest plot as a page of its own."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(results.name)}: forest plot</title>"
        "<style>:root{color-scheme:light dark}body{margin:24px;background:Canvas}</style>"
        f"{forest_svg(results)}</html>\n"
    )


def ordered(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Put stacks before controls and clean before perturbed; else keep the given order."""
    stacks = list(dict.fromkeys(c.condition.stack for c in comparisons))
    return sorted(
        comparisons,
        key=lambda c: (
            c.condition.model,
            c.condition.benchmark,
            is_control(c),
            stacks.index(c.condition.stack),
            c.condition.perturbation != CLEAN,
        ),
    )


def _groups(comparisons: Sequence[Comparison]) -> list[tuple[str, list[Comparison]]]:
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        place = f"{comparison.condition.benchmark} · {comparison.condition.model}"
        groups.setdefault(place, []).append(comparison)
    return list(groups.items())


def _axis(comparisons: Sequence[Comparison]) -> list[float]:
    """Return ticks from 0 to beyond everything that is drawn."""
    drawn = [abs(value_of(c, "accuracy_delta") or 0.0) for c in comparisons]
    for c in comparisons:
        for name, _ in _PANELS:
            drawn += [
                end
                for metric in (c.metrics.get(name), c.floor.get(name))
                if metric is not None
                for end in (metric.value, metric.high)
                if end is not None
            ]
    top = min(1.0, max([0.02, *drawn]))
    step = next((s for s in _TICK_STEPS if top / s <= _MOST_TICKS), _TICK_STEPS[-1])
    return [step * i for i in range(ceil(round(top / step, 9)) + 1)]


def _left(panel: int) -> int:
    return _LABELS + panel * (_PANEL + _NUMBERS)


def _x(panel: int, value: float, axis: Sequence[float]) -> float:
    return round(_left(panel) + _PANEL * min(max(value, 0.0), axis[-1]) / axis[-1], 1)


def _frame(axis: Sequence[float], bottom: int) -> Iterator[str]:
    for panel, (_, title) in enumerate(_PANELS):
        yield _text(_left(panel), 16, title, "name")
        for tick in axis:
            x = _x(panel, tick, axis)
            yield f'<line class="line" x1="{x}" x2="{x}" y1="{_HEAD - 8}" y2="{bottom}"/>'
            label = f"{tick * 100:g}\N{NARROW NO-BREAK SPACE}%"
            yield _text(x, _HEAD - 14, label, "soft value", anchor="middle")


def _row(
    comparison: Comparison, y: int, axis: Sequence[float], *, show_name: bool
) -> Iterator[str]:
    condition = comparison.condition
    middle = y + _ROW // 2
    full = f"{condition.label}: {condition.role}"
    yield f"<g><title>{escape(full)}</title>"
    if show_name:
        yield _text(0, middle + 4, _short(condition.stack, 30), "name")
    under = condition.perturbation + (f" · seed {condition.seed}" if condition.seed else "")
    yield _text(_LABELS - 14, middle + 4, _short(under, 26), "soft", anchor="end")
    for panel, (name, _) in enumerate(_PANELS):
        if panel == 1 and not comparison.label_preserved:
            yield _text(_left(1), middle + 4, "not read: gold answers may change", "soft value")
            continue
        yield from _floor(comparison.floor.get(name), panel, y, axis)
        if panel == 0 and comparison.label_preserved:
            yield from _delta(value_of(comparison, "accuracy_delta"), middle, axis)
        yield from _mark(comparison, name, panel, middle, axis)
    yield "</g>"


def _floor(metric: MetricValue | None, panel: int, y: int, axis: Sequence[float]) -> Iterator[str]:
    if metric is None or metric.value is None:
        return
    start, value = _x(panel, 0, axis), _x(panel, metric.value, axis)
    end = _x(panel, metric.value if metric.high is None else metric.high, axis)
    width = round(end - start, 1)
    yield f'<rect class="floor" x="{start}" y="{y}" width="{width}" height="{_ROW}"/>'
    yield f'<line class="floor-value" x1="{value}" x2="{value}" y1="{y}" y2="{y + _ROW}"/>'


def _delta(value: float | None, middle: int, axis: Sequence[float]) -> Iterator[str]:
    if value is not None:
        x = _x(0, abs(value), axis)
        yield f'<path class="delta" d="M{x} {middle - 5}l5 5l-5 5l-5-5z"/>'


def _mark(
    comparison: Comparison, name: str, panel: int, middle: int, axis: Sequence[float]
) -> Iterator[str]:
    metric = comparison.metrics.get(name)
    if metric is None or metric.value is None:
        yield _text(_left(panel), middle + 4, "undefined", "soft value")
        return
    kind = "control" if is_control(comparison) else "stack"
    if metric.low is not None and metric.high is not None:
        low, high = _x(panel, metric.low, axis), _x(panel, metric.high, axis)
        yield f'<line class="{kind} whisker" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
    x = _x(panel, metric.value, axis)
    yield f'<circle class="{kind}" cx="{x}" cy="{middle}" r="4"/>'
    numbers = f"{percent(metric.value)} {interval(metric)}"
    yield _text(_left(panel) + _PANEL + 10, middle + 4, numbers, "value")


def _legend(y: int, comparisons: Sequence[Comparison]) -> Iterator[str]:
    x = _LABELS
    yield f'<circle class="stack" cx="{x + 4}" cy="{y - 4}" r="4"/>'
    yield _text(x + 14, y, "stack, 95 % interval", "soft value")
    x += 144
    if any(is_control(c) for c in comparisons):
        yield f'<circle class="control" cx="{x + 4}" cy="{y - 4}" r="4"/>'
        yield _text(x + 14, y, "control", "soft value")
        x += 76
    if any(c.floor for c in comparisons):
        yield f'<rect class="floor" x="{x}" y="{y - 11}" width="16" height="14"/>'
        yield _text(x + 22, y, "noise floor", "soft value")
        x += 100
    yield f'<path class="delta" d="M{x + 5} {y - 9}l5 5l-5 5l-5-5z"/>'
    yield _text(x + 16, y, "size of the accuracy change", "soft value")


def _text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _spoken(results: Results) -> str:
    """Return the plot in words, for those who cannot see it."""
    rows = [
        f"{c.condition.stack}, {c.condition.perturbation}: "
        f"{percent(value_of(c, 'divergence_ratio'))} changed, "
        f"{percent(value_of(c, 'correct_loss_rate'))} lost"
        for c in ordered(results.comparisons)
    ]
    return escape("Forest plot. " + "; ".join(rows), quote=True)
