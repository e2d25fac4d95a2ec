"""How far a perturbation went is measured right, once, and told with the results."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stabfw.components import Image, Prompt
from stabfw.execute.strength import edit_distance, ssim, strength
from stabfw.experiment import run
from stabfw.plan import Role
from stabfw.registry import Registry
from stabfw.report.instances import read_instances
from stabfw.report.layout import INSTANCES, cell_directory
from stabfw.spec import ExperimentSpec

Make = Callable[..., ExperimentSpec]
words = st.text(alphabet="abc", max_size=8)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[100:324, 200:424])


def asked(*pictures: np.ndarray, text: str = "What is it?") -> Prompt:
    return Prompt("q", tuple(map(Image.from_pixels, pictures)), text)


@pytest.mark.parametrize(
    ("change", "likeness", "psnr"),
    [
        (lambda a: a // 2 + 60, 0.837777, 15.986798),
        (lambda a: a[:, ::-1], 0.057500, 5.438824),
        (lambda a: np.roll(a, 1, 1), 0.623099, 17.275591),
        (lambda a: a // 64 * 64, 0.777697, 16.638769),
    ],
)
def test_as_scikit_image_has_it(
    photo: np.ndarray, change: Callable[[np.ndarray], np.ndarray], likeness: float, psnr: float
) -> None:
    """As scikit-image 0.26.0 with gaussian_weights, sigma 1.5, without sample covariance."""
    found = strength(asked(photo), asked(change(photo)))
    assert found.ssim == pytest.approx(likeness, abs=1e-6)
    assert found.psnr == pytest.approx(psnr, abs=1e-4)
    assert found.edits == 0


def test_what_did_not_change_has_no_strength(photo: np.ndarray) -> None:
    found = strength(asked(photo), asked(photo, text="What is that?"))
    assert (found.psnr, found.ssim) == (None, None)
    assert found.edits == edit_distance("is it", "is that")


def test_several_pictures_are_averaged(photo: np.ndarray) -> None:
    one = strength(asked(photo), asked(photo // 2 + 60))
    two = strength(asked(photo, photo), asked(photo // 2 + 60, photo))
    assert one.psnr is not None
    assert one.ssim is not None
    assert two.psnr == pytest.approx(one.psnr + 10 * np.log10(2))
    assert two.ssim == pytest.approx((one.ssim + 1) / 2)


def test_another_size_is_brought_to_the_original_one(photo: np.ndarray) -> None:
    halved = photo[::2, ::2]
    found = strength(asked(photo), asked(halved))
    assert found.psnr is not None
    assert 12 < found.psnr < 25


@pytest.mark.parametrize("shape", [(3, 3), (10, 200), (11, 11)])
def test_small_pictures_have_a_likeness(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert ssim(pixels, pixels) == pytest.approx(1)
    assert ssim(pixels, 255 - pixels) < 0.9


def slow_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


@given(st.text(alphabet="abc", max_size=5), st.text(alphabet="abc", max_size=5))
def test_edit_distance_is_the_least(a: str, b: str) -> None:
    assert edit_distance(a, b) == slow_distance(a, b)


@given(words, words, words)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_long_texts_take_no_time() -> None:
    a, b = "ab" * 50_000, "ba" * 50_000
    assert edit_distance(a, b) > 0
    assert edit_distance("x" + a, a) > 0


def test_it_is_told_with_the_results(make_spec: Make, registry: Registry) -> None:
    spec = make_spec(
        models=["tiny-llava"],
        benchmarks=[{"type": "shapes", "limit": 6}],
        stacks={"pool": ["pool"]},
        controls={"noise_floor": None},
        perturbations=[
            {"type": "gaussian-noise", "severity": 2},
            {"type": "typos", "rate": 1},
            [{"type": "gaussian-noise", "severity": 2}, {"type": "typos", "rate": 1}],
        ],
    )
    done = run(spec, registry=registry)
    assert not done.results.failures
    told = {
        (cell.condition.perturbation, cell.condition.role): {
            name for name in cell.facts if name.startswith("perturbation_")
        }
        for cell in done.results.cells
    }
    pictures = {"perturbation_psnr_db", "perturbation_ssim"}
    expected = [set(), pictures, {"perturbation_edits"}, pictures | {"perturbation_edits"}]
    names = list(dict.fromkeys(name for name, _ in told))
    assert [told[name, Role.BASELINE] for name in names] == expected
    assert not any(told[at] for at in told if at[1] is not Role.BASELINE)
    noise = next(c for c in done.results.cells if c.condition.perturbation == names[1] and c.facts)
    psnr = noise.facts["perturbation_psnr_db"]
    # 20 log10(1 / 0.12) without clipping, which takes much away on a light ground.
    assert isinstance(psnr, float)
    assert 18.4 < psnr < 24
    for comparison in done.results.comparisons:
        rows = read_instances(cell_directory(done.directory, comparison.condition) / INSTANCES)
        place = names.index(comparison.condition.perturbation)
        for row in rows:
            assert (row.strength is not None) == (place > 0)
            if row.strength is not None:
                assert (row.strength.psnr is not None) == (place in (1, 3))
                assert (row.strength.edits > 0) == (place in (2, 3))
    assert "perturbation_psnr_db" in (done.directory / "report.html").read_text()
    json.dumps([dict(cell.facts) for cell in done.results.cells])
