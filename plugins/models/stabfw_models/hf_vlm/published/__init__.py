"""Configs of published checkpoints, so that their sizes are known without a download.

Each folder holds what decides sizes and costs, as stated in the files of that name on the hub.
"""

from __future__ import annotations

from pathlib import Path

from stabfw_models.hf_vlm.files import Checkpoint

_HERE = Path(__file__).parent


def published(source: str) -> Checkpoint | None:
    """Find the config files of a hub id, or None if they are not here or it is a directory."""
    folder = _HERE / source.replace("/", "--", 1)
    if source not in published_ids() or Path(source).is_dir():
        return None
    return Checkpoint(folder, "", source)


def published_ids() -> list[str]:
    """The hub ids that are here, sorted."""
    return sorted(path.parent.name.replace("--", "/", 1) for path in _HERE.glob("*/config.json"))
