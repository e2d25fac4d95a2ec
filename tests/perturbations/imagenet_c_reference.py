"""Figures of the public corruption package (imagecorruptions), which ours have to agree with.

    pip install imagecorruptions-imaug scikit-learn
    python imagenet_c_reference.py

writes them to imagenet_c_reference.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
#: Corruptions that have one random direction or one cloud a picture, so that many are averaged.
VARIED = frozenset({"motion-blur", "snow", "fog", "elastic-transform"})

Corrupt = Callable[[np.ndarray, int, int], np.ndarray]


@cache
def photo() -> np.ndarray:
    """A photograph of 224 x 224 pixels: part of scikit-learn's `china.jpg`."""
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[100:324, 200:424])


def figures(name: str, corrupt: Corrupt) -> list[list[float]]:
    """Return for severities 1 to 5 what `corrupt(pixels, severity, seed)` does to the photograph.

    Returns:
        Mean absolute difference, root mean square difference, mean and standard deviation of the
        result, in levels of 255, averaged over seeds.
    """
    found = []
    for severity in range(1, 6):
        rows = []
        for seed in range(16 if name in VARIED else 2):
            changed = corrupt(photo(), severity, seed).astype(float)
            error = changed - photo()
            rows.append(
                [np.abs(error).mean(), np.sqrt((error**2).mean()), changed.mean(), changed.std()]
            )
        found.append([round(float(value), 2) for value in np.mean(rows, axis=0)])
    return found


def public(name: str) -> Corrupt:
    """Return a corruption of imagecorruptions, by our name."""
    import imagecorruptions

    def corrupt(pixels: np.ndarray, severity: int, seed: int) -> np.ndarray:
        np.random.seed(seed)
        corruption = name.replace("-", "_")
        return imagecorruptions.corrupt(pixels, corruption_name=corruption, severity=severity)

    return corrupt


if __name__ == "__main__":
    from imagecorruptions import get_corruption_names

    ours = sorted(
        name.replace("_", "-")
        for name in get_corruption_names("all")
        if name not in ("frost", "spatter")
    )
    rows = ",\n".join(f'"{name}": {json.dumps(figures(name, public(name)))}' for name in ours)
    FILE.write_text("{\n" + rows + "\n}\n")
