"""What is demanded of benchmarks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, islice
from math import inf, isclose, isfinite
from typing import Any

from stabfw.components import (
    Answer,
    AnswerKind,
    AnswerStatus,
    Benchmark,
    Component,
    Graded,
    Instance,
    Score,
)
from stabfw.errors import DataError
from stabfw.testing.check import CheckError, NotApplicableError, require
from stabfw.testing.elsewhere import asked
from stabfw.testing.subject import Subject

_COUNT = 48
_PER_SPLIT = 200
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_JUNK = (
    "",
    " \n\t",
    "zzxq vwkj",
    "???",
    "\x00\x07\ufffd",
    "🦊🦊🦊",
    "<image><image>",
    "((([[[{{{",
    "qz " * 30_000,
    "1" * 100_000,
)


def check_stable_ids(subject: Subject) -> None:
    """Fresh instances give the same unique ids in the same order, in any process."""
    try:
        ids = [instance.id for instance in _read(subject)]
    except DataError as error:
        raise CheckError(f"{subject} has no data to be checked with: {error}") from error
    split = _split(subject)
    require(bool(ids), f"{subject} has no instances in its split '{split}'")
    require(all(ids), f"{subject} gives instances without an id: make them with Instance.create")
    twice = sorted({item for item in ids if ids.count(item) > 1})
    require(not twice, f"{subject} gives the id {twice[:1]} more than once; is native_id unique?")
    require(
        [instance.id for instance in _read(subject)] == ids,
        f"{subject} gives other ids, or another order, when it is read again",
    )
    elsewhere = asked(_limited(subject), "ids", split=split, count=_COUNT).value
    require(
        elsewhere == ids,
        f"{subject} gives other ids, or another order, in another process: sort what comes from "
        "sets and directories",
    )


def check_limit(subject: Subject) -> None:
    """`limit` is kept to; a smaller one gives the first instances, or a sample if it says so."""
    ids = [instance.id for instance in _instances(subject)]
    few = max(1, len(ids) // 2)
    if few == len(ids):
        raise NotApplicableError("one instance cannot be limited")
    fewer = [i.id for i in islice(subject.make(limit=few).instances(_split(subject)), _COUNT)]
    require(len(fewer) == few, f"{subject} gives {len(fewer)} instances where limit is {few}")
    fields = subject.component_cls.config_cls.model_fields.values()
    sampled = any("random" in (field.description or "") for field in fields)
    require(
        fewer == ids[:few] or sampled,
        f"{subject} with limit={few} does not give the first {few} instances; if it draws them at "
        "random, say so in the description of a config field",
    )


def check_one_picture_one_cluster(subject: Subject) -> None:
    """Questions about one picture are in one cluster, since they are not independent."""
    clusters: dict[str, str] = {}
    for instance in _instances(subject):
        for image in instance.images[:1]:
            known = clusters.setdefault(image.digest, instance.cluster_id)
            require(
                known == instance.cluster_id,
                f"{subject} puts one picture into the clusters {known!r} and "
                f"{instance.cluster_id!r}: intervals would be too narrow",
            )


def check_gold_scores_full(subject: Subject) -> None:
    """The gold answer, given as a model would, is read and scored as correct."""
    benchmark = subject.make()
    judged = 0
    for instance in _instances(subject):
        if not instance.references:
            continue
        judged += 1
        scores = [
            benchmark.score(benchmark.extract(text, instance), instance)
            for text in _golden(instance)
        ]
        require(
            any(score.correct and score.value == 1 for score in scores),
            f"{subject}: none of {list(_golden(instance))} scores full for {instance.question!r}, "
            f"whose references are {instance.references}",
        )
    if not judged:
        raise NotApplicableError("its instances have no references")


def check_missing_answer_scores_nothing(subject: Subject) -> None:
    """What could not be read is not correct."""
    benchmark = subject.make()
    for instance in _instances(subject):
        for status in (AnswerStatus.INVALID, AnswerStatus.EMPTY, AnswerStatus.TRUNCATED):
            score = benchmark.score(Answer(None, instance.kind, status), instance)
            require(
                score.value == 0 and not score.correct,
                f"{subject} scores an answer that is {status} with {score.value}",
            )


def check_extract_never_raises(subject: Subject) -> None:
    """Any text is read as something; junk is never a choice, and neither yes nor no."""
    benchmark = subject.make()
    for instance in _instances(subject):
        for text in _JUNK:
            shown = repr(text[:20])
            try:
                answer = benchmark.extract(text, instance)
            except Exception as error:
                raise CheckError(f"{subject}: extract({shown}) raises {error!r}") from error
            require(
                isinstance(answer, Answer),
                f"{subject}: extract({shown}) returns {type(answer).__name__}, not an Answer",
            )
            require(
                (answer.value is None) == (answer.status is not AnswerStatus.OK),
                f"{subject}: extract({shown}) has value {answer.value!r} with status "
                f"{answer.status}; a value is there if and only if the status is ok",
            )
            guessed = (
                instance.kind in (AnswerKind.CHOICE, AnswerKind.YES_NO)
                and answer.status is AnswerStatus.OK
            )
            require(not guessed, f"{subject}: extract({shown}) guesses {answer.value!r}")


def check_extract_and_score_pure(subject: Subject) -> None:
    """Reading and scoring depend on nothing but their arguments, which stay as they were."""
    benchmark = subject.make()
    items = _instances(subject)
    texts = ("zzxq", "A", "yes", *(text for item in items[:4] for text in _golden(item)))
    before = [_told(item) for item in items]

    def outcomes(reader: Benchmark[Any], of: Iterable[Instance]) -> list[Any]:
        answers = [(reader.extract(text, item), item) for item in of for text in texts]
        return [(answer, reader.score(answer, item)) for answer, item in answers]

    first = outcomes(benchmark, items)
    require(
        outcomes(benchmark, items) == first and outcomes(subject.make(), items) == first,
        f"{subject} reads or scores the same text differently the next time",
    )
    require(
        [_told(item) for item in items] == before, f"{subject} changes an instance in scoring it"
    )


def check_aggregate(subject: Subject) -> None:
    """Aggregates are finite, follow from the answers in any order, and are best for gold ones."""
    benchmark = subject.make()
    graded = [best for item in _instances(subject) if (best := _best(benchmark, item)) is not None]
    if not graded:
        raise NotApplicableError("its instances have no references")
    gold = dict(benchmark.aggregate(graded))
    if not gold:
        raise NotApplicableError("it has no aggregates")
    _require_finite(subject, gold)
    others = (benchmark, graded), (benchmark, graded[::-1]), (subject.make(), graded)
    for reader, answers in others:
        again = dict(reader.aggregate(answers))
        require(
            again.keys() == gold.keys()
            and all(isclose(again[name], gold[name], abs_tol=1e-9) for name in gold),
            f"{subject} aggregates the same answers differently the next time, or in another "
            f"order: {gold}, then {again}",
        )
    for step in (1, 2, 3):
        fewer = dict(
            benchmark.aggregate(
                [_lost(one) if place % step == 0 else one for place, one in enumerate(graded)]
            )
        )
        _require_finite(subject, fewer)
        better = [name for name, value in fewer.items() if value > gold.get(name, inf) + 1e-9]
        require(
            not better,
            f"{subject} aggregates answers of which some are missing to more than gold answers: "
            f"{better[:1]}",
        )


def check_letters_follow_the_order_shown(subject: Subject) -> None:
    """A letter means the option in that place, also after the options were shuffled."""
    benchmark = subject.make()
    judged = 0
    for instance in _instances(subject):
        if benchmark.extract("A", instance).value not in {c.id for c in instance.choices}:
            continue
        judged += 1
        shuffled = replace(instance, choices=instance.choices[::-1])
        for shown in (instance, shuffled):
            for letter, choice in zip(_LETTERS, shown.choices, strict=False):
                value = benchmark.extract(letter, shown).value
                require(
                    value == choice.id,
                    f"{subject} reads {letter!r} as {value!r} where {choice.id!r} is shown there",
                )
    if not judged:
        raise NotApplicableError("it reads no letters of options")


def check_options_are_read_back(subject: Subject) -> None:
    """Each way to write an option is read as that option; two options have different ids."""
    benchmark = subject.make()
    judged = 0
    for instance in _instances(subject):
        options = benchmark.options(instance)
        judged += len(options)
        ids = [option.id for option in options]
        require(len({*ids}) == len(ids), f"{subject} has the options {ids} for one question")
        for option in options:
            for text in option.texts:
                value = benchmark.extract(text, instance).value
                require(
                    value == option.id,
                    f"{subject} offers {text!r} as a way to write the option {option.id!r}, but "
                    f"reads it as {value!r}",
                )
    if not judged:
        raise NotApplicableError("its questions have no options to choose from")


def check_render_is_pure_and_contains_question(subject: Subject) -> None:
    """A prompt is the same each time, and holds the question and the options as they are."""
    benchmark = subject.make()
    for instance in _instances(subject):
        # A perturbed question is what has to be asked.
        for item in (instance, replace(instance, question="Zzxq " + instance.question)):
            before = _told(item)
            text = benchmark.render(item)
            require(
                isinstance(text, str)
                and benchmark.render(item) == text
                and subject.make().render(item) == text
                and _told(item) == before,
                f"{subject} renders {item.question!r} differently the next time",
            )
            parts = [item.question.strip(), *(choice.text for choice in item.choices)]
            missing = [part for part in parts if part not in text]
            require(not missing, f"{subject} renders a prompt without {missing[:1]}: {text!r}")


def check_splits_share_no_image(subject: Subject) -> None:
    """No picture is in two splits, unless it says so, so calibration cannot see what is asked."""
    pictures: dict[str, set[str]] = {}
    cls = subject.component_cls
    assert issubclass(cls, Benchmark)
    for split in cls.splits:
        component = subject.make(limit=_PER_SPLIT)
        try:
            items = list(islice(component.instances(split), _PER_SPLIT))
        except DataError:
            continue
        pictures[split] = {image.digest for item in items for image in item.images}
    if len(pictures) < 2:
        raise NotApplicableError("it has fewer than two splits with data")
    for one, other in combinations(pictures, 2):
        if {one, other} <= cls.same_pictures:
            continue
        shared = pictures[one] & pictures[other]
        require(
            not shared,
            f"{subject}: {len(shared)} of {len(pictures[one])} pictures of the split '{one}' are "
            f"in '{other}' too; if it has to be so, name both in `same_pictures`",
        )


def check_judge_is_told_and_read(subject: Subject) -> None:
    """A judge is shown the answer and all gold ones; junk that it replies is no verdict."""
    benchmark = subject.make()
    if (rubric := benchmark.judged) is None:
        raise NotApplicableError("its answers are scored by a rule")
    for instance in _instances(subject):
        before = _told(instance)
        asked = rubric.questions(instance, "zzxq 7")
        require(
            len(asked) == rubric.orders and len({*asked}) == len(asked),
            f"{subject} asks a judge {len(asked)} questions, but has {rubric.orders} orders",
        )
        require(
            rubric.questions(instance, "zzxq 7") == asked and _told(instance) == before,
            f"{subject} asks a judge differently the next time",
        )
        # How gold answers with several parts are written out is up to the rubric.
        words = {word for gold in instance.references for word in re.findall(r"\w+", gold)}
        for text in ("zzxq 7", instance.question, *sorted(words)):
            require(
                all(text in question for question in asked),
                f"{subject} does not show {text!r} to the judge",
            )
    for order in range(rubric.orders):
        for text in _JUNK:
            shown = repr(text[:20])
            try:
                verdict = rubric.read(text, order)
            except Exception as error:
                raise CheckError(f"{subject}: a judge's reply {shown} raises {error!r}") from error
            require(verdict is None, f"{subject} reads the reply {shown} as {verdict!r}: a guess")


def check_fingerprint(subject: Subject) -> None:
    """It tells what its data is without being changed by reading it."""
    component = subject.make()
    if type(component).fingerprint is Component.fingerprint:
        raise NotApplicableError("it does not override fingerprint(), so it is read for every plan")
    try:
        before = dict(component.fingerprint())
        list(islice(component.instances(_split(subject)), _COUNT))
    except DataError:
        raise NotApplicableError("its data cannot be read: see check_stable_ids") from None
    require(
        dict(component.fingerprint()) == before,
        f"fingerprint() of {subject} changes when its instances are read",
    )


def _limited(subject: Subject) -> Subject:
    return replace(subject, config=subject.values(limit=_limit(subject)))


def _limit(subject: Subject) -> int:
    return min(_COUNT, subject.make().config.limit or _COUNT)


def _split(subject: Subject) -> str:
    benchmark = subject.make()
    return str(benchmark.config.split or benchmark.splits[0])


def _read(subject: Subject) -> Iterator[Instance]:
    component = _limited(subject).make()
    yield from islice(component.instances(_split(subject)), _COUNT)


def _instances(subject: Subject) -> list[Instance]:
    try:
        return list(_read(subject))
    except DataError:
        raise NotApplicableError("its data cannot be read: see check_stable_ids") from None


def _golden(instance: Instance) -> Iterator[str]:
    for reference in instance.references:
        for letter, choice in zip(_LETTERS, instance.choices, strict=False):
            if choice.id == reference:
                yield letter
                yield choice.text
        yield reference


def _best(benchmark: Benchmark[Any], instance: Instance) -> Graded | None:
    """An instance with the gold answer that scores best, None where it has no reference."""
    answers = [benchmark.extract(text, instance) for text in _golden(instance)]
    scored = [(answer, benchmark.score(answer, instance)) for answer in answers]
    if not scored:
        return None
    answer, score = max(scored, key=lambda pair: pair[1].value)
    given = instance.group_id, instance.slices, instance.kind, instance.references
    return Graded(*given, answer, score)


def _lost(graded: Graded) -> Graded:
    answer = Answer(None, graded.kind, AnswerStatus.INVALID)
    return replace(graded, answer=answer, score=Score(0.0, False))


def _require_finite(subject: Subject, aggregates: Mapping[str, float]) -> None:
    wrong = [name for name, value in aggregates.items() if not isfinite(value)]
    require(not wrong, f"{subject} has the aggregate {wrong[:1]} that is not a finite number")


def _told(instance: Instance) -> Any:
    pictures = [image.digest for image in instance.images]
    return replace(instance, images=(), slices=dict(instance.slices)), pictures


CHECKS = (
    check_stable_ids,
    check_limit,
    check_one_picture_one_cluster,
    check_gold_scores_full,
    check_missing_answer_scores_nothing,
    check_extract_never_raises,
    check_extract_and_score_pure,
    check_aggregate,
    check_letters_follow_the_order_shown,
    check_options_are_read_back,
    check_render_is_pure_and_contains_question,
    check_splits_share_no_image,
    check_judge_is_told_and_read,
    check_fingerprint,
)
