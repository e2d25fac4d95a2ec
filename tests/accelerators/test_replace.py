"""`replace` keeps to the contracts with a checkpoint that really is another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from stabfw.testing import run_checks
from stabfw_models.tiny import WEIGHTS


def test_it_keeps_to_the_contracts(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(WEIGHTS / "tiny-llava", other)
    weights = load_file(other / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    for name, tensor in weights.items():
        if name.endswith("mlp.down_proj.weight"):
            weights[name] = tensor + 0.01 * torch.randn(tensor.shape, generator=noise).to(tensor)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    results = run_checks("accelerator", "replace", {"source": str(other)})
    assert [r for r in results if not r.status.good] == []
    assert sum(result.status == "ok" for result in results) > 8
