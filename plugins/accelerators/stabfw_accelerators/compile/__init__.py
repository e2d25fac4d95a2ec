"""Accelerator `compile`: parts of the decoder by `torch.compile`, which should change no answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)
from stabfw.registry import hookimpl

if TYPE_CHECKING:
    from stabfw.components.patch import Patch

    from stabfw_accelerators.compile.method import Tally


class CompileConfig(AcceleratorConfig):
    """Config of `compile`; there is nothing to choose."""


class Compile(Accelerator[CompileConfig]):
    """Compiles the feed-forward blocks and the norms of the decoder layers.

    `torch.compile` fuses operations, so sums are taken in another order: every answer that changes
    is an effect of rounding. Attention stays as it is, since its code is compiled anew for each
    layer of a growing cache. What cannot be compiled whole is an error.

    Only run on the CPU for the tests; on CUDA the same code runs.
    """

    config_cls: ClassVar[type[CompileConfig]] = CompileConfig
    occupies: ClassVar[frozenset[Slot]] = frozenset()
    expects_identical: ClassVar[bool] = True
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    _tally: Tally | None = None

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy, where there is a compiler."""
        if not info.has_anatomy:
            return f"which layers of a {info.family} model are its decoder is not known"
        if not any(map(shutil.which, ("g++", "clang++", "c++"))):
            return "torch.compile needs a C++ compiler, and there is none on the PATH"
        if request.device.startswith("cuda") and find_spec("triton") is None:
            return "torch.compile needs the package triton on CUDA, which is not installed"
        return None

    def attach(self, model: LoadedModel, artefact: Artefact | None, patch: Patch) -> None:
        """Compile until the patch ends; compiling happens when a part is first used."""
        from stabfw_accelerators.compile.method import compile_parts

        self._tally = compile_parts(model, patch)

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many modules are compiled, and how often they were called."""
        if self._tally is None:
            return {"engaged": False}
        return {
            "engaged": self._tally.calls > 0,
            "modules": self._tally.modules,
            "calls": self._tally.calls,
        }


@hookimpl
def stabfw_register_accelerators(register: Callable[[str, type[Accelerator[Any]]], None]) -> None:
    """Offer `compile`."""
    register("compile", Compile)
