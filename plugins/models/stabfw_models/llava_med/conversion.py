"""Turn a checkpoint of the original layout into transformers' LLaVA, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import transformers
from safetensors import safe_open
from stabfw.errors import DataError

from stabfw_models.hf_vlm.files import FROM_DISK, Checkpoint
from stabfw_models.hf_vlm.loaded import Layout
from stabfw_models.llava_med.original import PLACEHOLDER, Original

# The authors' conversation `mistral_instruct`; the placeholder is written where pictures go.
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] if part['type'] == 'image' %}IMAGE\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    " [/INST]"
    "{% else %} "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    " {{ eos_token }}{% endif %}{% endfor %}"
)


def _processor(checkpoint: Checkpoint, options: Mapping[str, Any]) -> Any:
    """Make LLaVA's processor; an original checkpoint has a tokenizer only.

    Raises:
        DataError: If the tokenizer is missing or not one of Mistral.
    """
    assert isinstance(checkpoint, Original)
    try:
        # The one that Mistral 7B came with; the config's own type is not known to AutoTokenizer.
        tokenizer = transformers.LlamaTokenizer.from_pretrained(checkpoint.folder, **FROM_DISK)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{checkpoint.name}: cannot load the tokenizer: {error}; one of SentencePiece needs "
            'pip install "stabfw[llava-med]"'
        ) from error
    placeholder = tokenizer.convert_ids_to_tokens(PLACEHOLDER)
    if tokenizer.unk_token_id != PLACEHOLDER:
        raise DataError(
            f"{checkpoint.name}: token {PLACEHOLDER} is {placeholder!r} rather than the unknown "
            "token, so it cannot stand for pictures"
        )
    tokenizer.padding_side = "left"
    # LLaVA pads with the unknown token, which here stands for pictures.
    tokenizer.pad_token = tokenizer.eos_token
    vision = checkpoint.config()["vision_config"]
    side = vision["image_size"]
    images = transformers.LlavaImageProcessorPil(
        do_pad=checkpoint.pads(),
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        **options,
    )
    return transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy=checkpoint.config()["vision_feature_select_strategy"],
        num_additional_image_tokens=1,
        image_token=placeholder,
        chat_template=_TEMPLATE.replace("IMAGE", placeholder),
    )


def _model(checkpoint: Checkpoint) -> Callable[..., Any]:
    assert isinstance(checkpoint, Original)
    config = checkpoint.config()
    config.pop("architectures")
    weights = _read(checkpoint, checkpoint.names())
    if checkpoint.tower_apart:
        weights |= _read(checkpoint.tower, checkpoint.tower_names())
    return partial(
        transformers.LlavaForConditionalGeneration.from_pretrained,
        None,
        config=transformers.LlavaConfig(**config),
        state_dict=weights,
    )


def _read(checkpoint: Checkpoint, names: Mapping[str, str]) -> dict[str, Any]:
    """Read weights under new names; they stay mapped to the files until they are copied."""
    found: dict[str, Any] = {}
    for file in checkpoint.weight_files():
        with safe_open(checkpoint.folder / file, framework="pt") as tensors:
            found |= {names[n]: tensors.get_tensor(n) for n in tensors.keys() if n in names}  # noqa: SIM118
    return found


ORIGINAL = Layout(_processor, _model)
