"""A checkpoint in the layout of LLaVA's own code, described as transformers would have it.

Haotian Liu's LLaVA (github.com/haotian-liu/LLaVA) and LLaVA-Med keep the language model under
`model.`, the projector under `model.mm_projector.`, and the CLIP tower either under
`model.vision_tower.` or in a checkpoint of its own that the config names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stabfw.errors import DataError

from stabfw_models.hf_vlm.files import Checkpoint, locate, processor_name

MODEL_TYPE: Final = "llava_mistral"

#: The token that stands for a visual token: `<unk>`, which no text becomes, since the tokenizer
#: falls back to bytes. So the vocabulary keeps its size, and every token its logit.
PLACEHOLDER: Final = 0

# Configs that need not be downloaded where the weights are in the model's own checkpoint.
_KNOWN_TOWERS: Final = {
    "openai/clip-vit-large-patch14-336": Path(__file__).parent / "clip-vit-large-patch14-336"
}
_TOWER: Final = "model.vision_tower.vision_tower."
_NAMES: Final = (
    (re.compile(r"model\.(embed_tokens|layers|norm)\."), r"model.language_model.\1."),
    (re.compile(r"model\.mm_projector\.0\."), "model.multi_modal_projector.linear_1."),
    (re.compile(r"model\.mm_projector\.2\."), "model.multi_modal_projector.linear_2."),
    (re.compile(r"model\.vision_tower\.vision_tower\.vision_model\."), "model.vision_tower."),
    (re.compile(r"vision_model\."), "model.vision_tower."),
    (re.compile(r"lm_head\."), "lm_head."),
)
# What the config of the language model says under the same names.
_TEXT: Final = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_theta",
    "vocab_size",
)
# Computed from the config, and kept in older checkpoints.
_BUFFERS: Final = ("rotary_emb.inv_freq", "embeddings.position_ids")
_REQUIRED: Final = ("hidden_size", "mm_vision_select_layer", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True)
class Original(Checkpoint):
    """A checkpoint in the original layout.

    Attributes:
        tower: The CLIP tower; its weights count only if `tower_apart`.
        tower_apart: Whether the tower's weights are in its own checkpoint.
    """

    tower: Checkpoint
    tower_apart: bool

    def stated(self) -> dict[str, Any]:
        """Read config.json as it is.

        Raises:
            DataError: If a field is missing, or is one that the conversion does not know.
        """
        config = super().config()
        if missing := [name for name in _REQUIRED if name not in config]:
            raise DataError(f"{self.name}: config.json states no {', '.join(missing)}")
        for name, known in (
            ("mm_projector_type", ("mlp2x_gelu",)),
            ("image_aspect_ratio", ("pad", "square", None)),
            ("mm_vision_select_feature", ("patch", "cls_patch")),
        ):
            if (value := config.get(name, known[-1])) not in known:
                raise DataError(
                    f"{self.name}: config.json has {name}: {value!r}, which cannot be converted; "
                    f"known: {', '.join(map(str, known))}"
                )
        return config

    def config(self) -> dict[str, Any]:
        """State the config of the converted model, a LLaVA with Mistral.

        Raises:
            DataError: If a config file is missing or not as expected.
        """
        stated, tower = self.stated(), self.tower.config()
        text = {name: stated[name] for name in _TEXT if name in stated}
        # Mistral's default is a window; the original has none unless it says so.
        window = {"sliding_window": stated.get("sliding_window")}
        keeps_cls = stated.get("mm_vision_select_feature") == "cls_patch"
        return {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
            "text_config": {"model_type": "mistral", **text, **window},
            "vision_config": {
                **(tower.get("vision_config") or tower),
                "model_type": "clip_vision_model",
            },
            "image_token_id": PLACEHOLDER,
            "vision_feature_layer": stated["mm_vision_select_layer"],
            "vision_feature_select_strategy": "full" if keeps_cls else "default",
            "projector_hidden_act": "gelu",
            "tie_word_embeddings": False,
            "dtype": stated.get("dtype") or stated.get("torch_dtype") or "float16",
        }

    def pads(self) -> bool:
        """Whether pictures are padded to squares, rather than cut."""
        return self.stated().get("image_aspect_ratio") == "pad"

    def processor(self) -> str:
        """Name the processor that the conversion makes."""
        return processor_name("LlavaProcessor", "LlavaImageProcessor")

    def digests(self) -> dict[str, str]:
        """Hash its files, and those of the tower."""
        own = super().digests()
        if self.tower_apart:
            own |= {f"vision_tower/{name}": d for name, d in self.tower.digests().items()}
        return own

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tell the shapes of the weights by their converted names.

        Raises:
            DataError: If there is a weight that the conversion does not know.
        """
        own = super().shapes()
        found = {new: own[old] for old, new in self.names().items()}
        if self.tower_apart:
            shapes = self.tower.shapes()
            found |= {new: shapes[old] for old, new in self.tower_names().items()}
        return found

    def names(self) -> dict[str, str]:
        """Map the names of its own weights to the converted ones.

        Raises:
            DataError: If there is one that the conversion does not know.
        """
        renamed = {name: _converted(name) for name in super().shapes()}
        unknown = [n for n, new in renamed.items() if not new and not n.endswith(_BUFFERS)]
        if unknown:
            raise DataError(
                f"{self.name}: the weight {unknown[0]} (and {len(unknown) - 1} more) is not one of "
                "LLaVA's original layout with a two-layer projector"
            )
        return {name: new for name, new in renamed.items() if new}

    def tower_names(self) -> dict[str, str]:
        """Map the names of the tower's weights; what belongs to CLIP's text side is left out."""
        renamed = {name: _converted(name) for name in self.tower.shapes()}
        return {n: new for n, new in renamed.items() if new and n.startswith("vision_model.")}


def original(found: Checkpoint, vision_tower: str) -> Original:
    """See a checkpoint as one of the original layout.

    Args:
        found: Where it lies.
        vision_tower: Directory or hub id of its CLIP tower; empty for what its config names.

    Raises:
        DataError: If weights are missing, or the tower is not on this machine.
    """
    apart = not any(name.startswith(_TOWER) for name in found.shapes())
    source = vision_tower or str(found.config().get("mm_vision_tower") or "")
    if not source:
        raise DataError(f"{found.name}: config.json names no mm_vision_tower; set `vision_tower`")
    # With the weights at hand, the sizes are all that is needed.
    try:
        if source in _KNOWN_TOWERS and not apart:
            tower = Checkpoint(_KNOWN_TOWERS[source], "", source)
        else:
            tower = locate(source, "")
    except DataError as error:
        raise DataError(
            f"{found.name}: its CLIP tower: {error}; or set `vision_tower` to its directory"
        ) from error
    return Original(found.folder, found.revision, found.name, tower, apart)


def _converted(name: str) -> str:
    """The name in transformers' LLaVA; empty for what it does not hold."""
    if name.endswith(_BUFFERS):
        return ""
    for pattern, new in _NAMES:
        if pattern.match(name):
            return pattern.sub(new, name, count=1)
    return ""
