"""Trained decision modules at rest: a safetensors file with what they were made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabfw.components import Artefact, LoadedModel, ModelInfo
from stabfw.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    from stabfw_accelerators.lvpruning.decision import Decision

WEIGHTS = Path(__file__).parent / "weights"


def named(path: Path) -> Artefact:
    """Read modules that a user names.

    Raises:
        DataError: If the file cannot be read or holds no such modules.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"lvpruning: cannot read `weights: {path}`: {error.strerror}") from error
    about(data, str(path))
    return Artefact(data)


def shipped(info: ModelInfo, layers: Sequence[int], heads: int) -> Artefact | None:
    """Find modules among those that come along: for exactly these weights, layers and heads."""
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        data = path.read_bytes()
        known = about(data, str(path))
        wanted = {"model": identity(info), "layers": list(layers), "heads": heads}
        if {name: known.get(name) for name in wanted} == wanted:
            return Artefact(data)
    return None


def identity(info: ModelInfo) -> str:
    """One hash of a model's weight files; empty if they are not known."""
    files = sorted(d for name, d in info.weights.items() if name.endswith(".safetensors"))
    return hashlib.sha256("".join(files).encode()).hexdigest() if files else ""


def about(data: bytes, where: str) -> Mapping[str, Any]:
    """Read what modules were made for.

    Args:
        data: A safetensors file.
        where: What to call it in a message.

    Raises:
        DataError: If it is none, or not of such modules.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        known: Mapping[str, Any] = json.loads(header["__metadata__"]["lvpruning"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{where}: not a file of LVPruning's modules; `stabfw fit` makes one"
        ) from error
    return known


def dump(modules: Mapping[int, Decision], info: ModelInfo, made_by: Mapping[str, Any]) -> bytes:
    """Write modules, by the layer before which they decide, in half precision.

    Args:
        modules: The modules.
        info: The model for which they were trained.
        made_by: How they were trained.
    """
    from safetensors.torch import save

    tensors = {
        f"{layer}.{name}": tensor.detach().half().cpu().contiguous()
        for layer, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    heads = {block.heads for module in modules.values() for block in module.blocks}
    told = {
        "family": info.family,
        "model": identity(info),
        "layers": sorted(modules),
        "heads": heads.pop(),
        "training": dict(made_by),
    }
    written: bytes = save(tensors, {"lvpruning": json.dumps(told, sort_keys=True)})
    return written


def load(data: bytes, model: LoadedModel, layers: Sequence[int]) -> Mapping[int, Decision]:
    """Make modules out of their file, on the devices of their layers.

    Raises:
        UnsupportedError: If they decide before other layers, or on states of another size.
    """
    import torch
    from safetensors.torch import load as read

    from stabfw_accelerators.lvpruning.decision import Decision

    assert model.anatomy is not None, "attached by the base"
    known, tensors = about(data, "lvpruning's modules"), read(data)
    size: int = model.anatomy.decoder.config.hidden_size  # type: ignore[assignment, union-attr]
    found = int(tensors[f"{known['layers'][0]}.head.weight"].shape[1])
    if known["layers"] != list(layers) or found != size:
        raise UnsupportedError(
            f"lvpruning's modules were made for layers {known['layers']} and states of size "
            f"{found}, but are to decide before layers {list(layers)} on states of size {size}"
        )
    modules = {}
    for layer in layers:
        module = Decision(size, known["heads"])
        begin = f"{layer}."
        module.load_state_dict(
            {n.removeprefix(begin): t.float() for n, t in tensors.items() if n.startswith(begin)}
        )
        where = next(_placed(model.anatomy.layers[layer].parameters()), torch.device("cpu"))
        modules[layer] = module.to(where, getattr(torch, model.request.dtype)).eval()
    return modules


def _placed(weights: Iterator[Any]) -> Iterator[Any]:
    return (weight.device for weight in weights if not weight.is_meta)
