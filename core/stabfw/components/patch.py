"""Reversible edits of a live model, and a fingerprint that shows whether they were reversed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ABSENT = object()
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Patch(contextlib.ExitStack):
    """All edits that `attach` makes; leaving the context undoes them, last in first out.

    Example:
        >>> class Thing:
        ...     colour = "red"
        >>> thing = Thing()
        >>> with Patch() as patch:
        ...     patch.set(thing, "colour", "blue")
        ...     thing.colour
        'blue'
        >>> thing.colour, vars(thing)
        ('red', {})
    """

    def set(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of an object until the patch ends."""
        old = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        if old is _ABSENT:
            self.callback(delattr, owner, name)
        else:
            self.callback(setattr, owner, name, old)

    def wrap(self, owner: object, method: str, wrapper: Callable[..., Any]) -> None:
        """Replace a method by `wrapper(original, *args, **kwargs)` until the patch ends."""
        original = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        self.set(owner, method, call)

    def hook(self, module: torch.nn.Module, function: Callable[..., Any]) -> None:
        """Run `function(module, args, kwargs, output)` after the module's forward."""
        self.callback(module.register_forward_hook(function, with_kwargs=True).remove)

    def pre_hook(self, module: torch.nn.Module, function: Callable[..., Any]) -> None:
        """Run `function(module, args, kwargs)` before the module's forward."""
        self.callback(module.register_forward_pre_hook(function, with_kwargs=True).remove)

    def swap(self, root: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
        """Put another module at the dotted `name` below `root` until the patch ends."""
        parent_name, _, leaf = name.rpartition(".")
        parent = root.get_submodule(parent_name)
        self.callback(setattr, parent, leaf, getattr(parent, leaf))
        setattr(parent, leaf, module)


def fingerprint(model: torch.nn.Module) -> dict[str, str]:
    """Describe the structure of a model: modules, forwards, hooks, parameters' shapes, configs.

    Two fingerprints of one model differ in exactly the parts that were edited in between; weights
    are compared by `weights_digest`, which has to read them all.

    Returns:
        A text for each module, tensor and config, by its dotted name.
    """
    parts: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        hooks = [[_name(h) for h in getattr(module, kind, {}).values()] for kind in _HOOKS]
        own = sorted(
            f"{key}={_name(value)}"
            for key, value in vars(module).items()
            if not key.startswith("_") and callable(value) and not isinstance(value, type)
        )
        forward = _name(type(module).forward)
        parts[f"module {name}"] = f"{type(module).__qualname__} {forward} {hooks} {own}"
    for kind in ("parameters", "buffers"):
        for name, tensor in getattr(model, f"named_{kind}")(remove_duplicate=False):
            parts[f"{kind} {name}"] = f"{tuple(tensor.shape)} {tensor.dtype} {tensor.device}"
    for kind in ("config", "generation_config"):
        if (config := getattr(model, kind, None)) is not None:
            parts[kind] = json.dumps(config.to_dict(), default=str, sort_keys=True)
    return parts


def weights_digest(model: torch.nn.Module) -> str:
    """Hash every parameter and buffer of a model, quantized ones included.

    Of weights that were left on the disk, the shape is all that is hashed.
    """
    import torch

    digest = hashlib.sha256()
    for kind in ("parameters", "buffers"):
        for name, tensor in sorted(getattr(model, f"named_{kind}")(remove_duplicate=False)):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            for plain in [] if tensor.is_meta else _plain(tensor):
                data = plain.detach().contiguous().cpu()
                digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(tensor: torch.Tensor) -> list[torch.Tensor]:
    # A quantized weight is a tensor subclass around plain ones; only those have bytes to read.
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [plain for name in names for plain in _plain(getattr(tensor, name))]


def _name(value: object) -> str:
    if isinstance(value, types.MethodType):
        value = value.__func__
    module = getattr(value, "__module__", "")
    return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"
