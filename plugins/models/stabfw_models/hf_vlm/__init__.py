"""Model `hf-vlm`: an image-text model in the Hugging Face format, from a directory or the hub."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field
from stabfw.components import Architecture, LoadedModel, LoadRequest, Model, ModelConfig, ModelInfo
from stabfw.errors import DataError
from stabfw.registry import hookimpl

from stabfw_models.hf_vlm import devices, files
from stabfw_models.hf_vlm.architecture import read_architecture
from stabfw_models.hf_vlm.published import published, published_ids

__all__ = ["HfModel", "HfModelConfig", "HfVlm", "HfVlmConfig"]


class HfModelConfig(ModelConfig):
    """How to load a model with transformers."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="`auto`: the checkpoint's own on a GPU, float32 on the CPU."
    )
    attention: Literal["sdpa", "eager"] = Field(default="sdpa", description="Attention back end.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto`: the GPU if there is one, else the CPU.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; OMP_NUM_THREADS, else 1, where not given."
    )


class HfVlmConfig(HfModelConfig):
    """Config of `hf-vlm`."""

    source: str = Field(
        min_length=1, description="Directory or hub id, such as `llava-hf/llava-1.5-7b-hf`."
    )
    revision: str = Field(default="", description="Branch, tag or commit on the hub.")
    device_map: Literal["auto", "balanced", "sequential"] | dict[str, int | str] | None = Field(
        default=None,
        description="Spread the layers over several devices, as in transformers; needs accelerate.",
    )


M = TypeVar("M", bound=HfModelConfig)


class HfModel(Model[M]):
    """Base of models that transformers loads with AutoModelForImageTextToText.

    Images are prepared with the PIL back end whatever else is installed, prompts are left-padded
    and the checkpoint's own chat template is used without a system prompt.

    Only the CPU was run for the tests of this class; CUDA follows the same code.
    """

    @abstractmethod
    def checkpoint(self) -> files.Checkpoint:
        """Find the model's files.

        Raises:
            DataError: If they are not on this machine.
        """

    def configs(self) -> files.Checkpoint:
        """Find the config files, which need no weights beside them.

        Raises:
            DataError: If they are not on this machine.
        """
        return self.checkpoint()

    def located(self, request: LoadRequest) -> files.Checkpoint:
        """Find what a request asks for, which an accelerator may have replaced.

        Raises:
            DataError: If it is not on this machine.
        """
        return files.locate(request.source, request.revision)

    def pixel_limits(self) -> Mapping[str, int]:
        """Tell which limits of a picture's area the user set, by argument of the processor."""
        return {}

    def loading(self) -> Mapping[str, Any]:
        """Further arguments of `from_pretrained`."""
        return {}

    def architecture(self) -> Architecture:
        """Read the sizes from config.json.

        Raises:
            DataError: If the config files are missing.
            UnsupportedError: If no formula is known for the family.
        """
        return read_architecture(self.configs(), self.pixel_limits())

    def request(self) -> LoadRequest:
        """Resolve every `auto` from the checkpoint's config.json and the machine.

        Raises:
            DataError: If the checkpoint is missing.
        """
        return self._request(self.checkpoint())

    def outline(self) -> tuple[LoadRequest, ModelInfo]:
        """Tell it from the config files alone.

        Raises:
            DataError: If they are not on this machine either.
        """
        configs = self.configs()
        return self._request(configs), files.outline(configs)

    def _request(self, checkpoint: files.Checkpoint) -> LoadRequest:
        device = devices.resolve_device(self.config.device)
        return LoadRequest(
            source=checkpoint.name,
            revision=checkpoint.revision,
            dtype=devices.resolve_dtype(self.config.dtype, checkpoint.config(), device),
            attention=self.config.attention,
            device=device,
            threads=devices.resolve_threads(self.config.threads),
            processor=self.pixel_limits(),
            options=self.loading(),
        )

    def describe(self, request: LoadRequest) -> ModelInfo:
        """Tell family, layers, visual tokens, file hashes and processor from the files."""
        return files.describe(self.located(request))

    def open(self, request: LoadRequest) -> AbstractContextManager[LoadedModel]:
        """Load model and processor; leaving the context frees them.

        Raises:
            DataError: If files are missing or the checkpoint has no processor or chat template.
            RunError: If the device is not there.
        """
        # transformers imports these where they are installed, which then complain of libraries for
        # other hardware; what matters is raised as an error.
        for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from stabfw_models.hf_vlm.loaded import opened

        return opened(request, self.located(request))


class HfVlm(HfModel[HfVlmConfig]):
    """Any image-text model in the Hugging Face format.

    Quantization works on the families in `files.ANATOMY_FAMILIES`, and token reduction on those
    of them that give no reason against it; other families answer questions, but state no anatomy.

    Attributes:
        families: The `model_type`s that are accepted; empty for any.
    """

    config_cls: ClassVar[type[HfVlmConfig]] = HfVlmConfig
    families: ClassVar[frozenset[str]] = frozenset()

    def loading(self) -> Mapping[str, Any]:
        """The device map, where there is one."""
        return {} if self.config.device_map is None else {files.DEVICE_MAP: self.config.device_map}

    def checkpoint(self) -> files.Checkpoint:
        """Find the directory, or the hub id in the Hugging Face cache.

        Raises:
            DataError: If it is not there, or holds a model of another family.
        """
        return self._accepted(files.locate(self.config.source, self.config.revision))

    def configs(self) -> files.Checkpoint:
        """Find the directory, the hub id among the published configs, or in the cache.

        Raises:
            DataError: If it is not there, or holds a model of another family.
        """
        known = None if self.config.revision else published(self.config.source)
        try:
            found = known or files.locate(self.config.source, self.config.revision)
        except DataError as error:
            listed = ", ".join(published_ids())
            raise DataError(f"{error}; known without a download: {listed}") from error
        return self._accepted(found)

    def _accepted(self, found: files.Checkpoint) -> files.Checkpoint:
        if self.families and (family := found.config()["model_type"]) not in self.families:
            raise DataError(
                f"{self.config.source}: this is a {family} model, not "
                f"{' or '.join(sorted(self.families))}; `type: hf-vlm` takes any family"
            )
        return found


@hookimpl
def stabfw_register_models(register: Callable[[str, type[Model[Any]]], None]) -> None:
    """Offer `hf-vlm`."""
    register("hf-vlm", HfVlm)
