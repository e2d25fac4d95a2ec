"""Join the outcomes of two cells, instance by instance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

ObjectArray = NDArray[np.object_]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

STATUSES = ("ok", "invalid", "empty", "truncated", "refusal", "error", "missing")
FLIP_KINDS = ("none", "negative", "positive", "wrong_churn", "right_churn")
FLIP_CAUSES = ("semantic", "format", "truncation", "error")


class PairingError(ValueError):
    """Two outcome tables cannot be joined without guessing."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One cell's outcomes, one row per instance, in any order.

    A planned instance without a prediction is a row with status ``missing``, so that it still
    counts in the coverage. Use `from_columns` to build one from plain sequences.

    Attributes:
        instance_id: Unique keys, shape ``(n,)``; sortable and hashable, normally strings.
        cluster: What the instance shares with others (its image), shape ``(n,)``.
        input_hash: Hash of what the model was shown, or None when nobody recorded it; single
            rows may be None as well. Rows without a hash are joined unverified.
        answer: Parsed answers, None where there is none. Values must be equal to themselves.
        text: Raw generated text.
        status: One of `STATUSES`.
        correct: Whether the official scorer accepts the answer.
        score: The scorer's points, NaN if unknown.
        margin: Log-probability gap (nats) between the two best first tokens, NaN if unknown.
        slices: Named groupings, each of shape ``(n,)``; None where a row has no level.
        extras: What else was recorded, each of shape ``(n,)`` or ``(n, k)``; NaN if unknown.

    Raises:
        ValueError: Columns differ in length, or a status is unknown.
    """

    instance_id: ObjectArray
    cluster: ObjectArray
    input_hash: ObjectArray | None
    answer: ObjectArray
    text: ObjectArray
    status: ObjectArray
    correct: BoolArray
    score: FloatArray
    margin: FloatArray
    slices: Mapping[str, ObjectArray] = field(default_factory=dict)
    extras: Mapping[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_lengths(self)
        unknown = set(self.status.tolist()) - set(STATUSES)
        if unknown:
            raise ValueError(f"unknown status {sorted(map(repr, unknown))}; use one of {STATUSES}")

    def __len__(self) -> int:
        return len(self.instance_id)

    @cached_property
    def usable(self) -> BoolArray:
        """Where the model produced output: neither missing nor an error."""
        return _usable(self.status)

    def select(self, mask: BoolArray) -> Outcomes:
        """Return the rows that a mask picks."""
        return Outcomes(**_selected(self, mask))

    @classmethod
    def from_columns(
        cls,
        instance_id: Sequence[Any] | NDArray[Any],
        *,
        answer: Sequence[Any] | NDArray[Any],
        correct: Sequence[bool] | NDArray[Any],
        cluster: Sequence[Any] | NDArray[Any] | None = None,
        input_hash: Sequence[Any] | NDArray[Any] | None = None,
        text: Sequence[Any] | NDArray[Any] | None = None,
        status: Sequence[str] | NDArray[Any] | None = None,
        score: Sequence[float] | NDArray[Any] | None = None,
        margin: Sequence[float] | NDArray[Any] | None = None,
        slices: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    ) -> Outcomes:
        """Build a table from sequences, filling in what was not recorded.

        Defaults: every instance its own cluster, the text is the answer, every status is ``ok``,
        the score is 1.0 where correct and else 0.0, the margin is unknown.

        Example:
            >>> len(Outcomes.from_columns(["q1"], answer=["A"], correct=[True]))
            1
        """
        n = len(instance_id)
        right = np.asarray(correct, dtype=np.bool_)
        return cls(
            instance_id=_objects(instance_id),
            cluster=_objects(instance_id if cluster is None else cluster),
            input_hash=None if input_hash is None else _objects(input_hash),
            answer=_objects(answer),
            text=_objects(answer if text is None else text),
            status=_objects(["ok"] * n if status is None else status),
            correct=right,
            score=np.asarray(right if score is None else score, dtype=np.float64),
            margin=np.full(n, np.nan) if margin is None else np.asarray(margin, dtype=np.float64),
            slices={name: _objects(column) for name, column in (slices or {}).items()},
        )

    @classmethod
    def concat(cls, shards: Sequence[Outcomes]) -> Outcomes:
        """Put shards of one cell together; they must have the same slices and extras.

        Raises:
            ValueError: There is no shard, or the shards have different slices or extras.
        """
        if not shards:
            raise ValueError("no shard to concatenate")
        if any(shard.slices.keys() != shards[0].slices.keys() for shard in shards):
            raise ValueError("the shards have different slices")
        if any(shard.extras.keys() != shards[0].extras.keys() for shard in shards):
            raise ValueError("the shards have different extras")
        hashes = [
            np.full(len(s), None, dtype=object) if s.input_hash is None else s.input_hash
            for s in shards
        ]
        return cls(
            instance_id=np.concatenate([s.instance_id for s in shards]),
            cluster=np.concatenate([s.cluster for s in shards]),
            input_hash=np.concatenate(hashes),
            answer=np.concatenate([s.answer for s in shards]),
            text=np.concatenate([s.text for s in shards]),
            status=np.concatenate([s.status for s in shards]),
            correct=np.concatenate([s.correct for s in shards]),
            score=np.concatenate([s.score for s in shards]),
            margin=np.concatenate([s.margin for s in shards]),
            slices={k: np.concatenate([s.slices[k] for s in shards]) for k in shards[0].slices},
            extras={k: np.concatenate([s.extras[k] for s in shards]) for k in shards[0].extras},
        )


@dataclass(frozen=True, eq=False)
class Side:
    """One cell's outcomes as aligned columns, each of shape ``(n,)``.

    Attributes:
        answer: Parsed answers, None where there is none.
        text: Raw generated text.
        status: One of `STATUSES`; ``missing`` where no prediction exists.
        correct: Never True unless the status is ``ok``.
        score: Scorer's points, NaN if unknown.
        margin: First-token log-probability gap (nats), NaN if unknown.
        extras: What else was recorded, by name; of shape ``(n, k)`` where it is several numbers.
            NaN if unknown.

    Raises:
        ValueError: Columns differ in length, or an answer that is not ok is marked correct.
    """

    answer: ObjectArray
    text: ObjectArray
    status: ObjectArray
    correct: BoolArray
    score: FloatArray
    margin: FloatArray
    extras: Mapping[str, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_lengths(self)
        if np.any(self.correct & ~self.ok):
            raise ValueError("an answer whose status is not 'ok' is marked correct")

    def __len__(self) -> int:
        return len(self.answer)

    @cached_property
    def ok(self) -> BoolArray:
        """Where the answer was understood."""
        return _equals(self.status, "ok")

    @cached_property
    def present(self) -> BoolArray:
        """Where a prediction exists, failed or not."""
        return ~_equals(self.status, "missing")

    @cached_property
    def usable(self) -> BoolArray:
        """Where the model produced output: neither missing nor an error."""
        return _usable(self.status)

    def select(self, mask: BoolArray | IntArray) -> Side:
        """Return the rows that a mask or an index array picks."""
        return Side(**_selected(self, mask))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Baseline and variant of the same instances, sorted by instance id.

    Attributes:
        instance_id: Shape ``(n,)``.
        cluster: Shape ``(n,)``; rows with the same label are not independent.
        base: The reference cell.
        variant: The cell under test.
        slices: Named groupings, each of shape ``(n,)``.

    Raises:
        ValueError: Columns differ in length.
    """

    instance_id: ObjectArray
    cluster: ObjectArray
    base: Side
    variant: Side
    slices: Mapping[str, ObjectArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_lengths(self)

    def __len__(self) -> int:
        return len(self.instance_id)

    def select(self, mask: BoolArray | IntArray) -> Pairs:
        """Return the rows that a mask or an index array picks."""
        return Pairs(
            instance_id=self.instance_id[mask],
            cluster=self.cluster[mask],
            base=self.base.select(mask),
            variant=self.variant.select(mask),
            slices={name: column[mask] for name, column in self.slices.items()},
        )

    @cached_property
    def valid(self) -> BoolArray:
        """Where both sides produced output, parseable or not; the rates are taken over these."""
        return self.base.usable & self.variant.usable

    @cached_property
    def changed(self) -> BoolArray:
        """Where the user sees another answer.

        Both ok: the parsed answers differ. Neither ok: the raw texts differ. One of them ok:
        always. An answer that the scorer judges differently counts as changed too, so that
        every correctness flip is a divergence. False where a prediction is missing: nothing is
        known there.
        """
        base, variant = self.base, self.variant
        changed: BoolArray = base.ok != variant.ok
        for rows, left, right in (
            (np.flatnonzero(base.ok & variant.ok), base.answer, variant.answer),
            (np.flatnonzero(~base.ok & ~variant.ok), base.text, variant.text),
        ):
            changed[rows] = np.asarray(left[rows] != right[rows], dtype=np.bool_)
        changed |= base.correct != variant.correct
        changed &= base.present & variant.present
        return changed

    @cached_property
    def kind(self) -> NDArray[np.str_]:
        """What a change did to correctness, one of `FLIP_KINDS` per row."""
        before, after = self.base.correct, self.variant.correct
        kinds = np.select(
            [~self.changed, before & ~after, ~before & after, ~before & ~after],
            list(FLIP_KINDS[:4]),
            FLIP_KINDS[4],
        )
        return kinds.astype(np.str_)

    @cached_property
    def cause(self) -> NDArray[np.str_]:
        """Why an answer changed, one of `FLIP_CAUSES` per row; ``none`` where it did not.

        ``error`` and ``truncation`` when they befell either side; ``format`` when an answer
        could not be parsed or was empty on either side; else ``semantic``. A refusal is an
        understood answer that no parser can repair, so it is semantic. Errors are in no rate.
        """

        def either(*statuses: str) -> BoolArray:
            hit = np.zeros(len(self), dtype=np.bool_)
            for status in statuses:
                hit |= _equals(self.base.status, status) | _equals(self.variant.status, status)
            return hit

        causes = np.select(
            [~self.changed, either("error"), either("truncated"), either("invalid", "empty")],
            ["none", "error", "truncation", "format"],
            "semantic",
        )
        return causes.astype(np.str_)

    @cached_property
    def cluster_codes(self) -> IntArray:
        """Cluster labels as integers from 0, in order of first appearance; shape ``(n,)``."""
        return factorize(self.cluster)


def pair(base: Outcomes, variant: Outcomes, *, same_input: bool = True) -> Pairs:
    """Join two tables on the instance id, never on position.

    Every instance of either table is kept; where one has no row its status is ``missing``. An
    answer that is not ok is never correct and scores 0, whatever the tables say.

    Args:
        base: The reference cell.
        variant: The cell under test.
        same_input: Refuse instances whose input hashes differ. Switch off only to compare one
            model's answers on clean and on perturbed inputs.

    Returns:
        One row per instance, sorted by instance id; independent of the order of the inputs.

    Raises:
        PairingError: An id occurs twice in a table, or an instance has two clusters or two
            input hashes.

    Example:
        >>> a = Outcomes.from_columns(["q1", "q2"], answer=["A", "B"], correct=[True, False])
        >>> b = Outcomes.from_columns(["q2", "q1"], answer=["B", "A"], correct=[False, True])
        >>> pair(a, b).changed.tolist()
        [False, False]
    """
    base_row = _row_of(base, "baseline")
    variant_row = _row_of(variant, "variant")
    ids = sorted(base_row.keys() | variant_row.keys())
    left = _rows(base_row, ids)
    right = _rows(variant_row, ids)
    both = (left >= 0) & (right >= 0)

    def merge(ours: ObjectArray | None, theirs: ObjectArray | None) -> ObjectArray:
        merged = np.full(len(ids), None, dtype=object)
        for column, rows in ((theirs, right), (ours, left)):
            if column is not None:
                merged[rows >= 0] = column[rows[rows >= 0]]
        return merged

    _refuse_mismatch(ids, both, base.cluster, left, variant.cluster, right, "cluster")
    base_side = _side(base, left)
    variant_side = _side(variant, right)
    if same_input and base.input_hash is not None and variant.input_hash is not None:
        ran = base_side.present & variant_side.present
        _refuse_mismatch(ids, ran, base.input_hash, left, variant.input_hash, right, "input_hash")
    return Pairs(
        instance_id=_objects(ids),
        cluster=merge(base.cluster, variant.cluster),
        base=base_side,
        variant=variant_side,
        slices={
            name: merge(base.slices.get(name), variant.slices.get(name))
            for name in dict.fromkeys([*base.slices, *variant.slices])
        },
    )


def factorize(labels: NDArray[Any]) -> IntArray:
    """Number the labels from 0 in order of first appearance.

    Args:
        labels: Hashable labels, shape ``(n,)``.

    Returns:
        Codes of shape ``(n,)``.

    Example:
        >>> factorize(np.array(["b", "a", "b"])).tolist()
        [0, 1, 0]
    """
    code_of: defaultdict[Any, int] = defaultdict()
    code_of.default_factory = code_of.__len__
    codes = map(code_of.__getitem__, labels.tolist())
    return np.fromiter(codes, dtype=np.int64, count=len(labels))


def locate(wanted: ObjectArray, ids: ObjectArray) -> IntArray:
    """Return the row of each wanted id in ``ids``, -1 where it is absent."""
    if len(wanted) == len(ids) and bool(np.all(wanted == ids)):
        return np.arange(len(ids), dtype=np.int64)
    row_of = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    return _rows(row_of, wanted.tolist())


def _objects(values: Sequence[Any] | NDArray[Any]) -> ObjectArray:
    # np.array would unpack answers that are themselves tuples or lists.
    items = values.tolist() if isinstance(values, np.ndarray) else values
    return np.fromiter(items, dtype=object, count=len(items))


def _equals(column: ObjectArray, value: str) -> BoolArray:
    return np.asarray(column == value, dtype=np.bool_)


def _usable(status: ObjectArray) -> BoolArray:
    return ~(_equals(status, "missing") | _equals(status, "error"))


def _selected(table: Outcomes | Side, mask: BoolArray | IntArray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(table):
        column = getattr(table, item.name)
        if isinstance(column, Mapping):
            found[item.name] = {name: values[mask] for name, values in column.items()}
        else:
            found[item.name] = None if column is None else column[mask]
    return found


def _check_lengths(table: Outcomes | Side | Pairs) -> None:
    lengths: dict[str, int] = {}
    for item in fields(table):
        column = getattr(table, item.name)
        if isinstance(column, Mapping):
            lengths.update({f"{item.name}[{name!r}]": len(c) for name, c in column.items()})
        elif column is not None:
            lengths[item.name] = len(column)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{type(table).__name__} columns differ in length: {lengths}")


def _row_of(table: Outcomes, name: str) -> dict[Any, int]:
    ids = table.instance_id.tolist()
    row_of = dict(zip(ids, range(len(ids)), strict=True))
    if len(row_of) < len(ids):
        twice = [key for row, key in enumerate(ids) if row_of[key] != row]
        raise PairingError(f"duplicate instance_id in the {name} table: {_first(twice)}")
    return row_of


def _rows(row_of: Mapping[Any, int], ids: Sequence[Any]) -> IntArray:
    return np.fromiter(map(row_of.get, ids, repeat(-1)), dtype=np.int64, count=len(ids))


def _refuse_mismatch(
    ids: Sequence[Any],
    both: BoolArray,
    ours: ObjectArray,
    left: IntArray,
    theirs: ObjectArray,
    right: IntArray,
    column: str,
) -> None:
    rows = np.flatnonzero(both)
    a, b = ours[left[rows]], theirs[right[rows]]
    bad = [
        ids[rows[i]]
        for i in np.flatnonzero(a != b)
        if column != "input_hash" or (a[i] is not None and b[i] is not None)
    ]
    if bad:
        raise PairingError(f"{column} differs between baseline and variant for {_first(bad)}")


def _first(ids: Sequence[Any], limit: int = 5) -> str:
    shown = ", ".join(repr(key) for key in ids[:limit])
    return f"{shown} and {len(ids) - limit} more" if len(ids) > limit else shown


def _side(table: Outcomes, rows: IntArray) -> Side:
    found = rows >= 0
    taken = rows[found]

    def column(values: NDArray[Any], fill: Any) -> NDArray[Any]:
        filled = np.full((len(rows), *values.shape[1:]), fill, dtype=values.dtype)
        filled[found] = values[taken]
        return filled

    # A fixed-width string array could not hold "missing".
    status = column(table.status.astype(object), "missing")
    ok = _equals(status, "ok")
    return Side(
        answer=column(table.answer, None),
        text=column(table.text, ""),
        status=status,
        correct=column(table.correct, False) & ok,
        score=np.where(ok, column(table.score, np.nan), 0.0),
        margin=column(table.margin, np.nan),
        extras={name: column(values, np.nan) for name, values in table.extras.items()},
    )
