"""The architectures of the embedded models: building, reading pictures, and saving for offline use.

All share the size of their language model, so that one can begin with another's; they differ in
how a picture becomes visual tokens, which is what the training needs to know of them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from stabfw_models.tiny import WEIGHTS

try:
    from transformers import CLIPImageProcessorPil as ClipImageProcessor
    from transformers import LlavaNextImageProcessorPil as LlavaNextImageProcessor
    from transformers import Qwen2VLImageProcessorPil as Qwen2VLImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor as ClipImageProcessor
    from transformers import LlavaNextImageProcessor, Qwen2VLImageProcessor

CELL: Final = 8
"""Side of the square that one visual token covers in a picture of ordinary size, in pixels."""

TILE: Final = 64
"""Side of the picture that the CLIP tower reads, in pixels."""

HASH_FILE: Final = "SHA256SUMS"
WEIGHTS_FILE: Final = "model.safetensors"
_HIDDEN_SIZE: Final = 128
_CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
SQUARE: Final = (TILE, TILE)

Pixels = npt.NDArray[np.uint8]
Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Cells:
    """What the vision tower makes of pictures of one size, for its own training.

    Attributes:
        features: One vector for every square of `CELL` pixels, of shape (pictures, rows, columns,
            width).
        pooled: One vector for a picture, of shape (pictures, width).
    """

    features: torch.Tensor
    pooled: torch.Tensor


class Architecture(ABC):
    """How one family is built, trained and saved.

    Attributes:
        sizes: Widths and heights of the training pictures, in turn.
        absolute: Whether the vision tower is told where a patch lies. Only then can it be trained
            to say so.
        image_token: The placeholder of a visual token.
        before: Text before the picture.
        after: Text between the picture and the question.
        turn: Text between the question and the answer.
        gap: What an answer begins with.
    """

    sizes: ClassVar[tuple[tuple[int, int], ...]] = (SQUARE,)
    absolute: ClassVar[bool] = True
    image_token: ClassVar[str]
    before: ClassVar[str]
    after: ClassVar[str]
    turn: ClassVar[str]
    gap: ClassVar[str]

    @abstractmethod
    def tokenizer(self, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
        """Train a byte-level BPE tokenizer: any text can be encoded, frequent words are one token.

        Args:
            corpus: Questions and answers; the same for every seed.
        """

    @abstractmethod
    def model(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """Build the model as it is before training.

        Every linear layer of the language model has 128 or 384 inputs, so that weights can be
        quantised in groups of 32, 64 or 128.
        """

    @abstractmethod
    def inputs(self, images: Sequence[Pixels]) -> Inputs:
        """Prepare pictures as the image processor does, for `get_image_features`."""

    @abstractmethod
    def cells(self, model: Any, images: Sequence[Pixels]) -> Cells:
        """Run the vision tower on pictures of one size."""

    @abstractmethod
    def in_tower(self, parameter: str) -> bool:
        """Whether a parameter belongs to the vision tower, which is frozen after its own stage."""

    @abstractmethod
    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write the processor's files."""

    def trained_with_language(self, parameter: str) -> bool:
        """Whether the second stage trains a parameter."""
        return not self.in_tower(parameter)

    def positions(self, model: Any, ids: torch.Tensor, inputs: Inputs, row: int) -> torch.Tensor:
        """Position ids of a prefix, of shape (axes, tokens)."""
        return torch.arange(len(ids))[None]

    def export(self, model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
        """Write everything that loading offline needs, with weights in bfloat16.

        Returns:
            The SHA-256 of the weights file, which is also written to ``SHA256SUMS``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        halved = type(model)(model.config)
        halved.load_state_dict(model.state_dict())
        halved.generation_config.bos_token_id = tokenizer.bos_token_id
        halved.generation_config.eos_token_id = tokenizer.eos_token_id
        halved.generation_config.pad_token_id = tokenizer.pad_token_id
        halved.to(torch.bfloat16).eval().save_pretrained(folder)
        self.save_processor(tokenizer, folder)
        # transformers 5 writes a class name that its own AutoProcessor cannot resolve offline.
        settings_file = folder / "tokenizer_config.json"
        settings = json.loads(settings_file.read_text())
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings_file.write_text(json.dumps(settings, indent=1) + "\n")
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        (folder / HASH_FILE).write_text(f"{digest}  {WEIGHTS_FILE}\n")
        return digest


class Llava(Architecture):
    """The architecture of LLaVA-1.5: a CLIP tower, a projector and a Llama."""

    image_token = "<image>"
    # The placeholder takes the space before it.
    before = "USER:"
    after = "\n"
    turn = " ASSISTANT:"
    gap = " "

    def tokenizer(self, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
        """Train it with LLaVA's placeholder, and the roles of a conversation as tokens."""
        tokenizer = _bpe(corpus, ["<unk>", "<s>", "</s>", "<pad>"])
        tokenizer.add_special_tokens(
            [AddedToken("<image>", special=True, lstrip=True, normalized=False)]
        )
        tokenizer.add_tokens(
            [
                AddedToken("USER:", normalized=False),
                AddedToken("ASSISTANT:", lstrip=True, normalized=False),
            ]
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            padding_side="left",
            model_max_length=2048,
            extra_special_tokens={"image_token": "<image>"},
        )

    def model(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """Build it with random weights."""
        model = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(**_clip_and_llama(tokenizer))
        )
        _start_positions_as_sines(model.model.vision_tower)
        return model

    def inputs(self, images: Sequence[Pixels]) -> Inputs:
        """Normalise them: they have the size of the tower already."""
        scaled = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (_CLIP_MEAN, _CLIP_STD))
        return {"pixel_values": (scaled - mean) / std}

    def cells(self, model: Any, images: Sequence[Pixels]) -> Cells:
        """Take the patches of the layer that the projector reads, and the pooled CLS token."""
        output = model.model.vision_tower(**self.inputs(images), output_hidden_states=True)
        side = TILE // CELL
        features = output.hidden_states[-2][:, 1:].unflatten(1, (side, side))
        return Cells(features, output.pooler_output)

    def in_tower(self, parameter: str) -> bool:
        """The CLIP tower, without the projector."""
        return "vision_tower" in parameter

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write LLaVA's processor."""
        transformers.LlavaProcessor(
            image_processor=ClipImageProcessor(**_clip_size(), do_convert_rgb=True),
            **_llava_processor(tokenizer, self),
        ).save_pretrained(folder)


class LlavaNext(Llava):
    """The architecture of LLaVA-NeXT: the same, with pictures seen whole and in tiles."""

    sizes = (SQUARE, (96, 64), SQUARE, (64, 96), SQUARE, (128, 64), SQUARE, (96, 96))
    # Height and width of what a picture may be cut into.
    grids: ClassVar[list[list[int]]] = [[64, 128], [128, 64], [128, 128]]

    def model(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """Begin with the trained LLaVA, which lacks only the mark of a row's end."""
        config = {**_clip_and_llama(tokenizer), "image_grid_pinpoints": self.grids}
        model = transformers.LlavaNextForConditionalGeneration(
            transformers.LlavaNextConfig(**config)
        )
        started = model.load_state_dict(_trained_llava(), strict=False)
        assert started.missing_keys == ["model.image_newline"], started
        assert not started.unexpected_keys, started
        return model

    def cells(self, model: Any, images: Sequence[Pixels]) -> Cells:
        """Refuse: its tower is the trained one, so there is no first stage."""
        raise NotImplementedError("LLaVA-NeXT begins with a trained tower: use no vision steps")

    def inputs(self, images: Sequence[Pixels]) -> Inputs:
        """Scale them and cut them into tiles."""
        prepared = self._image_processor()(list(images), return_tensors="pt")
        return {name: prepared[name] for name in ("pixel_values", "image_sizes")}

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write LLaVA-NeXT's processor."""
        transformers.LlavaNextProcessor(
            image_processor=self._image_processor(), **_llava_processor(tokenizer, self)
        ).save_pretrained(folder)

    def _image_processor(self) -> Any:
        return LlavaNextImageProcessor(
            **_clip_size(), do_convert_rgb=True, image_grid_pinpoints=self.grids
        )


class QwenVl(Architecture):
    """What Qwen2-VL and Qwen2.5-VL share: pictures of any size, and positions in three axes."""

    sizes = (SQUARE, (96, 64), SQUARE, (64, 96), SQUARE, (80, 80), SQUARE, (96, 96))
    absolute = False
    image_token = "<|image_pad|>"
    before = "<|im_start|>user\n<|vision_start|>"
    after = "<|vision_end|>"
    turn = "<|im_end|>\n<|im_start|>assistant\n"
    gap = ""
    processor_class: ClassVar[str]
    config_class: ClassVar[Any]
    model_class: ClassVar[Any]
    vision: ClassVar[Mapping[str, Any]]
    # Two by two patches become one visual token.
    patches: ClassVar[Mapping[str, int]] = {
        "patch_size": CELL // 2,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }

    def tokenizer(self, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
        """Train it with Qwen's marks of roles and pictures."""
        roles, pads = ["<|im_start|>", "<|im_end|>"], ["<|image_pad|>", "<|video_pad|>"]
        special = ["<|endoftext|>", *roles, "<|vision_start|>", "<|vision_end|>", *pads]
        return PreTrainedTokenizerFast(
            tokenizer_object=_bpe([*corpus, "user", "assistant"], special),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            padding_side="left",
            model_max_length=2048,
            extra_special_tokens={
                "image_token": "<|image_pad|>",
                "video_token": "<|video_pad|>",
                "vision_start_token": "<|vision_start|>",
                "vision_end_token": "<|vision_end|>",
            },
        )

    def model(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """Build it with the language model of the trained LLaVA and a fresh vision tower."""
        number = tokenizer.convert_tokens_to_ids
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
        vision = {"depth": 4, "num_heads": 3, **self.patches, **self.vision}
        vision["spatial_merge_size"] = vision.pop("merge_size")
        config = self.config_class(
            text_config=_language(tokenizer) | {"rope_parameters": rope},
            vision_config=vision,
            image_token_id=number("<|image_pad|>"),
            video_token_id=number("<|video_pad|>"),
            vision_start_token_id=number("<|vision_start|>"),
            vision_end_token_id=number("<|vision_end|>"),
            tie_word_embeddings=False,
        )
        model = self.model_class(config)
        _transplant_language_model(model, tokenizer)
        return model

    def inputs(self, images: Sequence[Pixels]) -> Inputs:
        """Cut them into patches."""
        prepared = self._image_processor()(list(images), return_tensors="pt")
        return {name: prepared[name] for name in ("pixel_values", "image_grid_thw")}

    def cells(self, model: Any, images: Sequence[Pixels]) -> Cells:
        """Take the merged patches, as the language model reads them; there is no CLS token."""
        output = model.model.get_image_features(**self.inputs(images)).pooler_output
        height, width = images[0].shape[:2]
        side = (len(images), height // CELL, width // CELL, -1)
        features = torch.stack(list(output)).view(side)
        return Cells(features, features.mean((1, 2)))

    def in_tower(self, parameter: str) -> bool:
        """The tower with its merger."""
        return "model.visual." in parameter

    def trained_with_language(self, parameter: str) -> bool:
        """The merger goes on, as a projector would."""
        return not self.in_tower(parameter) or ".merger." in parameter

    def positions(self, model: Any, ids: torch.Tensor, inputs: Inputs, row: int) -> torch.Tensor:
        """Ask the model: rows and columns of a picture have axes of their own."""
        kinds = (ids == model.config.image_token_id).int()
        grid = inputs["image_grid_thw"][row : row + 1]
        found: torch.Tensor = model.model.get_rope_index(ids[None], kinds[None], grid)[0][:, 0]
        return found

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write Qwen's processor; making one takes torchvision, for its part for videos."""
        tokenizer.save_pretrained(folder)
        images = self._image_processor().to_dict()
        images["image_processor_type"] = images["image_processor_type"].removesuffix("Pil")
        content = {
            "processor_class": self.processor_class,
            "image_processor": images,
            "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor", **self.patches},
        }
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (folder / "processor_config.json").write_text(text)
        (folder / "chat_template.jinja").write_text(_QWEN_TEMPLATE)

    def _image_processor(self) -> Any:
        return Qwen2VLImageProcessor(
            size={"shortest_edge": 32 * 32, "longest_edge": 256 * 256}, **self.patches
        )


class Qwen2Vl(QwenVl):
    """The architecture of Qwen2-VL."""

    processor_class = "Qwen2VLProcessor"
    config_class = transformers.Qwen2VLConfig
    model_class = transformers.Qwen2VLForConditionalGeneration
    vision: ClassVar[Mapping[str, Any]] = {
        "embed_dim": 96,
        "hidden_size": _HIDDEN_SIZE,
        "mlp_ratio": 2,
    }


class Qwen25Vl(QwenVl):
    """The architecture of Qwen2.5-VL: attention in windows of 32 pixels in every other block."""

    processor_class = "Qwen2_5_VLProcessor"
    config_class = transformers.Qwen2_5_VLConfig
    model_class = transformers.Qwen2_5_VLForConditionalGeneration
    vision: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "out_hidden_size": _HIDDEN_SIZE,
        "window_size": 4 * CELL,
        "fullatt_block_indexes": [1, 3],
    }


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "tiny-llava": Llava(),
    "tiny-llava-next": LlavaNext(),
    "tiny-qwen2-vl": Qwen2Vl(),
    "tiny-qwen2.5-vl": Qwen25Vl(),
}

_LLAVA_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% else %} ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_QWEN_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _bpe(corpus: Iterable[str], special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _language(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _HIDDEN_SIZE,
        "intermediate_size": 3 * _HIDDEN_SIZE,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        "initializer_range": 0.04,
    }


def _clip_and_llama(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The config of LLaVA-1.5, scaled down."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=_HIDDEN_SIZE,
        intermediate_size=2 * _HIDDEN_SIZE,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=TILE,
        patch_size=CELL,
        projection_dim=_HIDDEN_SIZE,
    )
    return {
        "vision_config": vision,
        "text_config": transformers.LlamaConfig(**_language(tokenizer)),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (TILE // CELL) ** 2,
        "tie_word_embeddings": False,
    }


def _clip_size() -> dict[str, Any]:
    return {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}


def _llava_processor(tokenizer: PreTrainedTokenizerFast, of: Llava) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer,
        "patch_size": CELL,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": of.image_token,
        "chat_template": _LLAVA_TEMPLATE,
    }


def _trained_llava() -> dict[str, torch.Tensor]:
    """The weights of `tiny-llava`, in float32."""
    trained = transformers.LlavaForConditionalGeneration.from_pretrained(
        WEIGHTS / "tiny-llava", dtype=torch.float32, local_files_only=True
    )
    state: dict[str, torch.Tensor] = trained.state_dict()
    return state


def _transplant_language_model(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Copy the trained Llama; a token keeps its row, or that of the word with a space before it."""
    old_numbers = json.loads((WEIGHTS / "tiny-llava" / "tokenizer.json").read_text())["model"][
        "vocab"
    ]
    pairs = [
        (new, old_numbers.get(token, old_numbers.get("Ġ" + token)))
        for token, new in tokenizer.get_vocab().items()
    ]
    here = torch.tensor([new for new, old in pairs if old is not None])
    there = torch.tensor([old for _, old in pairs if old is not None])
    state = model.state_dict()
    for name, weight in _trained_llava().items():
        if name == "lm_head.weight" or name.endswith("embed_tokens.weight"):
            state[name][here] = weight[there]
        elif ".language_model." in name:
            state[name].copy_(weight)
    for name, weight in state.items():
        # Llama has no biases.
        if ".language_model." in name and name.endswith("_proj.bias"):
            weight.zero_()


def _start_positions_as_sines(vision_tower: torch.nn.Module, scale: float = 0.5) -> None:
    """Give the patches 2-D sine positions; from random ones, position is learned very slowly."""
    name = next(
        n for n, _ in vision_tower.named_parameters() if n.endswith("position_embedding.weight")
    )
    table = vision_tower.get_parameter(name)
    quarter, side = table.shape[1] // 4, TILE // CELL
    frequencies = 20.0 ** -(torch.arange(quarter) / quarter)
    rows = torch.arange(side).repeat_interleave(side)[:, None] * frequencies
    columns = torch.arange(side).repeat(side)[:, None] * frequencies
    waves = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)
    with torch.no_grad():
        table[1:] = scale * waves
