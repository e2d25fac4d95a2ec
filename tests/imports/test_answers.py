"""The neutral file of answers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.errors import DataError
from stabfw.imports import Answers, Given, against, asked_differently, read_answers, write_answers
from stabfw.metrics import pair

texts = st.text(st.characters(codec="utf-8"), max_size=12)
rows = st.builds(
    Given,
    id=texts,
    answer=st.sampled_from(["yes", "no", "a b"]),
    gold=st.tuples(texts),
    text=texts.filter(bool),
    correct=st.booleans(),
    score=st.none() | st.floats(0, 1),
    cluster=texts,
    question=texts,
    content=st.dictionaries(st.sampled_from(["prompt", "images"]), texts),
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_a_file_gives_back_what_was_written(written: list[Given]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        answers = Answers(str(path), {"harness": "x", "task": "t"}, tuple(written))
        write_answers(answers, path)
        assert read_answers(path) == answers


def given_rows(count: int, **about: object) -> Answers:
    content = {"prompt": "p", "images": "i"}
    return Answers(
        "a.jsonl",
        {"harness": "x", "task": "t", **about},
        tuple(Given(str(i), "yes", ("yes",), "yes", True, content=content) for i in range(count)),
    )


def test_only_parts_that_both_know_are_compared() -> None:
    both = given_rows(3)
    no_images = replace(
        both, rows=tuple(replace(row, content={"prompt": "p"}) for row in both.rows)
    )
    assert against(both, both).verified == ("prompt", "images")
    assert against(both, no_images).verified == ("prompt",)
    one = replace(no_images, rows=(*no_images.rows[:2], replace(no_images.rows[2], content={})))
    sides = against(both, one)
    assert sides.verified == ()
    assert "Pairing unverified" in sides.notices[0]
    assert asked_differently(sides.base, sides.variant) == []


def test_hashes_of_two_harnesses_prove_nothing() -> None:
    sides = against(given_rows(3), given_rows(3, harness="y"))
    assert sides.verified == ()
    assert "harness x → y" in " ".join(sides.notices)


def test_what_is_absent_on_one_side_was_not_asked_differently() -> None:
    sides = against(given_rows(3), given_rows(2))
    assert asked_differently(sides.base, sides.variant) == []
    assert len(pair(sides.base, sides.variant)) == 3


def test_different_tasks_are_refused() -> None:
    with pytest.raises(DataError, match="task is 't' in one and 'u' in the other"):
        against(given_rows(1), given_rows(1, task="u"))


def test_unknown_clusters_are_told() -> None:
    alone = given_rows(2)
    shared = replace(alone, rows=tuple(replace(row, cluster="picture") for row in alone.rows))
    alone = replace(alone, rows=tuple(replace(row, cluster=row.id) for row in alone.rows))
    assert "take all questions for independent" in against(alone, alone).notices[-1]
    for pair_of in ((alone, shared), (shared, alone), (shared, shared)):
        sides = against(*pair_of)
        assert "independent" not in " ".join(sides.notices)
        assert set(sides.base.cluster) == set(sides.variant.cluster) == {"picture"}


def test_what_was_left_out_at_import_is_told() -> None:
    sides = against(given_rows(1, left_out=7), given_rows(1))
    assert "a.jsonl: questions left out at import: 7." in sides.notices


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('"correct": 1', "`correct` must be true or false"),
        ('"score": "x"', "`score` must be a number"),
        ('"status": "fine"', "`status` must be one of ok, invalid"),
        ('"content": []', "`content` must be an object"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, extra: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": 1, "answer": "a", "gold": "a", {extra}}}\n')
    with pytest.raises(DataError, match=f"a.jsonl:1: {message}"):
        read_answers(path)
