"""A small set of questions that flip easily, exported as a regression test for `custom`."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from stabfw.components import AnswerKind, Benchmark, Image, Instance
from stabfw.errors import DataError, RunError
from stabfw.execute.inputs import Inputs
from stabfw.metrics import Pairs
from stabfw.plan import Condition, Dataset

#: Says that a directory is such an export, what was chosen for which reason, and pins its files.
MANIFEST = "canary.json"
FORM = 1
README = "README.md"
IMAGES = "images"
FLIPPED, NEAR_TIE, CONTROL = "flipped", "near-tie", "control"
GROUPS = (FLIPPED, NEAR_TIE, CONTROL)
_COLUMNS = ("question", "image", "answer", "choices", "hint", "id", "cluster")


@dataclass(frozen=True)
class Wanted:
    """How many questions of each group to export."""

    flipped: int = 50
    near_ties: int = 25
    controls: int = 25


@dataclass
class Seen:
    """What became of one question, over all models and stacks.

    Attributes:
        id: Identity of the question.
        lost: In how many comparisons a right answer was lost.
        flips: In how many the answer changed.
        margin: The smallest lead of a baseline's first token over the next, in nats.
        answers: Answers by the label of the stack's cell: the baseline's, then the stack's.
    """

    id: str
    lost: int = 0
    flips: int = 0
    margin: float = float("inf")
    answers: dict[str, tuple[str, str]] = field(default_factory=dict)


def choose(pairs: Mapping[Condition, Pairs], wanted: Wanted) -> dict[str, tuple[str, Seen]]:
    """Choose questions by how they were answered.

    Args:
        pairs: The comparisons on one benchmark, all on the same inputs.
        wanted: How many of each group; fewer where there are no more.

    Returns:
        By instance id the group and what was seen. `flipped`: the most harmful first. `near-tie`:
        unchanged, smallest margin first. `control`: unchanged, drawn by the hash of the id from
        the half with the larger margins.
    """
    seen: dict[str, Seen] = {}
    usable: defaultdict[str, int] = defaultdict(int)
    for condition, joined in pairs.items():
        lost = joined.base.correct & ~joined.variant.correct
        for place in np.flatnonzero(joined.valid):
            name = str(joined.instance_id[place])
            found = seen.setdefault(name, Seen(name))
            usable[name] += 1
            found.flips += bool(joined.changed[place])
            found.lost += bool(lost[place])
            margin = float(joined.base.margin[place])
            found.margin = min(found.margin, margin if np.isfinite(margin) else float("inf"))
            sides = (joined.base.answer[place], joined.variant.answer[place])
            found.answers[condition.label] = (_told(sides[0]), _told(sides[1]))
    whole = [item for name, item in seen.items() if usable[name] == len(pairs)]
    flipped = [item for item in whole if item.flips]
    flipped.sort(key=lambda item: (-item.lost, -item.flips, item.margin, item.id))
    calm = sorted((s for s in whole if not s.flips), key=lambda item: (item.margin, item.id))
    near = [item for item in calm if item.margin < float("inf")][: wanted.near_ties]
    sure = [item for item in calm[len(calm) // 2 :] if item not in near]
    sure.sort(key=lambda item: hashlib.sha256(item.id.encode()).digest())
    groups = {
        FLIPPED: flipped[: wanted.flipped],
        NEAR_TIE: near,
        CONTROL: sure[: wanted.controls],
    }
    return {item.id: (group, item) for group, items in groups.items() for item in items}


@dataclass(frozen=True)
class Table:
    """Questions that `custom` reads with one config.

    Attributes:
        file: Name of the file.
        config: The config, with a path relative to the directory of the export.
        prompts: What is asked, by id: what the benchmark asked.
    """

    file: str
    config: Mapping[str, Any]
    prompts: Mapping[str, str]


def export(
    chosen: Iterable[tuple[Dataset, Mapping[str, tuple[str, Seen]]]],
    directory: Path,
    *,
    name: str,
    spec_hash: str,
) -> tuple[Table, ...]:
    """Write questions, pictures, the manifest that pins them and a README.

    Args:
        chosen: The questions by benchmark.
        directory: Where to; an earlier export there is replaced.
        name: Name of the experiment that they are from.
        spec_hash: Hash of its spec.

    Returns:
        The tables that were written.

    Raises:
        RunError: There is something else in the directory, or nothing to export.
        DataError: A picture cannot be read, or a question cannot be put the same way by `custom`.
    """
    _clear(directory)
    inputs = Inputs()
    rows: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    prompts: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    questions = []
    for dataset, picked in chosen:
        for instance_id, (group, seen) in picked.items():
            instance = inputs.clean(dataset, instance_id)
            put, suffix = _put(dataset, instance)
            at = instance.kind.value, suffix
            rows[at].append(_row(instance, put, group, directory))
            prompts[at][instance_id] = dataset.benchmark.render(instance)
            questions.append(_entry(dataset, group, seen))
    if not rows:
        raise RunError(
            "there is nothing to export: no finished stack on clean inputs has answered questions "
            "that are not answered freely"
        )
    tables = []
    for number, ((kind, suffix), own) in enumerate(rows.items(), 1):
        file = "questions.jsonl" if len(rows) == 1 else f"questions-{number}-{kind}.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in own)
        (directory / file).write_text("".join(lines), encoding="utf-8")
        config = _config(name, file, kind, suffix, own)
        tables.append(Table(file, config, prompts[kind, suffix]))
    _write_manifest(directory, tables, questions, name, spec_hash)
    return tuple(tables)


def verify(table: Table, directory: Path, custom: type[Any]) -> None:
    """Make sure that `custom` asks exactly what was asked.

    Args:
        table: What was written.
        directory: Where.
        custom: The benchmark plugin of that name.

    Raises:
        DataError: It would ask something else.
    """
    config = {k: v for k, v in table.config.items() if k != "type"}
    benchmark = custom(custom.config_cls(**config | {"path": directory / table.file}))
    asked = sorted(benchmark.render(instance) for instance in benchmark.instances("test"))
    if asked != sorted(table.prompts.values()):
        other = next(text for text in asked if text not in table.prompts.values())
        raise DataError(
            f"{directory / table.file}: `custom` would ask {other[:80]!r}, which is not what was "
            "asked; leave this benchmark out of the export"
        )


def _told(answer: object) -> str:
    return "" if answer is None else str(answer)


def _clear(directory: Path) -> None:
    try:
        if directory.is_dir() and any(directory.iterdir()):
            if not (directory / MANIFEST).is_file():
                raise RunError(
                    f"{directory}: there is something else in it; choose another directory"
                )
            for path in (*directory.glob("questions*.jsonl"), directory / MANIFEST):
                path.unlink()
            shutil.rmtree(directory / IMAGES, ignore_errors=True)
        (directory / IMAGES).mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{directory}: cannot be written: {error.strerror}") from error


def _put(dataset: Dataset, instance: Instance) -> tuple[Instance, str]:
    """The question and what stands behind it, so that `custom` asks what the benchmark asked."""
    asked = dataset.benchmark.render(instance)
    plain = Benchmark.render(dataset.benchmark, instance)
    if asked.startswith(plain):
        return instance, asked[len(plain) :]
    if not instance.choices:
        return replace(instance, question=asked, hint=""), ""
    raise DataError(
        f"benchmark '{dataset.name}' words its options in a way of its own, which `custom` cannot; "
        "leave it out of the export"
    )


def _row(instance: Instance, put: Instance, group: str, directory: Path) -> dict[str, Any]:
    marks = dict(zip((c.id for c in put.choices), ascii_uppercase, strict=False))
    answers = [marks.get(reference, reference) for reference in put.references]
    row: dict[str, Any] = {
        "id": instance.id,
        "image": [_save(image, directory) for image in instance.images],
        "question": put.question,
        "answer": answers,
        "cluster": instance.cluster_id,
        "canary": group,
    }
    row |= {"choices": [choice.text for choice in put.choices]} if put.choices else {}
    row |= {"hint": put.hint} if put.hint else {}
    return row


def _save(image: Image, directory: Path) -> str:
    from PIL import Image as PillowImage

    content = io.BytesIO()
    # Without loss, so that the model sees the same pixels.
    PillowImage.fromarray(image.pixels).save(content, "PNG")
    data = content.getvalue()
    name = f"{IMAGES}/{hashlib.sha256(data).hexdigest()[:32]}.png"
    (directory / name).write_bytes(data)
    return name


def _entry(dataset: Dataset, group: str, seen: Seen) -> dict[str, Any]:
    return {
        "id": seen.id,
        "benchmark": dataset.name,
        "group": group,
        "lost": seen.lost,
        "flips": seen.flips,
        "margin": seen.margin if np.isfinite(seen.margin) else None,
        "answers": {label: list(sides) for label, sides in seen.answers.items()},
    }


def _config(
    name: str, file: str, kind: str, suffix: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    present = [column for column in _COLUMNS if any(column in row for row in rows)]
    config: dict[str, Any] = {
        "type": "custom",
        "name": f"{name}-{Path(file).stem}",
        "path": file,
        "columns": {**{column: column for column in present}, "slices": ["canary"]},
        "kind": kind,
        "suffix": suffix,
        "private": False,
    }
    return config | ({"answers": "letter"} if kind == AnswerKind.CHOICE else {})


def _write_manifest(
    directory: Path,
    tables: Sequence[Table],
    questions: Sequence[Mapping[str, Any]],
    name: str,
    spec_hash: str,
) -> None:
    files = sorted([*(directory / IMAGES).iterdir(), *(directory / t.file for t in tables)])
    pins = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    content = {
        "stabfw_canary": FORM,
        "what": "a regression test, never an estimate: questions chosen by how they were answered",
        "name": name,
        "spec": spec_hash,
        "files": pins,
        "questions": list(questions),
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    counts = {group: sum(q["group"] == group for q in questions) for group in _MEANS}
    lines = "".join(f"| {g} | {counts[g]} | {_MEANS[g]} |\n" for g in _MEANS)
    (directory / README).write_text(_README.format(name=name, lines=lines), encoding="utf-8")


_MEANS = {
    FLIPPED: "the answer changed under at least one stack; those that lost a right answer first",
    NEAR_TIE: "unchanged, but the baseline hesitated: its two best first tokens were close",
    CONTROL: "unchanged, and the baseline was sure",
}
_README = """\
# Canary set of {name}

**A regression test, never an estimate.** These questions were chosen by how they were answered, so
the share of them that changes says nothing about other questions. stabfw refuses gates on them.

| group | questions | what they are |
|---|---|---|
{lines}
`questions*.jsonl` are tables for the benchmark `custom`; `images/` holds the pictures as the model
saw them. `canary.json` says why each question was chosen and what was answered, and has the sha256
of every file: `custom` refuses the set if one of them differs.

    cd HERE
    stabfw run spec.yaml
    stabfw show runs/{name}-canary

`spec.yaml` has the models and stacks of the run that they come from. Answers are read and scored by
the rules of `custom`.
"""
