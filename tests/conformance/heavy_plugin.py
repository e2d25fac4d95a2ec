"""A healthy accelerator in a module that imports torch."""

from __future__ import annotations

import torch
from stabfw.components import Kind
from toys import Scale, plugin

assert torch.__version__

offer_heavy = plugin(Kind.ACCELERATOR, "heavy", Scale)
