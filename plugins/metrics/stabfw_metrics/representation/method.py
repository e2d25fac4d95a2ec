"""Spectra of visual features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from stabfw.components import LoadedModel, Recording
from stabfw.components.patch import Patch
from stabfw.components.visual_states import watch_visual_states

Numbers = NDArray[np.float64]


def record_spectra(model: LoadedModel, sites: Sequence[str], kept: int, patch: Patch) -> Recording:
    """Record the spectra of visual tokens before the first layer and behind the last one.

    Args:
        model: The model; it must have an anatomy.
        sites: What the two places are called.
        kept: How many of the largest shares are kept.
        patch: Ends it.
    """
    anatomy = model.anatomy
    depths = (0, len(anatomy.layers) if anatomy is not None else 0)
    take = watch_visual_states(model, depths, patch)

    def recorded() -> Mapping[str, Mapping[str, Numbers]]:
        return {
            instance_id: {
                f"{site}.{name}": numbers
                for site, depth in zip(sites, depths, strict=True)
                for name, numbers in summary(singular_values(states[depth]), kept).items()
            }
            for instance_id, states in take().items()
        }

    return recorded


def singular_values(features: torch.Tensor) -> Numbers:
    """Singular values of a matrix, largest first.

    They are roots of the eigenvalues of the smaller Gram matrix, in double precision: right to
    about 1e-8 of the largest one, which is more than features in single precision tell.

    Args:
        features: Of shape (tokens, size).

    Returns:
        As many values as the smaller side has; none of a matrix with numbers that are not finite.
    """
    points = features.double()
    if not bool(points.isfinite().all()):
        return np.zeros(0)
    short = points if points.shape[0] <= points.shape[1] else points.T
    values: Numbers = torch.linalg.eigvalsh(short @ short.T).clamp(min=0).sqrt().cpu().numpy()
    return values[::-1]


def summary(values: Numbers, kept: int) -> dict[str, Numbers]:
    """Sum up a spectrum.

    Args:
        values: Singular values, largest first.
        kept: How many shares are kept.

    Returns:
        `spectrum`, the largest shares s_j² / Σ s², of shape (kept,), 0 where there are fewer;
        `energy`, Σ s²; `ipr`, Σ p_j²; `effective_rank`, exp of the entropy of s_j / Σ s. All NaN
        where there is nothing but zeros.
    """
    energy = float(np.square(values).sum())
    if not energy > 0:
        unknown = np.full(1, np.nan)
        return {
            "spectrum": np.full(kept, np.nan),
            **dict.fromkeys(("energy", "ipr", "effective_rank"), unknown),
        }
    shares = np.square(values) / energy
    spectrum = np.zeros(kept)
    spectrum[: len(shares)] = shares[:kept]
    plain = values[values > 0] / values.sum()
    return {
        "spectrum": spectrum,
        "energy": np.array([energy]),
        "ipr": np.array([np.square(shares).sum()]),
        "effective_rank": np.array([np.exp(-(plain * np.log(plain)).sum())]),
    }
