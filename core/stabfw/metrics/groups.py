"""Stability of groups of instances: a group is right only if every instance of it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .pairs import BoolArray, IntArray, ObjectArray, Pairs, Side
from .stability import MetricValue, noise_floor, stability_metrics

GROUP_METRICS = ("accuracy_base", "accuracy_delta", "correct_loss_rate")


def by_group(pairs: Pairs, groups: Mapping[Any, str]) -> Pairs:
    """Make one pair of each group of instances.

    A side is right about a group if it is right about every instance of it. A group whose
    instances were not all answered is missing on that side. Groups that share a cluster with one
    another, also by way of a third, are in one cluster.

    Args:
        pairs: The joined cells.
        groups: Group by instance id; instances without one, or with an empty one, are left out.

    Returns:
        One row per group, sorted by its name.

    Example:
        >>> from stabfw.metrics import Outcomes, pair
        >>> a = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, True])
        >>> b = Outcomes.from_columns(["q1", "q2"], answer=["A", "C"], correct=[True, False])
        >>> found = by_group(pair(a, b), {"q1": "g", "q2": "g"})
        >>> found.base.correct.tolist(), found.variant.correct.tolist()
        ([True], [False])
    """
    of = np.array([groups.get(name, "") for name in pairs.instance_id.tolist()], dtype=object)
    rows = pairs.select(np.asarray(of != "", dtype=np.bool_))
    names, codes = np.unique(of[of != ""].astype(np.str_), return_inverse=True)
    return Pairs(
        instance_id=names.astype(object),
        cluster=_clusters(rows.cluster_codes, codes, len(names)),
        base=_side(rows.base, codes, len(names)),
        variant=_side(rows.variant, codes, len(names)),
    )


def group_metrics(
    pairs: Pairs, groups: Mapping[Any, str], confidence: float = 0.95
) -> dict[str, MetricValue]:
    """Return accuracy, its change and the loss of right answers, each over whole groups.

    Args:
        pairs: The joined cells.
        groups: Group by instance id, as for `by_group`.
        confidence: Two-sided coverage of the intervals.

    Returns:
        `group_accuracy_base`, `group_accuracy_delta` and `group_correct_loss_rate`; nothing where
        no instance is in a group.
    """
    if not any(groups.values()):
        return {}
    return _named(stability_metrics(by_group(pairs, groups), confidence, resamples=0))


def group_floor(
    repeats: Sequence[Pairs], groups: Mapping[Any, str], confidence: float = 0.95
) -> dict[str, MetricValue]:
    """Return the same of a baseline against its own repeats.

    Args:
        repeats: One `Pairs` of (baseline, baseline again) per repeat.
        groups: Group by instance id, as for `by_group`.
        confidence: Two-sided coverage of the intervals.

    Raises:
        ValueError: There is no repeat.
    """
    if not any(groups.values()):
        return {}
    return _named(noise_floor([by_group(p, groups) for p in repeats], confidence, resamples=0))


def _named(values: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    return {f"group_{name}": replace(values[name], name=f"group_{name}") for name in GROUP_METRICS}


def _side(side: Side, codes: IntArray, n: int) -> Side:
    usable = _all(side.usable, codes, n)
    # What was answered in full is understood as a whole, be it right or not.
    status = np.where(usable, "ok", "missing").astype(object)
    right = usable & _all(side.correct, codes, n)
    return Side(
        answer=np.where(right, "right", "not right").astype(object),
        text=np.full(n, "", dtype=object),
        status=status,
        correct=right,
        score=right.astype(np.float64),
        margin=np.full(n, np.nan),
    )


def _all(flags: BoolArray, codes: IntArray, n: int) -> BoolArray:
    return np.asarray(np.bincount(codes, weights=~flags, minlength=n) == 0, dtype=np.bool_)


def _clusters(clusters: IntArray, codes: IntArray, n: int) -> ObjectArray:
    """Join the clusters that groups touch: components of the graph of groups and clusters."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = n + int(clusters.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(codes)), (codes, n + clusters)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    labels: ObjectArray = component[:n].astype(object)
    return labels
