"""Build the untrained model, its tokenizer and its processor, and save them for offline use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

try:
    from transformers import CLIPImageProcessorPil as ClipImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor as ClipImageProcessor

IMAGE_SIZE: Final = 64
PATCH_SIZE: Final = 8
GRID: Final = IMAGE_SIZE // PATCH_SIZE
VISUAL_TOKENS: Final = GRID * GRID
HIDDEN_SIZE: Final = 128
HASH_FILE: Final = "SHA256SUMS"
WEIGHTS_FILE: Final = "model.safetensors"

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% else %} ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text can be encoded, frequent words are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
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


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Build the LLaVA architecture of LLaVA-1.5, scaled down, with random weights.

    Every linear layer of the language model has 128 or 384 inputs, so that weights can be
    quantised in groups of 32, 64 or 128.
    """
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=HIDDEN_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.04,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    _start_positions_as_sines(model.model.vision_tower)
    return model


def visual_features(
    model: LlavaForConditionalGeneration, pixel_values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the vision tower.

    Returns:
        The patch features that the projector reads, of shape (images, 64, 128), and the pooled
        CLS output, of shape (images, 128).
    """
    output = model.model.vision_tower(pixel_values=pixel_values, output_hidden_states=True)
    return output.hidden_states[-2][:, 1:], output.pooler_output


def export(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> str:
    """Write everything AutoProcessor and AutoModelForImageTextToText need, with weights in bf16.

    Returns:
        The SHA-256 of the weights file, which is also written to ``SHA256SUMS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = LlavaForConditionalGeneration(model.config)
    halved.load_state_dict(model.state_dict())
    halved.generation_config.bos_token_id = tokenizer.bos_token_id
    halved.generation_config.eos_token_id = tokenizer.eos_token_id
    halved.generation_config.pad_token_id = tokenizer.pad_token_id
    halved.to(torch.bfloat16).eval().save_pretrained(folder)
    image_processor = ClipImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_convert_rgb=True,
    )
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    # transformers 5 writes a class name that its own AutoProcessor cannot resolve offline.
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings_file.write_text(json.dumps(settings, indent=1) + "\n")
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    (folder / HASH_FILE).write_text(f"{digest}  {WEIGHTS_FILE}\n")
    return digest


def _start_positions_as_sines(vision_tower: torch.nn.Module, scale: float = 0.5) -> None:
    """Give the patches 2-D sine positions; from random ones, position is learned very slowly."""
    name = next(
        n for n, _ in vision_tower.named_parameters() if n.endswith("position_embedding.weight")
    )
    table = vision_tower.get_parameter(name)
    quarter = table.shape[1] // 4
    frequencies = 20.0 ** -(torch.arange(quarter) / quarter)
    rows = torch.arange(GRID).repeat_interleave(GRID)[:, None] * frequencies
    columns = torch.arange(GRID).repeat(GRID)[:, None] * frequencies
    waves = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)
    with torch.no_grad():
        table[1:] = scale * waves
