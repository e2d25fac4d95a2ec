import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest
from drawn import HOSTILE, NOTICE, draw
from stabfw.report.flips import MOST_SHOWN, flips_page
from stabfw.report.forest import forest_page, forest_svg
from stabfw.report.instances import changes
from stabfw.report.page import report_page, summary
from stabfw.report.results import Change, Summary
from stabfw.report.wording import interval, number, percent, points


@pytest.fixture(scope="module")
def comparison(drawn):
    return drawn.results.comparisons[0]


@pytest.fixture(scope="module")
def changed(drawn, comparison):
    return changes(drawn.rows[comparison.condition])


@pytest.fixture(scope="module")
def page(comparison, changed):
    return flips_page("", comparison, changed, [NOTICE, HOSTILE], "matched")


def change(i: int, kind: str = "negative", **fields: object) -> Change:
    known = {
        "instance_id": f"q{i}",
        "question": "What?",
        "gold": "a",
        "base_text": "a",
        "base_answer": "a",
        "variant_text": "b",
        "variant_answer": "b",
        "kind": kind,
        "cause": "semantic",
        "base_margin": float(i),
        "variant_margin": None,
        "slices": {},
    }
    return Change(**known | fields)


def test_numbers_shown_are_the_numbers_given(page, comparison):
    metrics = comparison.metrics
    for name in ("divergence_ratio", "correct_loss_rate", "positive_flip_rate"):
        assert percent(metrics[name].value) in page
        assert interval(metrics[name]) in page
    assert points(metrics["accuracy_delta"].value) in page
    floor = comparison.floor["divergence_ratio"]
    assert f"noise floor {percent(floor.value)} {interval(floor)}" in page


def test_every_change_has_a_card_with_its_picture(page, changed):
    assert page.count('<li class="change') == len(changed) == page.count('src="data:image/png')
    for one in changed:
        assert one.instance_id in page


def test_filters_and_counts_are_there(page, changed):
    for kind in {c.kind for c in changed}:
        assert f'value="{kind}" checked' in page
        assert f'data-count="kind:{kind}"' in page
    assert 'data-slice="question"' in page
    assert "At most 0.125 is a near tie" in page
    for name in ("text", "margin", "sort"):
        assert f'name="{name}"' in page


def test_notices_are_shown_and_escaped(page):
    assert f"<p>{NOTICE}</p>" in page
    assert "<p>&lt;script&gt;document.title" in page


def test_hostile_texts_stay_text(comparison):
    hostile = dict.fromkeys(("instance_id", "question", "gold", "base_text", "cause"), HOSTILE)
    one = change(1, variant_answer=HOSTILE, slices={HOSTILE: HOSTILE}, **hostile)
    page = flips_page(HOSTILE, comparison, [one], [], HOSTILE)
    assert "<script>document" not in page
    assert "<img src=x" not in page
    assert page.count("<script>") == 1


def test_pages_ask_for_nothing_from_outside(page, drawn):
    for text in (page, report_page(drawn.results), forest_page(drawn.results)):
        assert not re.findall(r'(?:src|href)="(?!data:|cells/)', text)
        assert "url(" not in text
        assert "@import" not in text
        assert "localStorage" not in text
    assert "default-src &#39;none&#39;" in page


def test_no_change_makes_a_page_that_says_so(drawn):
    lossless = next(c for c in drawn.results.comparisons if c.condition.stack == "sdpa")
    page = flips_page("", lossless, changes(drawn.rows[lossless.condition]), [])
    assert "No answer changed" in page
    assert "<form" not in page
    assert "lossless control" in page


def test_a_flood_of_changes_is_cut_and_said(comparison):
    many = [change(i, "positive") for i in range(MOST_SHOWN)] + [change(0)]
    page = flips_page("", comparison, many, [])
    assert f"{MOST_SHOWN} of {MOST_SHOWN + 1} changed answers are on this page" in page
    assert 'data-kind="negative"' in page


def test_raw_text_is_shown_where_it_says_more(comparison):
    page = flips_page("", comparison, [change(1, base_text="The answer is a.")], [])
    assert "The answer is a." in page
    assert page.count('class="raw"') == 1


def test_pages_without_right_and_wrong_say_so(comparison, drawn):
    free = dataclasses.replace(comparison, label_preserved=False)
    page = flips_page("", free, [change(1)], [])
    assert "only whether answers changed is to be read" in page
    assert "Right answers lost" not in page
    results = dataclasses.replace(drawn.results, comparisons=(free,))
    assert "not read" in report_page(results)
    assert "not read" in forest_svg(results)


def test_report_shows_every_number(drawn):
    page = report_page(drawn.results)
    for c in drawn.results.comparisons:
        assert percent(c.metrics["divergence_ratio"].value) in page
        assert percent(c.metrics["correct_loss_rate"].value) in page
        assert points(c.metrics["accuracy_delta"].value) in page
        assert f"{c.counts.n_changed} changes" in page
    assert "int8 needs a CUDA device" in page
    assert "matched comparison" in page
    assert NOTICE in page


def test_every_number_is_in_the_details_and_null_is_a_dash(drawn):
    page = report_page(drawn.results)
    front, details = page.split("<h2>Every number</h2>")
    c = drawn.results.comparisons[0]
    assert f"<summary>{c.condition.label}</summary>" in details
    for metric in c.metrics.values():
        assert f'<th scope="row">{metric.name}</th>' in details
        assert f'<td class="num">{number(metric.value, 4)}</td>' in details
    assert '<th scope="row">n_ci</th>' in details
    assert "at most 0.125 nats" in details
    assert "near_tie_share" not in front
    assert "nan" not in page.lower().replace("finance", "")


def test_worst_slices_are_named_with_their_correction(drawn):
    page = report_page(drawn.results)
    for c in drawn.results.comparisons:
        if c.condition.role == "stack":
            worst = c.worst
            assert f"<td>{worst.slice} {worst.level}</td>" in page
            assert f"lost {percent(worst.rate.value)} {interval(worst.rate)}" in page
    none = dataclasses.replace(drawn.results.comparisons[0], worst=None)
    page = report_page(dataclasses.replace(drawn.results, comparisons=(none,)))
    assert "Worst slice" not in page


def test_slices_that_stand_out_are_marked(drawn, comparison):
    def page(q):
        values = dict(comparison.slices["question"]["colour"])
        rate = values["divergence_ratio"]
        values["divergence_ratio_q"] = dataclasses.replace(rate, name="q", value=q)
        slices = {"question": {"colour": values}}
        one = dataclasses.replace(comparison, slices=slices)
        return report_page(dataclasses.replace(drawn.results, comparisons=(one,)))

    assert "q 0.030" in page(0.03)
    assert "q 0.300" not in page(0.3)


def test_summaries_are_shown_with_their_members(drawn, comparison):
    mean = dataclasses.replace(comparison.condition, benchmark="mean over benchmarks")
    summary = Summary(mean, ("shapes", "pope"), {"mce": comparison.metrics["flips"]})
    page = report_page(dataclasses.replace(drawn.results, summaries=(summary,)))
    assert f"{mean.label} (shapes, pope)" in page
    assert "Over benchmarks and perturbations" not in report_page(drawn.results)


def test_a_floor_of_the_stack_stands_beside_that_of_the_baseline(drawn, comparison):
    floor = {
        name: dataclasses.replace(metric, value=0.123, low=0.111, high=0.222)
        for name, metric in comparison.floor.items()
    }
    own = dataclasses.replace(comparison, self_floor=floor)
    told = "self floor 12.3\u202f% [11.1, 22.2]"
    page = flips_page("", own, [], [])
    assert page.count(told) == 3
    assert page.count("noise floor") == flips_page("", comparison, [], []).count("noise floor")
    assert "the self floor the accelerated model against itself" in page
    report = report_page(dataclasses.replace(drawn.results, comparisons=(own,)))
    assert report.count(told) == 2
    assert '0.1230<span class="range">0.1110 … 0.2220</span>' in report
    base = percent(comparison.floor["divergence_ratio"].value)
    assert (
        f"{own.condition.stack} changes 12.3\u202f% [11.1, 22.2] of its own answers on "
        f"{own.condition.perturbation} inputs, and the baseline {base} of its own."
    ) in report
    none = {n: dataclasses.replace(m, value=0.0) for n, m in floor.items()}
    calm = dataclasses.replace(comparison, self_floor=none)
    said = " ".join(summary(dataclasses.replace(drawn.results, comparisons=(calm,))))
    assert "No stack changed an answer of its own" in said
    for text in (report_page(drawn.results), flips_page("", comparison, [], [])):
        assert "self floor" not in text.lower()
        assert "its own answers" not in text


def test_means_of_floors_are_shown_with_their_intervals(drawn, comparison):
    mean = dataclasses.replace(comparison.condition, benchmark="mean over benchmarks")
    rate = comparison.metrics["divergence_ratio"]
    floors = {
        name: {rate.name: dataclasses.replace(rate, value=value, low=value / 2, high=value * 2)}
        for name, value in (("floor", 0.0321), ("self_floor", 0.0654))
    }
    one = Summary(mean, ("shapes", "pope"), {rate.name: rate}, **floors)
    bare = Summary(mean, ("shapes", "pope"), {rate.name: rate})
    plain = dataclasses.replace(drawn.results, comparisons=(), summaries=(bare,))
    assert "floor</th>" not in report_page(plain)
    page = report_page(dataclasses.replace(plain, summaries=(one,)))
    assert '<th class="num">Noise floor</th><th class="num">Self floor</th>' in page
    for value, bounds in (("0.0321", "0.0160 … 0.0642"), ("0.0654", "0.0327 … 0.1308")):
        assert f'{value}<span class="range">{bounds}</span>' in page


def test_causes_are_counted_and_the_parser_comes_first(comparison, drawn):
    causes = {"semantic": 6, "format": 3, "truncation": 2, "error": 1}
    odd = dataclasses.replace(comparison, causes=causes)
    page = flips_page("", odd, [change(1)], [], "matched")
    assert all(f'{name} <span class="num">{n}</span>' in page for name, n in causes.items())
    report = report_page(dataclasses.replace(drawn.results, comparisons=(odd,)))
    assert "of them 3 format, 2 truncation, 1 error" in report
    assert "In 1 of 1 comparisons" in report
    assert report.count("fix the parser first") == 2
    plain = dataclasses.replace(comparison, causes={"semantic": 6, "format": 1})
    report = report_page(dataclasses.replace(drawn.results, comparisons=(plain,)))
    assert report.count("fix the parser first") == 1


def test_summary_names_the_worst_and_never_absolves(drawn):
    text = " ".join(summary(drawn.results))
    stacks = [c for c in drawn.results.comparisons if c.condition.role == "stack"]
    worst = max(stacks, key=lambda c: c.metrics["correct_loss_rate"].value)
    assert f"in {worst.condition.stack} on {worst.condition.perturbation} inputs" in text
    assert percent(worst.metrics["correct_loss_rate"].value) in text
    assert "safe" not in text
    assert "1 cell has no outcome" in text


def test_nothing_compared_is_a_report_too(drawn):
    bare = dataclasses.replace(drawn.results, comparisons=())
    assert "nothing is known yet" in report_page(bare)
    assert "nothing is known yet" in report_page(dataclasses.replace(bare, cells=(), failures=()))
    ET.fromstring(forest_svg(bare))


def test_forest_is_well_formed_and_true(drawn):
    root = ET.fromstring(forest_svg(drawn.results))
    circles = [e for e in root.iter("{http://www.w3.org/2000/svg}circle") if e.get("r") == "4"]
    drawn_points = 2 * len(drawn.results.comparisons) + 2
    assert len(circles) == drawn_points
    text = "".join(root.itertext())
    for c in drawn.results.comparisons:
        for name in ("divergence_ratio", "correct_loss_rate"):
            metric = c.metrics[name]
            assert f"{percent(metric.value)} {interval(metric)}" in text


def test_forest_names_are_escaped():
    results = draw(20, stacks=((HOSTILE, 0.2),)).results
    ET.fromstring(forest_svg(results))
    assert "<script>document" not in forest_page(results)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (-0.0001, "0.0"), (0.021, "+2.1"), (-0.021, "−2.1")]
)
def test_points_are_signed_unless_nil(value, shown):
    assert points(value) == shown


def test_numbers_never_show_a_negative_nought():
    assert number(-0.001) == "0.00"
    assert percent(1.0) == "100.0\u202f%"
