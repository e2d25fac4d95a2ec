"""Keeping what accelerators are fitted to apart from what is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stabfw.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stabfw.plan.datasets import Dataset, Row

# Of 256 bits. The same photograph, saved anew or at another size, differs in up to a dozen; two
# drawings of the same few shapes in forty.
_ALIKE = 16


def refuse_leak(chosen: Sequence[Row], evaluated: Sequence[Dataset]) -> None:
    """Refuse calibration data with a picture that is evaluated, or one that looks the same.

    The names of splits are not believed: many data sets were drawn from the same photographs.

    Args:
        chosen: What an accelerator is to be fitted to.
        evaluated: All that is evaluated.

    Raises:
        SpecError: If they share a picture; it names one.
    """
    seen = {image: d.name for d in evaluated for row in d.rows for image in row.images}
    leaked = [(row, seen[image]) for row in chosen for image in row.images if image in seen]
    how = "share an image with"
    if not leaked:
        leaked, how = _alike(chosen, evaluated), "have an image that looks like one of"
    if leaked:
        row, name = leaked[0]
        raise SpecError(
            f"calibration: {len({row.id for row, _ in leaked})} of {len(chosen)} instances {how} "
            f"the evaluated benchmark '{name}' (first: {row.question[:60]!r}); calibrate on "
            "another split, or answers are tested on what the accelerator was fitted to"
        )


def _alike(chosen: Sequence[Row], evaluated: Sequence[Dataset]) -> list[tuple[Row, str]]:
    ours = [(row, look) for row in chosen for look in row.looks]
    theirs = {look: d.name for d in evaluated for row in d.rows for look in row.looks}
    if not ours or not theirs:
        return []
    names, bits = list(theirs.values()), _bits(list(theirs))
    # A picture like a blank one is like all others of its kind.
    plain = np.bitwise_count(bits).sum(1) <= _ALIKE
    found = []
    for (row, _), own in zip(ours, _bits([look for _, look in ours]), strict=True):
        differing = np.bitwise_count(bits ^ own).sum(1) + 256 * plain
        if differing[nearest := int(differing.argmin())] <= _ALIKE:
            found.append((row, names[nearest]))
    return found


def _bits(looks: Sequence[str]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(looks)), np.uint64).reshape(len(looks), -1)
