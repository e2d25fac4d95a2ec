"""The neutral file of answers: JSONL with one question a line, and what is known of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stabfw.components import AnswerStatus, normalised
from stabfw.components.files import write_atomic
from stabfw.errors import DataError
from stabfw.metrics import Outcomes

#: Parts of what a model was shown that a log can prove, in the order in which they are told: the
#: text as it was given to the model, question and options where only these are known, pictures.
PARTS = ("prompt", "question", "images")
#: What proves that two models were asked the same.
WHOLE = {"prompt", "images"}

#: Facts about a run that must agree, else its answers were given to, or judged by, something else.
_SAME = ("task", "task_version", "filter", "metric", "correct_from")
_DIFFER_ANYWAY = ("date", "log", "log_sha256", "seconds", "left_out")


@dataclass(frozen=True)
class Given:
    """One answer.

    Attributes:
        id: Identity of the question within its task.
        answer: What counts as the answer, None where there is none.
        gold: The references.
        text: What the model wrote.
        correct: Whether the answer is right, by whoever scored it.
        score: Points, None where they are not known.
        cluster: Questions with the same value are not independent.
        status: As in `AnswerStatus`.
        question: As it was asked.
        content: Hashes of what the model was shown, by part.
    """

    id: str
    answer: str | None
    gold: tuple[str, ...]
    text: str
    correct: bool
    score: float | None = None
    cluster: str = ""
    status: str = "ok"
    question: str = ""
    content: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What one run answered to one task.

    Attributes:
        name: For people.
        about: Where it comes from: harness, version, model, task, metric, …
        rows: The answers.
    """

    name: str
    about: Mapping[str, object]
    rows: tuple[Given, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the questions that every row has a hash of."""
        return tuple(part for part in PARTS if all(part in row.content for row in self.rows))


@dataclass(frozen=True)
class Sides:
    """Two files of answers made ready to be joined.

    Attributes:
        base: Outcomes of the baseline.
        variant: Outcomes of the variant.
        verified: The parts of the questions that both files have hashes of, in the same form.
        notices: What a reader has to know of the two.
    """

    base: Outcomes
    variant: Outcomes
    verified: tuple[str, ...]
    notices: tuple[str, ...]


def against(base: Answers, variant: Answers) -> Sides:
    """Make two files of answers ready to be joined, by what both of them know.

    Raises:
        DataError: If they are of different tasks, or were scored in different ways.
    """
    same_harness = base.about.get("harness") == variant.about.get("harness")
    if same_harness:
        for fact in _SAME:
            ours, theirs = base.about.get(fact), variant.about.get(fact)
            if None not in (ours, theirs) and ours != theirs:
                raise DataError(
                    f"{base.name} and {variant.name} cannot be compared: {fact} is {ours!r} in "
                    f"one and {theirs!r} in the other; import both in the same way"
                )
    # Each harness writes prompts in its own form, so that hashes across two of them say nothing.
    parts = tuple(p for p in base.parts if p in variant.parts) if same_harness else ()
    grouped = [a for a in (base, variant) if any(row.cluster != row.id for row in a.rows)]
    # Where one log knows which questions share a picture, it speaks for both.
    clusters = {row.id: row.cluster for row in grouped[0].rows} if len(grouped) == 1 else {}
    notices = [_pairing(parts), *_differences(base.about, variant.about)]
    if not grouped:
        notices.append(
            "The files do not tell which questions share a picture, so the intervals take all "
            "questions for independent."
        )
    for answers in (base, variant):
        if left_out := answers.about.get("left_out"):
            notices.append(f"{answers.name}: questions left out at import: {left_out}.")
    return Sides(
        _outcomes(base, parts, clusters), _outcomes(variant, parts, clusters), parts, tuple(notices)
    )


def asked_differently(base: Outcomes, variant: Outcomes) -> list[str]:
    """Return the ids of what the two sides were asked differently, in the baseline's order."""
    if base.input_hash is None or variant.input_hash is None:
        return []
    theirs = dict(zip(variant.instance_id.tolist(), variant.input_hash.tolist(), strict=True))
    return [
        instance_id
        for instance_id, ours in zip(base.instance_id.tolist(), base.input_hash, strict=True)
        if None not in (ours, theirs.get(instance_id)) and ours != theirs[instance_id]
    ]


def write_answers(answers: Answers, path: Path) -> None:
    """Write a file that `read_answers` reads.

    Raises:
        OSError: If it cannot be written.
    """
    lines = [json.dumps({"about": dict(answers.about)}, ensure_ascii=False)]
    for row in answers.rows:
        known = {
            "id": row.id,
            "question": row.question,
            "text": row.text,
            "answer": row.answer,
            "gold": list(row.gold),
            "correct": row.correct,
            "score": row.score,
            "cluster": row.cluster,
            "status": row.status,
            "content": dict(row.content),
        }
        lines.append(json.dumps(known, ensure_ascii=False))
    write_atomic(path, "".join(line + "\n" for line in lines).encode())


def read_answers(path: Path) -> Answers:
    """Read a file of answers: what `stabfw import` writes, or any JSONL of that form.

    A line is an object with `id`, `answer` and `gold` (a text or a list). Further keys are
    optional: `text`, `question`, `cluster`, `correct`, `score`, `status` and `content`, an
    object with hashes of `prompt`, `question` or `images`. The first line may be `{"about": {…}}`.

    Raises:
        DataError: If it is not of that form; the message names the line.
    """
    about: Mapping[str, object] = {}
    rows: list[Given] = []
    for number, row in json_lines(path):
        if not rows and not about and isinstance(said := row.get("about"), dict):
            about = said
            continue
        rows.append(_row(row, f"{path}:{number}"))
    if not rows:
        raise DataError(f"{path}: no answers in it")
    return Answers(str(path), about, tuple(rows))


def json_lines(path: Path) -> list[tuple[int, dict[str, object]]]:
    """Read the objects of a JSONL file with their line numbers.

    Raises:
        DataError: If it cannot be read, or a line is not a JSON object.
    """
    try:
        # An answer may hold other characters that `splitlines` takes for the end of a line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except ValueError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object: {line[:80]}")
        found.append((number, row))
    return found


def _row(row: Mapping[str, object], where: str) -> Given:
    shown = json.dumps(row, ensure_ascii=False)[:80]
    if lacking := [key for key in ("id", "answer", "gold") if key not in row]:
        raise DataError(f"{where}: lacks {', '.join(lacking)}: {shown}")
    listed = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
    gold = tuple(str(item) for item in listed)
    answer = None if row["answer"] is None else normalised(str(row["answer"])) or None
    right = row.get("correct")
    if right is None:
        right = answer in {normalised(item) for item in gold}
    elif not isinstance(right, bool):
        raise DataError(f"{where}: `correct` must be true or false: {shown}")
    score = row.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise DataError(f"{where}: `score` must be a number: {shown}")
    status = row.get("status", "ok")
    if status not in set(AnswerStatus):
        raise DataError(f"{where}: `status` must be one of {', '.join(AnswerStatus)}: {shown}")
    content = row.get("content", {})
    if not isinstance(content, dict):
        raise DataError(f"{where}: `content` must be an object with hashes: {shown}")
    if answer is None and status == "ok":
        status = "empty"
    return Given(
        id=str(row["id"]),
        answer=answer,
        gold=gold,
        text=str(row.get("text", row["answer"]) or ""),
        correct=right and status == "ok",
        score=None if score is None else float(score),
        cluster=str(row.get("cluster", row["id"])),
        status=str(status),
        question=str(row.get("question", "")),
        content={str(part): str(value) for part, value in content.items()},
    )


def _outcomes(answers: Answers, parts: tuple[str, ...], clusters: Mapping[str, str]) -> Outcomes:
    rows = answers.rows
    scored = any(row.score is not None for row in rows)
    missing = float("nan")
    return Outcomes.from_columns(
        [row.id for row in rows],
        answer=[row.answer for row in rows],
        correct=[row.correct for row in rows],
        cluster=[clusters.get(row.id, row.cluster) for row in rows],
        input_hash=[" ".join(row.content[p] for p in parts) for row in rows] if parts else None,
        text=[row.text for row in rows],
        status=[row.status for row in rows],
        score=[missing if r.score is None else r.score for r in rows] if scored else None,
    )


def _pairing(parts: tuple[str, ...]) -> str:
    if not parts:
        return (
            "Pairing unverified: nothing in these files proves that equal ids were asked the "
            "same question."
        )
    said = f"Verified to be the same: {' and '.join(parts)}."
    if "prompt" not in parts:
        said += " The logs do not tell the whole prompt."
    if "images" not in parts:
        said += " The logs do not tell which pictures were shown."
    return said


def _differences(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Name in what else two runs differ, which is then part of what is measured."""
    found = [
        f"{name} {_short(value)} → {_short(theirs[name])}"
        for name, value in ours.items()
        if name not in _DIFFER_ANYWAY and name in theirs and theirs[name] != value
    ]
    return [f"The runs differ in: {'; '.join(found)}."] if found else []


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
