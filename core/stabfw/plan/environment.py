"""Software and hardware that can change an answer, told without importing torch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow")


def environment(device: str) -> dict[str, str]:
    """Name the versions of the libraries and the hardware that a model on `device` runs with."""
    if device == "remote":
        return {"hardware": "unknown"}
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "hardware": _gpus() if device.startswith("cuda") else _cpu()}


def _gpus() -> str:
    names = {
        line.partition(":")[2].strip()
        for file in Path("/proc/driver/nvidia/gpus").glob("*/information")
        for line in file.read_text().splitlines()
        if line.startswith("Model:")
    }
    return ", ".join(sorted(names)) or "unknown GPU"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join([platform.machine(), *names[:1]])
