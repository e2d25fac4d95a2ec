"""Find a checkpoint's files and tell from them, without torch, what the model is."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stabfw.components import ModelInfo, file_digest
from stabfw.errors import DataError

#: How transformers may load a checkpoint: from this machine, and running none of its code.
FROM_DISK: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

#: The option that spreads a model over several devices.
DEVICE_MAP = "device_map"

#: What loads weights that were quantized elsewhere, by the method that config.json names: packages
#: that transformers asks for, and what to install.
QUANTIZED_LOADERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "awq": (("gptqmodel", "accelerate"), "gptqmodel accelerate"),
    "bitsandbytes": (("bitsandbytes", "accelerate"), '"stabfw[nf4]"'),
    "compressed-tensors": (("compressed_tensors",), '"stabfw[compressed-tensors]"'),
    "gptq": (("gptqmodel", "optimum"), "gptqmodel optimum"),
}

#: Families whose parts are where `loaded.find_anatomy` looks, each with why its visual tokens
#: cannot be dropped, or nothing if they can.
ANATOMY_FAMILIES: Mapping[str, str] = {
    "llava": "",
    "llava_next": "",
    "qwen2_vl": "",
    "qwen2_5_vl": "",
    "idefics3": "",
    "internvl": "",
    "smolvlm": "",
    "gemma3": "a Gemma 3 decoder sees pictures in both directions and text through a sliding "
    "window, with masks that are made for the whole sequence",
    "qwen3_vl": "a Qwen3-VL decoder adds features of the vision tower to the visual tokens of its "
    "first layers (DeepStack), one for each that there was",
}

#: Where an image processor is described; the first one that is there counts.
IMAGE_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
#: The vision tower of the LLaVA models, as its config names it.
CLIP = "clip_vision_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Layers of a language model whose config leaves the number out, as that of LLaVA-1.5-7B does.
DEFAULT_LAYERS = {"llama": 32, "mistral": 32, "qwen2": 32}
# The end tokens are read from generation_config.json, so it decides answers too.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint lies on this machine.

    Attributes:
        folder: The directory with its files.
        revision: The commit on the hub, empty for a local directory.
        name: The hub id or the directory, for messages.
    """

    folder: Path
    revision: str
    name: str

    def config(self) -> dict[str, Any]:
        """Read `config.json`.

        Raises:
            DataError: If it is missing or is not JSON of an image-text model.
        """
        config = self.read_json("config.json")
        if "model_type" not in config:
            raise DataError(f"{self.name}: config.json names no `model_type`")
        return config

    def quantization(self) -> dict[str, Any]:
        """Tell how its weights were quantized, as `config.json` states it; empty if they were not.

        Raises:
            DataError: If the package that loads them is not installed.
        """
        stated: dict[str, Any] = self.config().get("quantization_config") or {}
        method = stated.get("quant_method", "")
        packages, install = QUANTIZED_LOADERS.get(method, ((), ""))
        if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
            raise DataError(
                f"{self.name}: its weights are quantized ({method}), and what loads them is not "
                f"installed ({', '.join(missing)}): pip install {install}"
            )
        return stated

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of its JSON files.

        Raises:
            DataError: If the file is missing or is not a JSON object.
        """
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{self.name}: cannot read {name}: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{self.name}: {name} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{self.name}: {name} does not hold a JSON object")
        return content

    def digests(self) -> dict[str, str]:
        """Hash every file that decides the answers: weights, tokenizer, processor, configs.

        Returns:
            sha256 in hexadecimal by file name, sorted.

        Raises:
            DataError: If the weights are missing or not complete.
        """
        small = {path.name for pattern in _SMALL_FILES for path in self.folder.glob(pattern)}
        try:
            return {
                name: file_digest(self.folder / name) for name in sorted({*small, *self._weights()})
            }
        except OSError as error:
            raise self._incomplete(Path(error.filename).name) from error

    def elements(self) -> int:
        """Count the weights from the headers of their files, without reading them.

        Raises:
            DataError: If a file is missing or its header is not one of safetensors.
        """
        return sum(map(math.prod, self.shapes().values()))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tell the names and shapes of the weights from the headers of their files.

        Raises:
            DataError: If a file is missing or its header is not one of safetensors.
        """
        found: dict[str, tuple[int, ...]] = {}
        for name in self.weight_files():
            found |= self._shapes(name)
        return found

    def weight_files(self) -> list[str]:
        """Name the files of safetensors, sorted.

        Raises:
            DataError: If there are none.
        """
        return sorted(name for name in self._weights() if name.endswith(".safetensors"))

    def processor(self) -> str:
        """Name the class of its processor and the image back end.

        Raises:
            DataError: If it has no image processor.
        """
        return _processor(self)

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        try:
            with (self.folder / name).open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                # As safetensors has it: a longer header is not one.
                header: Any = json.loads(file.read(length)) if length < 100_000_000 else None
            shapes = {
                key: tuple(map(int, part["shape"]))
                for key, part in header.items()
                if key != "__metadata__"
            }
        except OSError as error:
            raise self._incomplete(name) from error
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise DataError(
                f"{self.name}: {name} is damaged: its header is not one of safetensors; "
                "download it again"
            ) from error
        return shapes

    def _incomplete(self, name: str) -> DataError:
        return DataError(
            f"{self.name}: {name} is missing or unreadable; the download may not be complete"
        )

    def _weights(self) -> set[str]:
        single, index = "model.safetensors", "model.safetensors.index.json"
        if (self.folder / single).exists():
            return {single}
        if (self.folder / index).exists():
            return {index, *self.read_json(index).get("weight_map", {}).values()}
        pickled = next(self.folder.glob("*.bin"), None)
        why = (
            f"; {pickled.name} is a pickle, which can run any code when it is loaded: convert it"
            if pickled
            else ""
        )
        raise DataError(f"{self.name}: no weights (model.safetensors) in {self.folder}{why}")


def locate(source: str, revision: str) -> Checkpoint:
    """Find a local directory, or a hub id in the Hugging Face cache. Nothing is downloaded.

    Args:
        source: A directory or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: Branch, tag or commit on the hub; empty means `main`.

    Raises:
        DataError: If it is not on this machine; the message says how to download it.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{source}: no config.json in this directory, so it holds no model")
        return Checkpoint(folder, "", source)
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"{source}: neither a directory nor a hub id (`owner/name`)")
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise DataError(
            f'{source}: hub ids need huggingface_hub: pip install "stabfw[hf]"'
        ) from error
    config = try_to_load_from_cache(source, "config.json", revision=revision or None)
    if not isinstance(config, str):
        at = f" --revision {revision}" if revision else ""
        raise DataError(
            f"{source}: not in the Hugging Face cache and no such directory; "
            f"download it first: hf download {source}{at}"
        )
    return Checkpoint(Path(config).parent, Path(config).parent.name, source)


def describe(checkpoint: Checkpoint) -> ModelInfo:
    """Tell what a checkpoint is from its files.

    Raises:
        DataError: If files are missing or not readable, or a package that loads them is missing.
    """
    checkpoint.quantization()
    return replace(
        outline(checkpoint), weights=checkpoint.digests(), processor=checkpoint.processor()
    )


def outline(checkpoint: Checkpoint) -> ModelInfo:
    """Tell what its config alone says.

    Raises:
        DataError: If it is missing or not readable.
    """
    config = checkpoint.config()
    family = str(config["model_type"])
    text = config.get("text_config") or config
    # Older files name the rotary settings otherwise.
    rotary = text.get("rope_parameters") or text.get("rope_scaling") or {}
    layers = text.get("num_hidden_layers") or DEFAULT_LAYERS.get(text.get("model_type", ""))
    return ModelInfo(
        family=family,
        layers=layers,
        visual_tokens=_clip_tokens(config) if family == "llava" else None,
        has_anatomy=family in ANATOMY_FAMILIES,
        no_reduction=ANATOMY_FAMILIES.get(family, ""),
        has_vision=_has_vision(config),
        multimodal_positions="mrope_section" in rotary,
        can_score=True,
    )


def _has_vision(config: Mapping[str, Any]) -> bool:
    """Whether `vision.find_vision` will find what it knows."""
    family = config["model_type"]
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return True
    if family not in ("llava", "llava_next"):
        return False
    tower = (config.get("vision_config") or {}).get("model_type", CLIP)
    layer = config.get("vision_feature_layer", -2)
    strategy = config.get("vision_feature_select_strategy", "default")
    return tower == CLIP and strategy == "default" and isinstance(layer, int)


def processor_name(processor: str, image_processor: str) -> str:
    """Name a processor and its image back end, which is always PIL here."""
    plain = image_processor.removesuffix("Fast").removesuffix("Pil")
    return f"{processor}/{plain}Pil"


def _clip_tokens(config: dict[str, Any]) -> int | None:
    vision = config.get("vision_config") or {}
    size, patch = vision.get("image_size"), vision.get("patch_size")
    if vision.get("model_type") != CLIP or not size or not patch:
        return None
    keeps_cls = config.get("vision_feature_select_strategy", "default") == "full"
    return int(size // patch) ** 2 + int(keeps_cls)


def processor_class(checkpoint: Checkpoint) -> str:
    """Name the class of a checkpoint's processor as its files state it, or empty."""
    for name in (*IMAGE_PROCESSOR_FILES, "tokenizer_config.json"):
        if (checkpoint.folder / name).exists() and (
            stated := checkpoint.read_json(name).get("processor_class")
        ):
            return str(stated)
    return ""


def _processor(checkpoint: Checkpoint) -> str:
    for name in IMAGE_PROCESSOR_FILES:
        if not (checkpoint.folder / name).exists():
            continue
        config = checkpoint.read_json(name)
        image = config.get("image_processor") or config
        if kind := image.get("image_processor_type"):
            return processor_name(processor_class(checkpoint), kind)
    raise DataError(
        f"{checkpoint.name}: no image processor (processor_config.json or "
        "preprocessor_config.json), so it cannot be asked about images"
    )
