"""Every instance of a comparison as one table: what both sides answered, whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stabfw.errors import RunError
from stabfw.metrics.stability import NEAR_TIE_NATS
from stabfw.report.results import Change
from stabfw.store import Strength

UNCHANGED = "none"
_SLICE = "slice_"


@dataclass(frozen=True)
class AnswerGiven:
    """What one side answered to one question.

    Attributes:
        text: The generated text.
        answer: What was read out of it, empty if nothing.
        status: `ok`, `invalid`, `empty`, `truncated`, `refusal`, `error` or `missing`.
        correct: Whether it counts as right.
        margin: Log-probability lead of the first token over the next, or None.
        token_ids: The generated tokens; empty where they are not known.
        visual_tokens: Visual tokens that each decoder layer saw; empty where not known.
        token_depths: For each visual token the number of layers that saw it; empty where none
            was dropped.
        options: Log-probability of each option by id, among the options; empty where not known.
        options_logprob: Log-probability of all options together, or None.
        prefill_ms: Wall time until the first token, or None.
        decode_ms: Wall time of all that followed, or None.
        recorded: What metrics had recorded besides, by name of the metric and of the thing.
    """

    text: str
    answer: str
    status: str
    correct: bool
    margin: float | None = None
    token_ids: tuple[int, ...] = ()
    visual_tokens: tuple[int, ...] = ()
    token_depths: tuple[int, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)
    options_logprob: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    recorded: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class InstanceRow:
    """One instance of a comparison.

    Attributes:
        instance_id: Identity of the question.
        cluster: Instances with the same value are not independent.
        slices: The slices that it is in.
        question: As it was asked, options included.
        gold: The references, readable.
        base: What the baseline answered.
        variant: What the accelerated model answered.
        kind: `none`, `negative`, `positive`, `wrong_churn` or `right_churn`.
        cause: `semantic`, `format`, `truncation` or `error`; empty where nothing changed.
        strength: How far the perturbation moved it, where that is known.
        foresight_part: Whether a threshold of the margin was fitted on it (`fit`) or checked
            (`check`); empty for neither.
        foresight_covered: Whether its margin is at or above the threshold; None where either is
            not known.
        thumbnail: The image as the models saw it; empty if not wanted.
    """

    instance_id: str
    cluster: str
    slices: Mapping[str, str]
    question: str
    gold: str
    base: AnswerGiven
    variant: AnswerGiven
    kind: str = UNCHANGED
    cause: str = ""
    strength: Strength | None = None
    foresight_part: str = ""
    foresight_covered: bool | None = None
    thumbnail: bytes = field(default=b"", repr=False)

    @property
    def near_tie(self) -> bool | None:
        """Whether the baseline's two best first tokens were close; None where not known."""
        return None if self.base.margin is None else self.base.margin <= NEAR_TIE_NATS

    @property
    def first_diverging_token(self) -> int | None:
        """Position of the first token that differs; None if none does or tokens are unknown."""
        ours, theirs = self.base.token_ids, self.variant.token_ids
        if not ours or not theirs or ours == theirs:
            return None
        same = (a == b for a, b in zip(ours, theirs, strict=False))
        return next((i for i, equal in enumerate(same) if not equal), min(len(ours), len(theirs)))


def changes(rows: Iterable[InstanceRow]) -> list[Change]:
    """Return the rows whose answer changed, ready for `flips_page`."""
    return [
        Change(
            instance_id=row.instance_id,
            question=row.question,
            gold=row.gold,
            base_text=row.base.text,
            base_answer=row.base.answer,
            variant_text=row.variant.text,
            variant_answer=row.variant.answer,
            kind=row.kind,
            cause=row.cause,
            base_margin=row.base.margin,
            variant_margin=row.variant.margin,
            slices=row.slices,
            thumbnail=row.thumbnail,
        )
        for row in rows
        if row.kind != UNCHANGED
    ]


def instances_parquet(rows: Sequence[InstanceRow], path: Path) -> None:
    """Write a comparison as Parquet, one row an instance and one column a thing known of it.

    Slices become columns `slice_<name>`, the sides `base_…` and `variant_…`.

    Args:
        rows: The instances.
        path: The file; it appears whole or not at all.

    Raises:
        RunError: If pyarrow is not installed.
        OSError: If it cannot be written.
    """
    pyarrow, parquet = _pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in rows for name in row.slices})
    table = pyarrow.Table.from_pylist([_flat(row, names) for row in rows], _schema(pyarrow, names))
    temporary = path.with_suffix(".partial")
    parquet.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def read_instances(path: Path) -> list[InstanceRow]:
    """Read what `instances_parquet` wrote.

    Raises:
        RunError: If pyarrow is not installed.
        OSError: If it cannot be read.
    """
    _, parquet = _pyarrow()
    return [_row(flat) for flat in parquet.read_table(path).to_pylist()]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RunError(
            "tables of instances need pyarrow: install it with `pip install 'stabfw[mlflow]'`"
        ) from error
    return pyarrow, pyarrow.parquet


_SIDE = {
    "text": "string",
    "answer": "string",
    "status": "string",
    "correct": "bool_",
    "margin": "float64",
    "token_ids": "int32",
    "visual_tokens": "int32",
    "token_depths": "uint8",
    "options": "float64",
    "options_logprob": "float64",
    "prefill_ms": "float64",
    "decode_ms": "float64",
    "recorded": "float64",
}
_LISTS = ("token_ids", "visual_tokens", "token_depths")


def _schema(pyarrow: Any, slices: Sequence[str]) -> Any:
    text = pyarrow.string()

    def column(name: str, kind: Any) -> Any:
        if name in _LISTS:
            return pyarrow.list_(kind)
        if name == "recorded":
            return pyarrow.map_(text, pyarrow.list_(kind))
        return pyarrow.map_(text, kind) if name == "options" else kind

    def side(prefix: str) -> list[Any]:
        return [
            (f"{prefix}_{name}", column(name, getattr(pyarrow, kind)()))
            for name, kind in _SIDE.items()
        ]

    return pyarrow.schema(
        [
            ("instance_id", text),
            ("cluster", text),
            *((_SLICE + name, text) for name in slices),
            ("question", text),
            ("gold", text),
            ("kind", text),
            ("cause", text),
            ("psnr", pyarrow.float64()),
            ("ssim", pyarrow.float64()),
            ("edits", pyarrow.int32()),
            *side("base"),
            *side("variant"),
            ("near_tie", pyarrow.bool_()),
            ("foresight_part", text),
            ("foresight_covered", pyarrow.bool_()),
            ("first_diverging_token", pyarrow.int32()),
            ("thumbnail", pyarrow.binary()),
        ]
    )


def _flat(row: InstanceRow, slices: Sequence[str]) -> dict[str, object]:
    flat: dict[str, object] = {
        "instance_id": row.instance_id,
        "cluster": row.cluster,
        "question": row.question,
        "gold": row.gold,
        "kind": row.kind,
        "cause": row.cause,
        **(asdict(row.strength) if row.strength else {}),
        "near_tie": row.near_tie,
        "foresight_part": row.foresight_part or None,
        "foresight_covered": row.foresight_covered,
        "first_diverging_token": row.first_diverging_token,
        "thumbnail": row.thumbnail,
    }
    flat |= {_SLICE + name: row.slices.get(name) for name in slices}
    for prefix, side in (("base", row.base), ("variant", row.variant)):
        flat |= {f"{prefix}_{name}": getattr(side, name) for name in _SIDE}
    return flat


def _row(flat: Mapping[str, Any]) -> InstanceRow:
    def side(prefix: str) -> AnswerGiven:
        values = {name: flat[f"{prefix}_{name}"] for name in _SIDE}
        lists = {name: tuple(values[name]) for name in _LISTS}
        maps = {
            "options": dict(values["options"]),
            "recorded": {name: tuple(numbers) for name, numbers in values["recorded"]},
        }
        return AnswerGiven(**values | lists | maps)

    slices = {k.removeprefix(_SLICE): v for k, v in flat.items() if k.startswith(_SLICE)}
    return InstanceRow(
        instance_id=flat["instance_id"],
        cluster=flat["cluster"],
        slices={name: level for name, level in slices.items() if level is not None},
        question=flat["question"],
        gold=flat["gold"],
        base=side("base"),
        variant=side("variant"),
        kind=flat["kind"],
        cause=flat["cause"],
        strength=None
        if flat["edits"] is None
        else Strength(flat["psnr"], flat["ssim"], flat["edits"]),
        foresight_part=flat["foresight_part"] or "",
        foresight_covered=flat["foresight_covered"],
        thumbnail=flat["thumbnail"],
    )
