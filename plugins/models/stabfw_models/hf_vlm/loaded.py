"""A Hugging Face image-text model in memory: encode prompts, answer them, score answers."""

from __future__ import annotations

import gc
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import torch
import transformers
from PIL import Image as PillowImage
from safetensors import SafetensorError
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
from stabfw.components.likelihood import among, either
from stabfw.components.model import OptionTokens, Tokens
from stabfw.components.reduction import seen_by_layer
from stabfw.errors import DataError, RunError
from transformers.generation.configuration_utils import GenerationMode
from transformers.utils import logging as transformers_logging

from stabfw_models.hf_vlm import devices
from stabfw_models.hf_vlm.files import (
    ANATOMY_FAMILIES,
    DEVICE_MAP,
    FROM_DISK,
    Checkpoint,
    describe,
    processor_name,
)
from stabfw_models.hf_vlm.generated import Clock, Generated
from stabfw_models.hf_vlm.processors import load_processor
from stabfw_models.hf_vlm.rows import split_rows
from stabfw_models.hf_vlm.vision import find_vision

log = logging.getLogger(__name__)

_VISION_PARTS = ("vision_tower", "multi_modal_projector", "visual", "vision_model", "connector")
_SMALLER = "choose a smaller dtype, quantize the weights, or use another device"


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
        self._device = first_device(module)
        self._token_texts: dict[int, str] = {}
        self._tokens_of: dict[tuple[str, str], Tokens] = {}
        self._warned: set[str] = set()

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
            name: tensor.to(self._device, self.module.dtype if tensor.is_floating_point() else None)
            for name, tensor in batch.items()
        }
        return Encoded(
            tuple(prompt.instance_id for prompt in prompts),
            inputs,
            tuple(map(self._option_tokens, prompts, texts)),
        )

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        """Answer each row greedily.

        Log-probabilities are the log-softmax, in float32, of the raw logits, before any logits
        processor that `options.extra` may ask for.
        """
        if len(alone := self._decoded_apart(encoded, options)) > 1:
            return [told for row in alone for told in self.generate(row, options)]
        run = self._run(encoded, options)
        logprobs = run.logprobs()
        return [
            self._prediction(run, row, answer, logprobs[row][: len(answer)])
            for row, answer in enumerate(map(self._cut, run.tokens.tolist()))
        ]

    def tokens(self, prompt: Prompt, text: str) -> Tokens:
        """Return the tokens of a text after the chat template's last words.

        A space separates the two, unless the template ends in white space.

        Raises:
            DataError: If the tokenizer lacks a character, or joins it to the template.
        """
        return self._tokens(_behind(prompt, self._render(prompt)), text)

    def score(
        self,
        encoded: Encoded,
        continuations: Sequence[Sequence[Tokens]],
        options: GenerationOptions,
    ) -> list[list[Prediction]]:
        """Tell how likely given answers are, by generating with each token forced.

        A pass takes one answer of each row; those of a single token are all read from the first
        logits of the first pass.
        """
        if not all(answer for row in continuations for answer in row):
            raise ValueError("an answer to be scored has no tokens")
        if len(alone := self._decoded_apart(encoded, options)) > 1:
            return [
                told
                for row, answers in zip(alone, continuations, strict=True)
                for told in self.score(row, [answers], options)
            ]
        found: list[dict[Tokens, Prediction]] = [{} for _ in continuations]
        long = [[answer for answer in row if len(answer) > 1] for row in continuations]
        for number in range(max(1, *map(len, long))):
            forced = [row[number] if number < len(row) else () for row in long]
            run = self._run(encoded, options, forced)
            logprobs = run.logprobs()
            for row, answer in enumerate(forced):
                if tuple(run.tokens[row, : len(answer)].tolist()) != answer:
                    raise RunError(f"generation could not be made to answer with {answer}")
                if answer:
                    values = logprobs[row][: len(answer)]
                    found[row][answer] = self._prediction(run, row, answer, values)
            for row, answers in enumerate(continuations if number == 0 else ()):
                single = [answer for answer in answers if len(answer) == 1]
                first = run.first[row, [answer[0] for answer in single]].tolist()
                for answer, value in zip(single, first, strict=True):
                    found[row][answer] = self._prediction(run, row, answer, [value], decoded=False)
        return [
            [told[answer] for answer in row] for told, row in zip(found, continuations, strict=True)
        ]

    def _decoded_apart(self, encoded: Encoded, options: GenerationOptions) -> list[Encoded]:
        """The batches to decode one after another: one, unless rows cannot be decoded together."""
        mode = self._generation_config(options).get_generation_mode()
        if mode != GenerationMode.ASSISTED_GENERATION or len(encoded.instance_ids) == 1:
            return [encoded]
        return split_rows(encoded, self._anatomy)

    def _run(
        self,
        encoded: Encoded,
        options: GenerationOptions,
        forced: Sequence[Tokens] | None = None,
    ) -> Generated:
        """Generate, freely or with the tokens of each row forced, for as long as the longest."""
        length = encoded.inputs["input_ids"].shape[1]
        config = self._generation_config(options)
        given: dict[str, Any] = {}
        if forced is not None:
            config.max_new_tokens = max(1, *map(len, forced))
            config.eos_token_id = None
            filler = self._pad_token or 0

            def next_token(row: int, so_far: torch.Tensor) -> list[int]:
                place = len(so_far) - length
                return [forced[row][place] if place < len(forced[row]) else filler]

            given = {"prefix_allowed_tokens_fn": next_token}
        clock = Clock(self._device)
        self.batch, self.token_depths = encoded, ()
        try:
            with torch.inference_mode():
                output = self.module.generate(
                    **encoded.inputs,
                    **given,
                    generation_config=config,
                    stopping_criteria=[clock],
                )
                depths = self.token_depths or (b"",) * len(encoded.instance_ids)
        finally:
            self.batch, self.token_depths = None, ()
        prefill, decode = clock.stop()
        first = output.logits[0].float().log_softmax(-1)
        return Generated(
            tokens=output.sequences[:, length:],
            logits=output.logits,
            first=first,
            top=self._top(first, options.top_tokens),
            options=self._over_options(first, encoded.options),
            visual_tokens=self._visual_tokens(encoded, depths),
            token_depths=depths,
            prefill_ms=1000 * prefill / len(first),
            decode_ms=1000 * decode / len(first),
        )

    def _prediction(
        self,
        run: Generated,
        row: int,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        decoded: bool = True,
    ) -> Prediction:
        options, mass = run.options[row]
        return Prediction(
            text=self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs),
            top=run.top[row],
            finish=FinishReason.STOP if tokens[-1] in self.end_tokens else FinishReason.LENGTH,
            visual_tokens=run.visual_tokens[row],
            token_depths=run.token_depths[row],
            options=options,
            options_logprob=mass,
            prefill_ms=run.prefill_ms,
            decode_ms=run.decode_ms if decoded else 0.0,
        )

    def _tokens(self, context: str, text: str) -> Tokens:
        if (context, text) in self._tokens_of:
            return self._tokens_of[context, text]
        tokenizer = self.processor.tokenizer
        answer = text if context[-1:].isspace() else f" {text}"
        before, after = tokenizer([context, context + answer], add_special_tokens=False).input_ids
        tokens = tuple(after[len(before) :])
        if after[: len(before)] != before or not tokens or tokenizer.unk_token_id in tokens:
            raise DataError(
                f"the tokenizer has no tokens for {text!r} as an answer that follows "
                f"{context[-20:]!r}"
            )
        self._tokens_of[context, text] = tokens
        return tokens

    def _option_tokens(self, prompt: Prompt, rendered: str) -> OptionTokens:
        """The tokens of each way to write an option; nothing if an option has none."""
        context = _behind(prompt, rendered)
        found: dict[str, tuple[Tokens, ...]] = {}
        for option in prompt.options:
            ways: list[Tokens] = []
            for text in option.texts:
                with suppress(DataError):
                    ways.append(self._tokens(context, text))
            if not ways:
                self._warn(
                    f"the tokenizer cannot write the option {' or '.join(option.texts)} behind the "
                    "chat template, so nothing is told of options"
                )
                return {}
            found[option.id] = tuple(dict.fromkeys(ways))
        single = {i: tuple(w for w in ways if len(w) == 1) for i, ways in found.items()}
        return single if all(single.values()) else found

    def _over_options(
        self, first: torch.Tensor, rows: Sequence[OptionTokens]
    ) -> list[tuple[Mapping[str, float], float | None]]:
        """Share the first token's probability among the options that it may be the begin of."""
        told: list[tuple[Mapping[str, float], float | None]] = [({}, None)] * len(first)
        for row, options in enumerate(rows):
            begins = {i: {way[0] for way in ways} for i, ways in options.items()}
            seen = Counter(token for tokens in begins.values() for token in tokens)
            own = {i: [t for t in tokens if seen[t] == 1] for i, tokens in begins.items()}
            if shared := sorted(i for i, tokens in own.items() if not tokens):
                self._warn(
                    f"the options {', '.join(shared)} begin with the same token as others, so the "
                    "first token does not tell how likely they are"
                )
            elif own:
                values = iter(first[row, [t for tokens in own.values() for t in tokens]].tolist())
                told[row] = among(
                    {i: either(next(values) for _ in tokens) for i, tokens in own.items()}
                )
        return told

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s: %s", self.request.source, message)

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

    def _visual_tokens(
        self, encoded: Encoded, depths: Sequence[bytes]
    ) -> tuple[tuple[int, ...], ...]:
        if self._anatomy is None:
            return ((),) * len(encoded.instance_ids)
        counts = (encoded.inputs["input_ids"] == self._anatomy.image_token_id).sum(1).tolist()
        layers = len(self._anatomy.layers)
        return tuple(
            seen_by_layer(dropped, layers) if dropped else (count,) * layers
            for count, dropped in zip(counts, depths, strict=True)
        )

    def _top(self, first: torch.Tensor, count: int) -> list[tuple[TopToken, ...]]:
        best = first.topk(min(count, first.shape[-1]))
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


@dataclass(frozen=True)
class Layout:
    """How a checkpoint's files become a processor and a model.

    Attributes:
        processor: Loads the processor, given further arguments of its image processor.
        model: Gives a `from_pretrained` that knows its config and its weights.
    """

    processor: Callable[[Checkpoint, Mapping[str, Any]], Any]
    model: Callable[[Checkpoint], Callable[..., Any]]


TRANSFORMERS: Final = Layout(
    load_processor,
    lambda checkpoint: partial(
        transformers.AutoModelForImageTextToText.from_pretrained, checkpoint.folder
    ),
)


@contextmanager
def opened(
    request: LoadRequest, checkpoint: Checkpoint, layout: Layout = TRANSFORMERS
) -> Iterator[LoadedVlm]:
    """Load a checkpoint from this machine; leaving the context frees it.

    Raises:
        DataError: If files are missing or damaged, the weights are not those of the config's
            architecture, or the checkpoint has no processor or chat template.
        RunError: If the device is not there, or has too little memory.
    """
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise RunError(
            f"device {request.device!r} was asked for, but torch {torch.__version__} finds no GPU; "
            "set `device: cpu`"
        )
    _require_memory(request, checkpoint)
    info = describe(checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    loaded = None
    try:
        processor = layout.processor(checkpoint, request.processor)
        module = _load_module(request, checkpoint, layout)
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


def _behind(prompt: Prompt, rendered: str) -> str:
    """What a chat template adds behind a message: all that a tokenizer may join to an answer."""
    return (prompt.text and rendered.rpartition(prompt.text)[2]) or rendered


def find_anatomy(module: Any) -> Anatomy | None:
    """State where the parts of a module are, or None for a family not known to keep to them."""
    if module.config.model_type not in ANATOMY_FAMILIES:
        return None
    core = module.model
    decoder = core.language_model if hasattr(core, "language_model") else core.text_model
    return Anatomy(
        decoder=decoder,
        layers=tuple(decoder.layers),
        rotary=decoder.rotary_emb,
        image_token_id=module.config.image_token_id,
        vision_parts=tuple(f"model.{part}" for part in _VISION_PARTS if hasattr(core, part)),
        head="lm_head",
        vision=find_vision(core),
    )


def first_device(module: Any) -> torch.device:
    """Where inputs go: to the first weight that is in memory, as others may lie on the disk."""
    return next(
        (weight.device for weight in module.parameters() if not weight.is_meta),
        torch.device("cpu"),
    )


def _load_module(request: LoadRequest, checkpoint: Checkpoint, layout: Layout) -> Any:
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    # What it warns of is an error here.
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed `quantization_config`")
            module, loading = layout.model(checkpoint)(
                dtype=getattr(torch, request.dtype),
                attn_implementation=request.attention,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **FROM_DISK,
                **{**_restoring(checkpoint), **request.options},
            )
        _require_all_weights(loading, checkpoint)
        if DEVICE_MAP not in request.options:
            module.to(request.device)
        return module.eval()
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        if DEVICE_MAP in request.options and find_spec("accelerate") is None:
            raise DataError(
                f'{checkpoint.name}: a device_map needs pip install "stabfw[device-map]"'
            ) from error
        raise DataError(f"{checkpoint.name}: cannot load the model: {error}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(
            f"{checkpoint.name}: {request.device} has not enough memory for the model; {_SMALLER}"
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _restoring(checkpoint: Checkpoint) -> dict[str, Any]:
    """Have packed weights restored while they are read, where only weights were quantized.

    Otherwise the first answer would restore them. This way the files decide which layers are
    packed, not the names in the config, which may be those of another version of transformers.
    """
    stated = checkpoint.quantization()
    if stated.get("quant_method") != "compressed-tensors":
        return {}
    groups = (stated.get("config_groups") or {}).values()
    if stated.get("kv_cache_scheme") or any(
        isinstance(group, str) or group.get("input_activations") or group.get("output_activations")
        for group in groups
    ):
        return {}
    return {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}


def _require_memory(request: LoadRequest, checkpoint: Checkpoint) -> None:
    """Refuse before anything is read: a machine that swaps does not come back for long."""
    needed = checkpoint.elements() * getattr(torch, request.dtype).itemsize
    if request.device.startswith("cuda"):
        free: int | None = torch.cuda.mem_get_info(request.device)[0]
    else:
        free = devices.free_memory()
    # A quantizer among the options makes it smaller while it is loaded.
    if free is not None and needed > free and not request.options:
        raise RunError(
            f"{checkpoint.name}: its weights take {needed / 2**30:,.1f} GiB in {request.dtype}, "
            f"but {request.device} has {free / 2**30:,.1f} GiB left; {_SMALLER}"
        )


def _require_all_weights(loading: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Transformers gives weights that it does not find random values, and goes on."""
    for what, found in (
        ("lack", loading["missing_keys"]),
        ("have other shapes for", [name for name, *_ in loading["mismatched_keys"]]),
    ):
        if found:
            names = sorted(found)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            hint = (
                ", or its quantization_config has other names than this version of transformers "
                "for what is left out: correct `modules_to_not_convert` or `ignore`, where a "
                "pattern such as re:.*lm_head will do"
                if checkpoint.quantization()
                else ""
            )
            raise DataError(
                f"{checkpoint.name}: its weights {what} {', '.join(names[:3])}{more}, so they are "
                f"not those of the architecture that config.json describes{hint}"
            )


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
