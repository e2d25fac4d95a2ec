"""The integer table from which every rate of a pair of cells derives."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from .pairs import Pairs


@dataclass(frozen=True)
class Counts:
    """How many instances fall where; shards add up with ``+``.

    The letters are correctness before and after: ``n_ci`` is correct to incorrect. The six pair
    counts cover the pairs in which both sides produced output; together with the three missing
    counts they partition the planned instances. An unparseable answer is never correct, and a
    prediction that ended in an error is as unusable as a missing one. The rest are tallies that
    overlap with the partition.

    Attributes:
        n_cc_same: Correct on both sides, same answer.
        n_cc_diff: Correct on both sides, another answer (soft scores, several references).
        n_ci: Correct turned incorrect.
        n_ic: Incorrect turned correct.
        n_ii_same: Incorrect on both sides, same answer.
        n_ii_diff: Incorrect on both sides, another answer.
        n_missing_base: The baseline has no usable prediction.
        n_missing_variant_right: Baseline correct, variant without a usable prediction.
        n_missing_variant_wrong: Baseline incorrect, variant without a usable prediction.
        n_invalid_base: Unparseable baseline answers among the six.
        n_invalid_variant: Unparseable variant answers among the six.
        n_error_base: Baseline predictions that ended in an error.
        n_error_variant: Variant predictions that ended in an error.

    Example:
        >>> (Counts(n_cc_same=90, n_ci=10) + Counts(n_cc_same=100)).correct_loss_rate
        0.05
    """

    n_cc_same: int = 0
    n_cc_diff: int = 0
    n_ci: int = 0
    n_ic: int = 0
    n_ii_same: int = 0
    n_ii_diff: int = 0
    n_missing_base: int = 0
    n_missing_variant_right: int = 0
    n_missing_variant_wrong: int = 0
    n_invalid_base: int = 0
    n_invalid_variant: int = 0
    n_error_base: int = 0
    n_error_variant: int = 0

    @classmethod
    def of(cls, pairs: Pairs) -> Counts:
        """Count the pairs."""
        base, variant, valid = pairs.base, pairs.variant, pairs.valid
        before, after = base.correct & valid, variant.correct & valid
        changed = pairs.changed & valid
        alone = base.usable & ~valid

        def number(mask: NDArray[np.bool_]) -> int:
            return int(np.count_nonzero(mask))

        return cls(
            n_cc_same=number(before & after & ~changed),
            n_cc_diff=number(before & after & changed),
            n_ci=number(before & ~after),
            n_ic=number(~before & after),
            n_ii_same=number(valid & ~before & ~after & ~changed),
            n_ii_diff=number(~before & ~after & changed),
            n_missing_base=number(~base.usable),
            n_missing_variant_right=number(alone & base.correct),
            n_missing_variant_wrong=number(alone & ~base.correct),
            n_invalid_base=number(valid & ~base.ok),
            n_invalid_variant=number(valid & ~variant.ok),
            n_error_base=number(base.present & ~base.usable),
            n_error_variant=number(variant.present & ~variant.usable),
        )

    def __add__(self, other: Counts) -> Counts:
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def n(self) -> int:
        """Pairs in which both sides produced output; the denominator of most rates."""
        return self.n_base_correct + self.n_ic + self.n_ii_same + self.n_ii_diff

    @property
    def n_missing(self) -> int:
        """Planned instances that are not such a pair."""
        return self.n_missing_base + self.n_missing_variant_right + self.n_missing_variant_wrong

    @property
    def n_planned(self) -> int:
        """All instances: `n` plus `n_missing`."""
        return self.n + self.n_missing

    @property
    def n_base_correct(self) -> int:
        """Pairs the baseline gets right."""
        return self.n_cc_same + self.n_cc_diff + self.n_ci

    @property
    def n_variant_correct(self) -> int:
        """Pairs the variant gets right."""
        return self.n_cc_same + self.n_cc_diff + self.n_ic

    @property
    def n_changed(self) -> int:
        """Pairs whose answer differs."""
        return self.n_cc_diff + self.n_ci + self.n_ic + self.n_ii_diff

    @property
    def accuracy_base(self) -> float | None:
        """Share of pairs the baseline gets right; None without pairs, as for every rate here."""
        return _share(self.n_base_correct, self.n)

    @property
    def accuracy_variant(self) -> float | None:
        """Share of pairs the variant gets right."""
        return _share(self.n_variant_correct, self.n)

    @property
    def accuracy_delta(self) -> float | None:
        """Variant minus baseline accuracy."""
        return _share(self.n_ic - self.n_ci, self.n)

    @property
    def divergence_ratio(self) -> float | None:
        """Share of changed answers (DR in arXiv 2503.06794)."""
        return _share(self.n_changed, self.n)

    @property
    def negative_flip_rate(self) -> float | None:
        """Correct turned incorrect, over all pairs (Yan et al., CVPR 2021)."""
        return _share(self.n_ci, self.n)

    @property
    def positive_flip_rate(self) -> float | None:
        """Incorrect turned correct, over all pairs."""
        return _share(self.n_ic, self.n)

    @property
    def negative_share(self) -> float | None:
        """Share of the changes that hurt; None if nothing changed."""
        return _share(self.n_ci, self.n_changed)

    @property
    def correct_loss_rate(self) -> float | None:
        """Share of the baseline's correct answers lost."""
        return _share(self.n_ci, self.n_base_correct)

    @property
    def worst_case_loss_rate(self) -> float | None:
        """`correct_loss_rate` if every pair that could not be compared was a lost answer.

        A baseline without a prediction might have been correct, so it counts; a baseline known
        to be wrong has nothing to lose. Never below the complete-case rate.
        """
        lost = self.n_missing_base + self.n_missing_variant_right
        return _share(self.n_ci + lost, self.n_base_correct + lost)

    @property
    def flips(self) -> float | None:
        """Share of pairs whose correctness changed (Dutta et al., NeurIPS 2024)."""
        return _share(self.n_ci + self.n_ic, self.n)

    @property
    def wrong_churn(self) -> float | None:
        """Share of pairs that went from one wrong answer to another."""
        return _share(self.n_ii_diff, self.n)

    @property
    def invalid_rate_base(self) -> float | None:
        """Share of unparseable baseline answers."""
        return _share(self.n_invalid_base, self.n)

    @property
    def invalid_rate_variant(self) -> float | None:
        """Share of unparseable variant answers."""
        return _share(self.n_invalid_variant, self.n)

    @property
    def coverage(self) -> float | None:
        """Share of planned instances that could be compared."""
        return _share(self.n, self.n_planned)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
