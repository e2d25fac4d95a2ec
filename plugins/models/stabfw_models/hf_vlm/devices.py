"""Choose device, dtype and threads before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_GPUS = (("/proc/driver/nvidia/gpus", "*"), ("/dev", "nvidia[0-9]*"))


def resolve_device(asked: str) -> str:
    """Turn `auto` into `cuda` where an NVIDIA GPU and a CUDA build of torch are found, else `cpu`.

    Torch would have to be imported to ask it, so the driver's files and the version of the
    installed torch are read instead. Loading checks that the guess was right.
    """
    if asked != "auto":
        return asked
    return "cuda" if _gpu_visible() and _torch_has_cuda() else "cpu"


def resolve_dtype(asked: str, config: Mapping[str, Any], device: str) -> str:
    """Turn `auto` into the checkpoint's own dtype on a GPU and into `float32` on the CPU.

    Half precision is emulated slowly by most CPUs and makes answers depend on the batch.
    """
    if asked != "auto":
        return asked
    return "float32" if device == "cpu" else stated_dtype(config)


def stated_dtype(config: Mapping[str, Any]) -> str:
    """Read the dtype of a checkpoint's weights from its config."""
    text = config.get("text_config") or {}
    stated = [part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")]
    return next((str(name).removeprefix("torch.") for name in stated if name), "float32")


def resolve_threads(asked: int | None) -> int:
    """Take the number of CPU threads as asked, else from OMP_NUM_THREADS, else 1."""
    if asked is not None:
        return asked
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) > 0 else 1


def free_memory() -> int | None:
    """Bytes of main memory that can still be used, None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    available = told.get("MemAvailable", "").split()
    return 1024 * int(available[0]) if available else None


def _gpu_visible() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(next(Path(folder).glob(pattern), None) for folder, pattern in _GPUS)


def _torch_has_cuda() -> bool:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
    return not version.endswith("+cpu")
