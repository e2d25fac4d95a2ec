"""An experiment that never ran: drawn pictures, invented answers, real statistics."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from stabfw import metrics
from stabfw.report.across import THRESHOLDS
from stabfw.report.flips import flips_page
from stabfw.report.forest import forest_page, forest_svg
from stabfw.report.instances import AnswerGiven, InstanceRow, changes, instances_parquet
from stabfw.report.layout import FLIPS, INSTANCES, cell_directory
from stabfw.report.page import report_page
from stabfw.report.results import CellResult, Comparison, Condition, Failure, Results, Role
from stabfw.report.serialise import save_results
from stabfw.report.thumbnails import thumbnail

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> \"'&?"
COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("square", "circle", "triangle")
NOTICE = "The baseline is only 9 points better than without the image."


@dataclass(frozen=True)
class Side:
    answer: list[str | None]
    text: list[str]
    status: list[str]
    correct: list[bool]
    margin: list[float]


@dataclass(frozen=True)
class Drawn:
    """The results, and the instances of each comparison."""

    results: Results
    rows: dict[Condition, list[InstanceRow]]


def picture(i: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    image = Image.new("RGB", (64, 64), (238, 238, 232))
    pen = ImageDraw.Draw(image)
    for k in range(1 + i % 3):
        x, y, r = *rng.integers(10, 50, 2), 6 + int(rng.integers(6))
        box = (x - r, y - r, x + r, y + r)
        colour, shape = COLOURS[(i + k) % 4], SHAPES[(i // 4 + k) % 3]
        if shape == "square":
            pen.rectangle(box, fill=colour)
        elif shape == "circle":
            pen.ellipse(box, fill=colour)
        else:
            pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    return np.asarray(image)


def question(i: int) -> tuple[str, str, str, tuple[str, ...]]:
    """Return (question as asked, gold, kind of question, possible answers)."""
    if i == 3:
        return HOSTILE, "red", "colour", COLOURS
    if i % 3 == 0:
        gold = COLOURS[i % 4]
        options = "\n".join(f"{'ABCD'[j]}. {c}" for j, c in enumerate(COLOURS))
        return f"Which colour is the biggest shape?\n{options}", gold, "colour", COLOURS
    if i % 3 == 1:
        gold = SHAPES[i // 4 % 3]
        return f"What shape is {COLOURS[i % 4]}?", gold, "shape", SHAPES
    return "How many shapes are there?", str(1 + i % 3), "count", ("1", "2", "3")


def answers(n: int, seed: int, flip: float, bad: float = 0.0, like: Side | None = None) -> Side:
    """Answer n questions; with `like`, as that side did but for a share that flips."""
    rng = np.random.default_rng(seed)
    found = Side([], [], [], [], [])
    for i in range(n):
        _, gold, _, options = question(i)
        if like is None:
            value = gold if rng.random() < 0.6 else str(rng.choice(options))
            margin = float(rng.gamma(1.6, 1.5 if value == gold else 0.4))
        else:
            unsure = flip * 2.2 * np.exp(-like.margin[i] / 2)
            value = str(like.answer[i])
            if rng.random() < unsure:
                value = gold if not like.correct[i] and i % 2 else str(rng.choice(options))
            margin = abs(like.margin[i] + float(rng.normal(0, 0.6)))
        status = "invalid" if rng.random() < bad else "ok"
        found.answer.append(value if status == "ok" else None)
        found.text.append(
            value if i % 5 else f"The answer is {value}." if status == "ok" else "I am not sure"
        )
        found.status.append(status)
        found.correct.append(status == "ok" and value == gold)
        found.margin.append(margin)
    return found


def outcomes(side: Side) -> metrics.Outcomes:
    n = len(side.answer)
    return metrics.Outcomes.from_columns(
        [f"shapes/{i:04d}" for i in range(n)],
        answer=side.answer,
        correct=side.correct,
        text=side.text,
        status=side.status,
        margin=side.margin,
        cluster=[f"image-{i // 2}" for i in range(n)],
        slices={"question": [question(i)[2] for i in range(n)]},
    )


def given(side: Side, i: int) -> AnswerGiven:
    return AnswerGiven(
        text=side.text[i],
        answer=side.answer[i] or "",
        status=side.status[i],
        correct=side.correct[i],
        margin=side.margin[i],
        token_ids=tuple(side.text[i].encode()),
        visual_tokens=(64, 64, 32, 32),
        token_depths=(2, 4) * 32,
        recorded={"lengths.letters": (float(i),), "lengths.first two": (1.0, 2.5)},
        options={"a": -0.1, "b": -2.4},
        options_logprob=-0.01,
        prefill_ms=2.5,
        decode_ms=1.0,
    )


def key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def draw(
    n: int = 60,
    stacks: tuple[tuple[str, float], ...] = (("hqq-4bit", 0.25), ("fastv-50", 0.12)),
    perturbations: tuple[str, ...] = ("clean",),
    *,
    control: bool = False,
    failure: bool = False,
    images: bool = True,
) -> Drawn:
    """Invent an experiment: baseline, stacks and, if asked for, a control and a failure."""
    cells, comparisons, rows = [], [], {}
    thumbnails = [thumbnail(picture(i // 2)) if images else b"" for i in range(n)]
    every = [(name, flip, Role.STACK) for name, flip in stacks]
    if control:
        every.append(("random-drop-50", 0.35, Role.EQUAL_BUDGET))
        every.append(("sdpa", 0.0, Role.LOSSLESS))
    for p, perturbation in enumerate(perturbations):
        at = Condition("tiny-llava", "baseline", "shapes", perturbation, 0, Role.BASELINE)
        base = answers(n, 7 + p, 0)
        base_table = outcomes(base)
        cells.append(cell(at, base_table))
        repeats = []
        for r in (1, 2, 3):
            again = outcomes(answers(n, 100 * p + r, 0.01, like=base))
            repeats.append(metrics.pair(base_table, again))
            floor_at = Condition(
                "tiny-llava", "baseline", "shapes", perturbation, 0, Role.FLOOR, repeat=r
            )
            cells.append(cell(floor_at, again))
        floor = metrics.noise_floor(repeats, resamples=50)
        for s, (stack, flip, role) in enumerate(every):
            where = Condition("tiny-llava", stack, "shapes", perturbation, 0, role)
            seed = 1000 * p + 10 * s
            side = answers(n, seed, flip * (1 + p / 2), bad=flip / 12, like=base)
            table = outcomes(side)
            pairs = metrics.pair(base_table, table)
            values = metrics.stability_metrics(pairs, resamples=50)
            values |= metrics.excess_metrics(pairs, repeats)
            causes = metrics.flip_causes(pairs)
            comparison = Comparison(
                key=key(where),
                base_key=key(at),
                condition=where,
                metrics=values,
                floor=floor,
                counts=metrics.Counts.of(pairs),
                slices={"question": metrics.by_slice(pairs, "question", min_n=5, resamples=50)},
                floor_counts=sum((metrics.Counts.of(r) for r in repeats), metrics.Counts()),
                worst=metrics.worst_slice(pairs, min_n=5),
                causes=asdict(causes),
            )
            cells.append(cell(where, table))
            comparisons.append(comparison)
            place = {name: row for row, name in enumerate(pairs.instance_id)}
            rows[where] = [
                InstanceRow(
                    instance_id=f"shapes/{i:04d}",
                    cluster=f"image-{i // 2}",
                    slices={"question": question(i)[2]},
                    question=question(i)[0],
                    gold=question(i)[1],
                    base=given(base, i),
                    variant=given(side, i),
                    kind=str(pairs.kind[place[f"shapes/{i:04d}"]]),
                    cause=str(pairs.cause[place[f"shapes/{i:04d}"]]).replace("none", ""),
                    thumbnail=thumbnails[i],
                )
                for i in range(n)
            ]
    failures = (
        Failure(
            Condition("tiny-llava", "int8", "shapes", "clean", 0, Role.STACK),
            "unsupported",
            "int8 needs a CUDA device; this machine has none.",
        ),
    )
    results = Results(
        name="tiny-llava-stability",
        spec_hash=key("spec", n, stacks, perturbations),
        estimand="matched",
        cells=tuple(cells),
        comparisons=tuple(comparisons),
        failures=failures if failure else (),
        notices=(NOTICE,),
        thresholds=THRESHOLDS,
    )
    return Drawn(results, rows)


def cell(condition: Condition, table: metrics.Outcomes) -> CellResult:
    accuracy = metrics.stability_metrics(metrics.pair(table, table), resamples=10)["accuracy_base"]
    return CellResult(
        key=key(condition),
        condition=condition,
        accuracy=accuracy,
        report={condition.stack: {"bytes": 1_250_000}} if condition.role is Role.STACK else {},
        facts={"instances_per_second": 212.5, "torch": "2.13.0", "visual_tokens": [64, 32]},
    )


def write_run(drawn: Drawn, directory: Path) -> None:
    """Write the directory of a run as `stabfw run` leaves it."""
    results = drawn.results
    save_results(results, directory / "results.json")
    (directory / "spec.yaml").write_text("stabfw: 1\nname: tiny-llava-stability\n")
    (directory / "report.html").write_text(report_page(results))
    (directory / "forest.html").write_text(forest_page(results))
    (directory / "forest.svg").write_text(forest_svg(results))
    for comparison in results.comparisons:
        folder = cell_directory(directory, comparison.condition)
        rows = drawn.rows[comparison.condition]
        instances_parquet(rows, folder / INSTANCES)
        changed = changes(rows)
        (folder / FLIPS).write_text(
            flips_page("", comparison, changed, results.notices, results.estimand)
        )
