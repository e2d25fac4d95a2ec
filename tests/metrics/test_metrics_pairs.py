"""Joining two tables: by instance, complete, and never by guessing."""

from __future__ import annotations

import numpy as np
import pytest
from stabfw.metrics import (
    Counts,
    FlipCauses,
    Outcomes,
    PairingError,
    Pairs,
    Side,
    flip_causes,
    pair,
)


def table(ids, answers, correct, **columns):
    return Outcomes.from_columns(ids, answer=answers, correct=correct, **columns)


def shuffled(outcomes: Outcomes, order) -> Outcomes:
    return Outcomes(
        instance_id=outcomes.instance_id[order],
        cluster=outcomes.cluster[order],
        input_hash=None if outcomes.input_hash is None else outcomes.input_hash[order],
        answer=outcomes.answer[order],
        text=outcomes.text[order],
        status=outcomes.status[order],
        correct=outcomes.correct[order],
        score=outcomes.score[order],
        margin=outcomes.margin[order],
    )


def planted(n=400, flips=23, seed=7):
    """Return two shuffled logs in which the answers of known instances were changed."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"q{i:04d}" for i in range(n)], dtype=object)
    gold = rng.choice(["A", "B", "C", "D"], n)
    base = np.where(rng.random(n) < 0.7, gold, "E")
    variant = base.copy()
    moved = rng.choice(n, flips, replace=False)
    variant[moved] = "F"
    first = table(ids, base, base == gold)
    second = table(ids, variant, variant == gold)
    logs = shuffled(first, rng.permutation(n)), shuffled(second, rng.permutation(n))
    return *logs, {str(ids[i]) for i in moved}


def test_planted_flips_are_found_exactly():
    base, variant, moved = planted()
    pairs = pair(base, variant)
    assert set(pairs.instance_id[pairs.changed]) == moved
    assert Counts.of(pairs).n_changed == 23


def test_pairing_by_position_would_not_find_the_planted_flips():
    base, variant, moved = planted()
    by_position = np.flatnonzero(base.answer != variant.answer)
    assert len(by_position) > 5 * len(moved)
    assert set(base.instance_id[by_position]) != moved


def test_rows_are_sorted_and_every_column_follows_its_instance():
    a = table(
        ["q2", "q1"], ["B", "A"], [False, True],
        cluster=["i2", "i1"], margin=[2.0, 1.0], slices={"kind": ["count", "color"]},
    )  # fmt: skip
    b = table(["q1", "q2"], ["A", "C"], [True, True], cluster=["i1", "i2"])
    pairs = pair(a, b)
    assert pairs.instance_id.tolist() == ["q1", "q2"]
    assert pairs.cluster.tolist() == ["i1", "i2"]
    assert pairs.base.answer.tolist() == ["A", "B"]
    assert pairs.variant.answer.tolist() == ["A", "C"]
    assert pairs.base.margin.tolist() == [1.0, 2.0]
    assert pairs.slices["kind"].tolist() == ["color", "count"]
    assert pairs.kind.tolist() == ["none", "positive"]


def test_instances_missing_on_one_side_are_kept_and_counted():
    a = table(["q1", "q2", "q3"], ["A", "B", "C"], [True, True, False], cluster=["x", "y", "z"])
    b = table(["q4", "q1"], ["D", "A"], [True, True], cluster=["w", "x"], slices={"s": ["u", "v"]})
    pairs = pair(a, b)
    assert pairs.instance_id.tolist() == ["q1", "q2", "q3", "q4"]
    assert pairs.variant.status.tolist() == ["ok", "missing", "missing", "ok"]
    assert pairs.base.status.tolist() == ["ok", "ok", "ok", "missing"]
    assert pairs.cluster.tolist() == ["x", "y", "z", "w"]
    assert pairs.slices["s"].tolist() == ["v", None, None, "u"]
    assert pairs.valid.tolist() == [True, False, False, False]
    assert not pairs.changed.any()
    counts = Counts.of(pairs)
    assert counts.n_missing_base == 1
    assert counts.n_missing_variant_right == 1
    assert counts.n_missing_variant_wrong == 1
    assert counts.n_planned == 4


@pytest.mark.parametrize("which", ["baseline", "variant"])
def test_duplicates_are_refused_by_name(which):
    once = table(["q1", "q2"], ["A", "B"], [True, True])
    twice = table(["q1", "q2", "q1"], ["A", "B", "A"], [True, True, True])
    with pytest.raises(PairingError, match=rf"{which}.*'q1'"):
        pair(*((twice, once) if which == "baseline" else (once, twice)))


def test_unequal_inputs_are_refused_unless_asked_for():
    a = table(["q1", "q2"], ["A", "B"], [True, True], input_hash=["h1", "h2"])
    b = table(["q2", "q1"], ["B", "A"], [True, True], input_hash=["other", "h1"])
    with pytest.raises(PairingError, match=r"input_hash.*'q2'"):
        pair(a, b)
    assert len(pair(a, b, same_input=False)) == 2


def test_unrecorded_input_hashes_are_not_compared():
    a = table(["q1", "q2"], ["A", "B"], [True, True], input_hash=["h1", None])
    b = table(["q1", "q2"], ["A", "B"], [True, True], input_hash=["h1", "h2"])
    assert len(pair(a, b)) == 2
    assert len(pair(a, table(["q1", "q2"], ["A", "B"], [True, True]))) == 2


def test_one_instance_in_two_clusters_is_refused():
    a = table(["q1"], ["A"], [True], cluster=["i1"])
    b = table(["q1"], ["A"], [True], cluster=["i2"])
    with pytest.raises(PairingError, match=r"cluster.*'q1'"):
        pair(a, b)


# status, answer, text on each side -> changed, cause
CHANGES = [
    (("ok", "A", "A."), ("ok", "A", "A!"), False, "none"),
    (("ok", "A", "A"), ("ok", "B", "B"), True, "semantic"),
    (("ok", "A", "same"), ("invalid", None, "same"), True, "format"),
    (("empty", None, ""), ("ok", "A", "A"), True, "format"),
    (("invalid", None, "?"), ("invalid", None, "?"), False, "none"),
    (("invalid", None, "?"), ("invalid", None, "!"), True, "format"),
    (("ok", "A", "A"), ("truncated", None, "Well, the"), True, "truncation"),
    (("truncated", None, "So"), ("invalid", None, "So"), False, "none"),
    (("ok", "A", "A"), ("refusal", None, "I cannot"), True, "semantic"),
    (("invalid", None, "?"), ("refusal", None, "I cannot"), True, "format"),
    (("ok", "A", "A"), ("error", None, ""), True, "error"),
    (("truncated", None, "So"), ("error", None, ""), True, "error"),
    (("error", None, ""), ("error", None, ""), False, "none"),
    (("ok", "A", "A"), ("missing", None, ""), False, "none"),
]


@pytest.mark.parametrize(("left", "right", "changed", "cause"), CHANGES)
def test_divergence_rule(left, right, changed, cause):
    def one(row):
        return table(["q"], [row[1]], [False], status=[row[0]], text=[row[2]])

    for first, second in ((left, right), (right, left)):
        pairs = pair(one(first), one(second))
        assert pairs.changed.tolist() == [changed]
        assert pairs.cause.tolist() == [cause]
    assert not pair(one(left), one(left)).changed.any()


def test_an_answer_that_is_not_ok_is_never_correct():
    wrongly = table(["q"], ["A"], [True], status=["truncated"], score=[1.0])
    pairs = pair(wrongly, wrongly)
    assert not pairs.base.correct.any()
    assert pairs.base.score.tolist() == [0.0]
    with pytest.raises(ValueError, match="not 'ok'"):
        Side(*(getattr(wrongly, c) for c in ("answer", "text", "status", "correct")),
             score=wrongly.score, margin=wrongly.margin)  # fmt: skip


def test_what_the_scorer_tells_apart_has_changed():
    a = table(["q"], ["a"], [True], text=["a."])
    b = table(["q"], ["a"], [False], text=["a"])
    assert pair(a, b).kind.tolist() == ["negative"]


def test_flip_kinds():
    ids = ["q1", "q2", "q3", "q4", "q5"]
    a = table(ids, list("AAAAA"), [True, True, False, False, True])
    b = table(ids, list("ABBBB"), [True, False, True, False, True])
    kinds = pair(a, b).kind.tolist()
    assert kinds == ["none", "negative", "positive", "wrong_churn", "right_churn"]


def test_answers_may_be_tuples_and_statuses_fixed_width_strings():
    a = table(["q1", "q2"], [("A", 1), ("B", 2)], [True, True], status=np.array(["ok", "ok"]))
    b = table(["q2"], [("B", 3)], [True])
    pairs = pair(a, b)
    assert pairs.changed.tolist() == [False, True]
    assert pairs.variant.status.tolist() == ["missing", "ok"]


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="unknown status"):
        table(["q"], ["A"], [True], status=["OK"])
    with pytest.raises(ValueError, match="differ in length"):
        table(["q", "r"], ["A"], [True])
    with pytest.raises(ValueError, match="different slices"):
        Outcomes.concat([table(["q"], ["A"], [True]),
                         table(["r"], ["A"], [True], slices={"s": ["x"]})])  # fmt: skip
    with pytest.raises(ValueError, match="no shard"):
        Outcomes.concat([])


def test_concat_keeps_rows_and_hashes():
    whole = Outcomes.concat(
        [table(["q"], ["A"], [True], input_hash=["h"]), table(["r"], ["B"], [False])]
    )
    assert whole.instance_id.tolist() == ["q", "r"]
    assert whole.input_hash is not None
    assert whole.input_hash.tolist() == ["h", None]


def test_select_keeps_slices_and_sides_aligned():
    a = table(["q1", "q2"], ["A", "B"], [True, True], slices={"s": ["x", "y"]})
    part = pair(a, a).select(np.array([False, True]))
    assert isinstance(part, Pairs)
    assert (part.instance_id.tolist(), part.slices["s"].tolist()) == (["q2"], ["y"])
    assert part.variant.answer.tolist() == ["B"]


def test_parser_alarm_sounds_above_a_fifth():
    def causes(n_format, n_semantic):
        n = n_format + n_semantic
        ids = [f"q{i}" for i in range(n)]
        a = table(ids, ["A"] * n, [True] * n)
        b = table(
            ids, [None] * n_format + ["B"] * n_semantic, [False] * n,
            status=["invalid"] * n_format + ["ok"] * n_semantic,
        )  # fmt: skip
        return flip_causes(pair(a, b))

    assert not causes(1, 4).fix_the_parser_first
    assert causes(2, 4).fix_the_parser_first
    assert causes(2, 4).total == 6
    assert not causes(0, 0).fix_the_parser_first
    # Errors enter no rate, so they must not drown the alarm.
    assert FlipCauses(semantic=7, format=2, error=500).fix_the_parser_first
    assert not FlipCauses(semantic=7, format=2, truncation=1, error=500).fix_the_parser_first
