"""However options are listed, an answer is the id of the option that was meant."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from stabfw.components import AnswerKind, Benchmark, BenchmarkConfig, Choice, Instance
from stabfw_perturbations.options import (
    OptionLabels,
    OptionLabelsConfig,
    ShuffleOptions,
    ShuffleOptionsConfig,
)

COLOURS = ("red", "green", "blue", "yellow")


class Plain(Benchmark[BenchmarkConfig]):
    config_cls = BenchmarkConfig

    def instances(self, split: str) -> Iterable[Instance]:
        return ()


def asked(*texts: str) -> Instance:
    return Instance.create(
        (),
        "Which colour?",
        native_id=0,
        kind=AnswerKind.CHOICE,
        choices=tuple(map(Choice, "WXYZ", texts)),
        references=("Y",),
    )


def shuffled(item: Instance, seed: int = 0) -> Instance:
    return ShuffleOptions(ShuffleOptionsConfig()).perturb(item, np.random.default_rng(seed))


def styled(item: Instance, style: str) -> Instance:
    config = OptionLabelsConfig.model_validate({"style": style})
    return OptionLabels(config).perturb(item, np.random.default_rng(0))


def test_every_other_order_occurs_and_the_old_one_never() -> None:
    item = asked(*COLOURS[:3])
    orders = {"".join(c.id for c in shuffled(item, seed).choices) for seed in range(200)}
    assert orders == {"".join(order) for order in itertools.permutations("WXY")} - {"WXY"}


def test_texts_stay_with_their_ids_and_letters_are_read_as_shown() -> None:
    benchmark, item = Plain(BenchmarkConfig()), asked(*COLOURS)
    for seed in range(20):
        changed = shuffled(item, seed)
        assert set(changed.choices) == set(item.choices)
        for letter, choice in zip("ABCD", changed.choices, strict=True):
            assert f"\n{letter}. {choice.text}" in benchmark.render(changed)
            answer = benchmark.extract(letter, changed)
            assert answer.value == choice.id
            assert benchmark.score(answer, changed).correct == (choice.text == "blue")
        assert benchmark.extract("blue", changed).value == "Y"


@pytest.mark.parametrize(
    "text",
    [
        "all of the above",
        "none of the above",
        "both A and B",
        "A and C",
        "Only option B",
        "Neither A nor B",
    ],
)
def test_options_that_speak_of_others_stay_where_they_are(text: str) -> None:
    item = asked("red", "green", text)
    assert shuffled(item) == item


@pytest.mark.parametrize("texts", [(), ("red",)])
def test_nothing_to_shuffle(texts: tuple[str, ...]) -> None:
    assert shuffled(asked(*texts)) == asked(*texts)


@pytest.mark.parametrize("style", ["A)", "(A)", "A:", "a)", "(a)"])
def test_labels_are_shown_in_their_style_and_read_back(style: str) -> None:
    benchmark, item = Plain(BenchmarkConfig()), styled(shuffled(asked(*COLOURS)), style)
    lines = benchmark.render(item).splitlines()[1:]
    letters = "abcd" if "a" in style else "ABCD"
    expected = [style.replace(style.strip("():"), letter) for letter in letters]
    assert [line.split(" ")[0] for line in lines] == expected
    for option, label, choice in zip(benchmark.options(item), expected, item.choices, strict=True):
        assert option.id == choice.id
        for text in (*option.texts, label, f"{label} {choice.text}", f"The answer is {label}"):
            assert benchmark.extract(text, item).value == choice.id, text


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="style"):
        OptionLabelsConfig.model_validate({"style": "1."})
