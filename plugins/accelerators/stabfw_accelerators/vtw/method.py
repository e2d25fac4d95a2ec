"""The selection rule of VTW."""

from __future__ import annotations

import torch
from stabfw.components.reduction import Context, Reduction


def nothing(context: Context) -> Reduction:
    """Keep no visual token."""
    return Reduction(torch.empty(0, dtype=torch.long))
