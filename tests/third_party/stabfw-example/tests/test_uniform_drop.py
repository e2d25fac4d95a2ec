"""What stabfw demands of `uniform-drop`, and what its own authors do."""

from __future__ import annotations

from types import SimpleNamespace

from stabfw.testing import BoundCheck, parametrize_with_checks
from stabfw_example.method import every_nth


@parametrize_with_checks([("accelerator", "uniform-drop", {"every": 4})])
def test_conformance(check: BoundCheck) -> None:
    check()


def test_every_third_token_is_kept() -> None:
    reduction = every_nth(3)(SimpleNamespace(visual_tokens=8))
    assert reduction.keep.tolist() == [0, 3, 6]
