"""A Hugging Face image-text model in memory: encode prompts, answer them greedily."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import transformers
from PIL import Image as PillowImage
from stabfw.components import (
    Encoded,
    FinishReason,
    GenerationOptions,
    LoadedModel,
    LoadRequest,
    ModelInfo,
    Prediction,
    Prompt,
    TopToken,
)
from stabfw.components.anatomy import Anatomy
from stabfw.errors import DataError, RunError
from transformers.utils import logging as transformers_logging

from stabfw_models.hf_vlm.files import (
    ANATOMY_FAMILIES,
    FROM_DISK,
    Checkpoint,
    describe,
    processor_name,
)
from stabfw_models.hf_vlm.processors import load_processor

_VISION_PARTS = ("vision_tower", "multi_modal_projector", "visual")


class LoadedVlm(LoadedModel):
    """A model with its processor.

    Attributes:
        module: The torch module.
        processor: Its processor: PIL image back end, left padding.
        end_tokens: Ids that end an answer, as the checkpoint states them.
    """

    module: Any

    def __init__(self, info: ModelInfo, request: LoadRequest, module: Any, processor: Any) -> None:
        self.info = info
        self.request = request
        self.module = module
        self.processor = processor
        self.end_tokens, self._pad_token = _end_and_pad(module, processor.tokenizer)
        # `generate` fills what a config leaves open from this one, so the checkpoint's sampling
        # settings have to go.
        module.generation_config = transformers.GenerationConfig()
        self._anatomy = find_anatomy(module)
        self._token_texts: dict[int, str] = {}

    @property
    def anatomy(self) -> Anatomy | None:
        """Where the parts are, for the families in `files.ANATOMY_FAMILIES`."""
        return self._anatomy

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        """Apply chat template and processor; images come before the text of a prompt.

        Raises:
            DataError: If an image cannot be read, or a text holds the image placeholder.
        """
        images = [[PillowImage.fromarray(i.pixels) for i in prompt.images] for prompt in prompts]
        texts = [self._render(prompt) for prompt in prompts]
        begin = self.processor.tokenizer.bos_token
        batch = self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            # Templates that spell out the begin token would otherwise get it twice.
            add_special_tokens=not (begin and texts[0].startswith(begin)),
        )
        inputs = {
            name: tensor.to(
                self.module.device, self.module.dtype if tensor.is_floating_point() else None
            )
            for name, tensor in batch.items()
        }
        return Encoded(tuple(prompt.instance_id for prompt in prompts), inputs)

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        """Answer each row greedily.

        Log-probabilities are the log-softmax, in float32, of the raw logits, before any logits
        processor that `options.extra` may ask for.
        """
        start = time.perf_counter()
        self.batch, self.reduced_tokens = encoded, ()
        try:
            with torch.inference_mode():
                output = self.module.generate(
                    **encoded.inputs, generation_config=self._generation_config(options)
                )
                visual_tokens = self.reduced_tokens or self._visual_tokens(encoded)
        finally:
            self.batch, self.reduced_tokens = None, ()
        tokens = output.sequences[:, encoded.inputs["input_ids"].shape[1] :]
        logprobs = _logprobs(output.logits, tokens)
        tops = self._top(output.logits[0], options.top_tokens)
        answers = [self._cut(row) for row in tokens.tolist()]
        texts = self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        latency = 1000 * (time.perf_counter() - start) / len(answers)
        return [
            Prediction(
                text=text.strip(),
                token_ids=tuple(answer),
                logprobs=tuple(row[: len(answer)]),
                top=top,
                finish=(
                    FinishReason.STOP if answer[-1] in self.end_tokens else FinishReason.LENGTH
                ),
                visual_tokens=counts,
                latency_ms=latency,
            )
            for text, answer, row, top, counts in zip(
                texts, answers, logprobs, tops, visual_tokens, strict=True
            )
        ]

    def _render(self, prompt: Prompt) -> str:
        placeholder = getattr(self.processor, "image_token", None)
        if placeholder and placeholder in prompt.text:
            raise DataError(
                f"instance {prompt.instance_id}: the question contains {placeholder!r}, which "
                "this model reads as an image"
            )
        content = [{"type": "image"} for _ in prompt.images]
        content.append({"type": "text", "text": prompt.text})
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered

    def _generation_config(self, options: GenerationOptions) -> transformers.GenerationConfig:
        settings = {
            "do_sample": False,
            "num_beams": 1,
            "use_cache": True,
            "max_new_tokens": options.max_new_tokens,
            "eos_token_id": sorted(self.end_tokens) or None,
            "pad_token_id": self._pad_token,
            "return_dict_in_generate": True,
            "output_logits": True,
        }
        return transformers.GenerationConfig(**{**settings, **options.extra})

    def _visual_tokens(self, encoded: Encoded) -> tuple[tuple[int, ...], ...]:
        if self._anatomy is None:
            return ((),) * len(encoded.instance_ids)
        placeholders = encoded.inputs["input_ids"] == self._anatomy.image_token_id
        layers = len(self._anatomy.layers)
        return tuple((count,) * layers for count in placeholders.sum(1).tolist())

    def _top(self, logits: torch.Tensor, count: int) -> list[tuple[TopToken, ...]]:
        best = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]))
        return [
            tuple(
                TopToken(token, self._token_text(token), logprob)
                for token, logprob in zip(ids, logprobs, strict=True)
            )
            for ids, logprobs in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _token_text(self, token: int) -> str:
        if token not in self._token_texts:
            self._token_texts[token] = self.processor.tokenizer.decode([token])
        return self._token_texts[token]

    def _cut(self, tokens: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(tokens) if token in self.end_tokens), len(tokens))
        return tokens[: end + 1]


@contextmanager
def opened(request: LoadRequest, checkpoint: Checkpoint) -> Iterator[LoadedVlm]:
    """Load a checkpoint from this machine; leaving the context frees it.

    Raises:
        DataError: If files are missing or the checkpoint has no processor or chat template.
        RunError: If the device is not there.
    """
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(
            f"device {request.device!r} was asked for, but torch {torch.__version__} finds no GPU; "
            "set `device: cpu`"
        )
    info = describe(checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    loaded = None
    try:
        processor = load_processor(checkpoint, request.processor)
        module = _load_module(request, checkpoint)
        observed = processor_name(
            type(processor).__name__, type(processor.image_processor).__name__
        )
        loaded = LoadedVlm(replace(info, processor=observed), request, module, processor)
        del module
        yield loaded
    finally:
        torch.set_num_threads(threads)
        if loaded is not None:
            loaded.module = loaded._anatomy = None
        gc.collect()
        if request.device.startswith("cuda"):
            torch.cuda.empty_cache()


def find_anatomy(module: Any) -> Anatomy | None:
    """State where the parts of a module are, or None for a family not known to keep to them."""
    if module.config.model_type not in ANATOMY_FAMILIES:
        return None
    decoder = module.model.language_model
    return Anatomy(
        decoder=decoder,
        layers=tuple(decoder.layers),
        rotary=decoder.rotary_emb,
        image_token_id=module.config.image_token_id,
        vision_parts=tuple(
            f"model.{part}" for part in _VISION_PARTS if hasattr(module.model, part)
        ),
        head="lm_head",
    )


def _load_module(request: LoadRequest, checkpoint: Checkpoint) -> Any:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        module = transformers.AutoModelForImageTextToText.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, request.dtype),
            attn_implementation=request.attention,
            use_safetensors=True,
            **FROM_DISK,
            **request.options,
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{checkpoint.name}: cannot load the model: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    return module.to(request.device).eval()


def _end_and_pad(module: Any, tokenizer: Any) -> tuple[frozenset[int], int | None]:
    shipped = module.generation_config
    end = shipped.eos_token_id
    if end is None:
        end = module.config.get_text_config().eos_token_id
    if end is None:
        end = tokenizer.eos_token_id
    ends = frozenset([end] if isinstance(end, int) else end or ())
    pad = shipped.pad_token_id if shipped.pad_token_id is not None else tokenizer.pad_token_id
    return ends, pad


def _logprobs(steps: Sequence[torch.Tensor], tokens: torch.Tensor) -> list[list[float]]:
    # One step at a time: all of them at once would double the largest tensors of a long answer.
    chosen = [
        step.float().log_softmax(-1).gather(1, token[:, None])
        for step, token in zip(steps, tokens.unbind(1), strict=True)
    ]
    return torch.cat(chosen, 1).tolist()
