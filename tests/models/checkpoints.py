"""Tiny random checkpoints of several families on disk, with the files that the hub's have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_TEXTS = (
    "what color is the circle? how many rectangles are there? is there a red cross?",
    "A. red B. green C. blue D. black yes no one two three user assistant USER: ASSISTANT:",
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_TEMPLATE = _CHAT_TEMPLATE.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
_QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def make(family: str, folder: Path) -> Path:
    """Write a checkpoint of a family; its weights are large, so that its answers differ."""
    cls, config, parts, processor = FAMILIES[family]()
    torch.manual_seed(0)
    for part in (config.get_text_config(), config.vision_config):
        part.initializer_range = 0.15
    module = cls(config)
    module.generation_config.eos_token_id = parts["tokenizer"].eos_token_id
    # As the checkpoints of some families are shipped: settings that must not leak in.
    module.generation_config.do_sample = True
    module.generation_config.temperature = 0.01
    module.save_pretrained(folder)
    _save_processor(processor, parts, folder)
    return folder


def _save_processor(name: str, parts: dict[str, Any], folder: Path) -> None:
    """Write a processor without making it, which takes torchvision for some families."""
    parts["tokenizer"].save_pretrained(folder)
    content = {
        "processor_class": name,
        "image_processor": parts["image_processor"].to_dict(),
        **parts["settings"],
    }
    (folder / "processor_config.json").write_text(json.dumps(content, default=str))
    (folder / "chat_template.jinja").write_text(parts["template"])


def _tokenizer(
    special: dict[str, str], more: Sequence[str] = (), begin: str = "<s>", end: str = "</s>"
) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = dict.fromkeys(["<pad>", begin, end, *special.values(), *more])
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(names),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token="<pad>",
        padding_side="right",
        extra_special_tokens=special,
    )


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _clip() -> hf.CLIPVisionConfig:
    return hf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        projection_dim=16,
    )


Made = tuple[Any, Any, dict[str, Any], str]


def _llava() -> Made:
    tokenizer = _tokenizer({"image_token": "<image>"})
    config = hf.LlavaConfig(
        vision_config=_clip(),
        text_config=hf.LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    images = hf.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    return (
        hf.LlavaForConditionalGeneration,
        config,
        _llava_parts(tokenizer, images),
        "LlavaProcessor",
    )


def _llava_next() -> Made:
    tokenizer = _tokenizer({"image_token": "<image>"})
    grids = [[56, 112], [112, 56], [112, 112]]
    config = hf.LlavaNextConfig(
        vision_config=_clip(),
        text_config=hf.LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        image_grid_pinpoints=grids,
    )
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=grids,
    )
    parts = _llava_parts(tokenizer, images)
    return hf.LlavaNextForConditionalGeneration, config, parts, "LlavaNextProcessor"


def _llava_parts(tokenizer: Any, images: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer,
        "image_processor": images,
        "template": _LLAVA_TEMPLATE,
        "settings": {
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    }


def _qwen(generation: str) -> Made:
    tokenizer = _tokenizer(_QWEN_TOKENS, ["<|im_start|>"], begin="<|endoftext|>", end="<|im_end|>")
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": 14}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text = _text(tokenizer, rope_parameters=rope)
    cls: Any
    make_config: Any
    if generation == "2":
        cls, make_config = hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLConfig
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        name = "Qwen2VLProcessor"
    elif generation == "2.5":
        cls, make_config = hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLConfig
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        name = "Qwen2_5_VLProcessor"
    else:
        cls, make_config = hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLConfig
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
        text |= {"head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}}
        name = "Qwen3VLProcessor"
    tokens = {f"{n}_id": tokenizer.convert_tokens_to_ids(t) for n, t in _QWEN_TOKENS.items()}
    config = make_config(text_config=text, vision_config=vision, **tokens)
    images = hf.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 140 * 140}, patch_size=14
    )
    parts = {
        "tokenizer": tokenizer,
        "image_processor": images,
        "template": _QWEN_TEMPLATE,
        "settings": {},
    }
    return cls, config, parts, name


def _internvl() -> Made:
    tokenizer = _tokenizer(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ["<|im_start|>"],
        begin="<|endoftext|>",
        end="<|im_end|>",
    )
    config = hf.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [28, 28],
            "patch_size": [7, 7],
        },
        text_config=hf.Qwen2Config(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    parts = {
        "tokenizer": tokenizer,
        "image_processor": hf.GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=False
        ),
        "template": _CHAT_TEMPLATE.replace("PICTURE", "<IMG_CONTEXT>\n"),
        "settings": {"image_seq_length": 4},
    }
    return hf.InternVLForConditionalGeneration, config, parts, "InternVLProcessor"


def _idefics3() -> Made:
    tokenizer = _tokenizer(
        {
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>",
            "global_image_token": "<global-img>",
        },
        [f"<row_{row + 1}_col_{column + 1}>" for row in range(4) for column in range(4)],
        begin="<|im_start|>",
        end="<end_of_utterance>",
    )
    config = hf.Idefics3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config=hf.LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    parts = {
        "tokenizer": tokenizer,
        "image_processor": hf.Idefics3ImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        "template": _CHAT_TEMPLATE.replace("PICTURE", "<image>").replace(
            "<|im_end|>", "<end_of_utterance>"
        ),
        "settings": {"image_seq_len": 4},
    }
    return hf.Idefics3ForConditionalGeneration, config, parts, "Idefics3Processor"


def _gemma3() -> Made:
    tokenizer = _tokenizer(
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        ["<start_of_turn>"],
        begin="<bos>",
        end="<end_of_turn>",
    )
    number = tokenizer.convert_tokens_to_ids
    config = hf.Gemma3Config(
        text_config=_text(tokenizer, head_dim=16, sliding_window=32, query_pre_attn_scalar=16),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 7,
        },
        mm_tokens_per_image=4,
        image_token_id=number("<image_soft_token>"),
        boi_token_id=number("<start_of_image>"),
        eoi_token_id=number("<end_of_image>"),
    )
    parts = {
        "tokenizer": tokenizer,
        "image_processor": hf.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        "template": _CHAT_TEMPLATE.replace("PICTURE", "<start_of_image>")
        .replace("<|im_start|>", "<start_of_turn>")
        .replace("<|im_end|>", "<end_of_turn>"),
        "settings": {"image_seq_length": 4},
    }
    return hf.Gemma3ForConditionalGeneration, config, parts, "Gemma3Processor"


FAMILIES: dict[str, Callable[[], Made]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": lambda: _qwen("2"),
    "qwen2_5_vl": lambda: _qwen("2.5"),
    "qwen3_vl": lambda: _qwen("3"),
    "internvl": _internvl,
    "idefics3": _idefics3,
    "gemma3": _gemma3,
}
