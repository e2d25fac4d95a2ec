"""What quantizers have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, TypeVar

from pydantic import Field
from stabfw.components import (
    Accelerator,
    AcceleratorConfig,
    Artefact,
    Fidelity,
    FitData,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Slot,
)


class QuantizerConfig(AcceleratorConfig):
    """Which parts of a model are quantized beside the decoder's linear layers."""

    vision: bool = Field(default=False, description="Quantize the vision tower and projector too.")
    head: bool = Field(default=False, description="Quantize the output projection too.")


Q = TypeVar("Q", bound=QuantizerConfig)


class Quantizer(Accelerator[Q]):
    """Base of methods that store linear weights in fewer bits.

    Attributes:
        name: How a spec calls it; also the extra that installs what it needs.
        packages: What it needs.
        bits: Bits per weight.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    bits: int
    occupies: ClassVar[frozenset[Slot]] = frozenset({Slot.WEIGHTS})
    fidelity: ClassVar[Fidelity] = Fidelity.FAITHFUL

    def supports(self, info: ModelInfo, request: LoadRequest) -> str | None:
        """Any model with an anatomy, where the packages are installed."""
        for package in self.packages:
            if find_spec(package) is None:
                return f'the package {package} is not installed: pip install "stabfw[{self.name}]"'
        if not info.has_anatomy:
            return f"which layers of a {info.family} model are its decoder is not known"
        return None

    @abstractmethod
    def measure(self, model: LoadedModel) -> tuple[int, int, int]:
        """Count the quantized layers of a model, and their bytes before and after."""

    def report(self, model: LoadedModel) -> Mapping[str, Any]:
        """Tell how many layers of the loaded model are quantized, and their bytes."""
        layers, before, after = self.measure(model)
        return {
            "engaged": layers > 0,
            "bits": self.bits,
            "quantized_layers": layers,
            "bytes_before": before,
            "bytes_after": after,
        }


class CalibratedQuantizer(Quantizer[Q]):
    """Base of quantizers that look at what flows through the layers before they round.

    The calibration data is answered by the model in its own precision, pictures included. The
    artefact holds a tensor for each layer; with it, `transform` needs no data.
    """

    needs_fit: ClassVar[bool] = True

    @abstractmethod
    def calibrate(self, model: LoadedModel, data: FitData) -> Mapping[str, Any]:
        """Find a tensor for each linear layer, by its name below `model.module`."""

    @abstractmethod
    def quantize(self, model: LoadedModel, found: Mapping[str, Any]) -> None:
        """Quantize the layers by what `calibrate` found."""

    def fit(self, model: LoadedModel, data: FitData) -> Artefact:
        """Calibrate; the artefact is a file of safetensors."""
        from safetensors.torch import save

        return Artefact(save(dict(self.calibrate(model, data))))

    def transform(self, model: LoadedModel, artefact: Artefact | None) -> None:
        """Quantize the linear layers in place.

        Raises:
            UnsupportedError: If the method cannot work on the sizes of a layer.
        """
        from safetensors.torch import load

        assert artefact is not None, "needs_fit is set"
        self.quantize(model, load(artefact.data))
