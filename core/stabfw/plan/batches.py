"""The frozen batch plan: which instances share a batch, the same for every stack."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stabfw.plan.datasets import Row

Batches = tuple[tuple[str, ...], ...]


def batch_plan(rows: Sequence[Row], size: int, repeat: int = 0) -> Batches:
    """Divide instances into batches by a rule that looks at nothing but the clean instances.

    The composition of a batch can change answers in half precision, so it is the same on both
    sides of a comparison. The largest inputs come first: what does not fit shows at once.

    Args:
        rows: The instances, in any order.
        size: Instances in a batch; the last one may be smaller.
        repeat: 0 for the plan proper, other numbers for other compositions of the same
            instances, which a noise floor is measured with.

    Returns:
        Instance ids, batch by batch.
    """
    order = sorted(rows, key=lambda row: (-row.pixels, -len(row.question), row.id))
    if repeat:
        order.sort(key=lambda row: row.id)
        random.Random(f"batch composition {repeat}").shuffle(order)
    ids = [row.id for row in order]
    return tuple(tuple(ids[start : start + size]) for start in range(0, len(ids), size))
