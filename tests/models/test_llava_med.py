"""`llava-med`: a checkpoint in LLaVA's original layout gives the logits of the converted model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from stabfw.components import GenerationOptions, Image, Prompt
from stabfw.components.patch import Patch
from stabfw.errors import DataError
from stabfw_accelerators.bitsandbytes import Nf4, Nf4Config
from stabfw_accelerators.fastv import FastV, FastVConfig
from stabfw_accelerators.hqq import Hqq, HqqConfig
from stabfw_models.llava_med import LlavaMed, LlavaMedConfig

_SENTENCES = (
    "what is shown in this picture? is the lung clear?",
    "the scan shows no fracture of the left arm",
    "A. chest B. brain C. heart D. knee yes no",
)
_SHAPES = ((30, 80), (56, 56), (90, 40))


def _direct() -> Any:
    """A LLaVA with Mistral as transformers builds it, with random weights."""
    torch.manual_seed(0)
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            projection_dim=16,
            initializer_range=0.15,
        ),
        text_config=hf.MistralConfig(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=None,
            initializer_range=0.15,
            bos_token_id=1,
            eos_token_id=2,
            rope_theta=1e6,
        ),
        image_token_id=0,
        vision_feature_layer=-2,
    )
    return hf.LlavaForConditionalGeneration(config).eval()


def _original_names(module: Any) -> dict[str, torch.Tensor]:
    """Its weights under the names of LLaVA's own code."""
    renamed = {}
    for name, weight in module.state_dict().items():
        for new, old in (
            ("model.language_model.", "model."),
            ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
            ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
            ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
            ("lm_head.", "lm_head."),
        ):
            if name.startswith(new):
                renamed[old + name.removeprefix(new)] = weight.clone().contiguous()
    assert len(renamed) == len(module.state_dict())
    return renamed


def _write(folder: Path, module: Any, tower: Path | None) -> None:
    folder.mkdir()
    weights = _original_names(module)
    # Older checkpoints keep what follows from the config.
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    prefix = "model.vision_tower.vision_tower."
    vision = {name: w for name, w in weights.items() if name.startswith(prefix)}
    text = module.config.text_config
    clip = {
        "model_type": "clip",
        "vision_config": {**module.config.vision_config.to_diff_dict(), "image_size": 56},
    }
    if tower is not None:
        tower.mkdir()
        for name in vision:
            del weights[name]
        beside = {name.removeprefix(prefix): w for name, w in vision.items()}
        beside["text_model.embeddings.position_embedding.weight"] = torch.ones(2, 2)
        beside["logit_scale"] = torch.ones(())
        save_file(beside, tower / "model.safetensors")
    where = tower or folder.parent / "sizes"
    where.mkdir(exist_ok=True)
    (where / "config.json").write_text(json.dumps(clip))
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "llava_mistral",
        "architectures": ["LlavaMistralForCausalLM"],
        "mm_vision_tower": str(where),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
        "torch_dtype": "bfloat16",
        "rope_theta": 1e6,
        "sliding_window": None,
        **{
            name: getattr(text, name)
            for name in (
                *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
                *("num_key_value_heads", "vocab_size", "rms_norm_eps", "bos_token_id"),
                *("eos_token_id", "max_position_embeddings"),
            )
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES * 4),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "pad_token": "<unk>",
                "padding_side": "right",
            }
        )
    )


@pytest.fixture(scope="module")
def direct() -> Any:
    return _direct()


@pytest.fixture(scope="module", params=["tower inside", "tower apart"])
def original(
    request: pytest.FixtureRequest, direct: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("original")
    apart = request.param == "tower apart"
    _write(root / "llava-med", direct, root / "clip" if apart else None)
    return root / "llava-med"


def _model(folder: Path, **more: Any) -> LlavaMed:
    return LlavaMed(LlavaMedConfig(source=str(folder), **more))


def _pixels(number: int) -> Any:
    shape = (*_SHAPES[number % 3], 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def _prompts(count: int = 3) -> list[Prompt]:
    texts = ("is the lung clear?", "what is shown in this picture?", "yes or no?")
    return [
        Prompt(f"instance {n}", (Image.from_pixels(_pixels(n)),), texts[n % 3])
        for n in range(count)
    ]


def _opened(stack: ExitStack, folder: Path) -> Any:
    model = _model(folder)
    return stack.enter_context(model.open(model.request()))


def test_the_converted_model_has_the_logits_of_the_original_weights(
    original: Path, direct: Any
) -> None:
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        for name, weight in direct.state_dict().items():
            assert torch.equal(loaded.module.state_dict()[name], weight), name
        encoded = loaded.encode(_prompts())
        with torch.inference_mode():
            expected = direct(**encoded.inputs).logits
            assert torch.equal(loaded.module(**encoded.inputs).logits, expected)
        without = {**encoded.inputs, "pixel_values": encoded.inputs["pixel_values"].flip(0)}
        with torch.inference_mode():
            assert not torch.equal(direct(**without).logits, expected)


def test_a_batch_answers_as_its_rows_do(original: Path) -> None:
    options = GenerationOptions(max_new_tokens=6)
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        together = loaded.generate(loaded.encode(_prompts(6)), options)
        alone = [loaded.generate(loaded.encode([p]), options)[0] for p in _prompts(6)]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert len({a.token_ids for a in alone}) > 1


def test_the_prompt_is_that_of_the_authors(original: Path) -> None:
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        ids = loaded.encode(_prompts(1)).inputs["input_ids"][0].tolist()
        tokenizer = loaded.processor.tokenizer
        text = tokenizer.decode([i for i in ids if i != 0])
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(0) == 16
    assert "".join(text.split()) == "<s>[INST]isthelungclear?[/INST]"


@pytest.mark.parametrize("number", [0, 2])
def test_pictures_are_padded_to_squares_with_the_mean_color(original: Path, number: int) -> None:
    pixels = _pixels(number)
    height, width, _ = pixels.shape
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [122, 116, 104]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    clip = hf.CLIPImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        seen = loaded.processor.image_processor([pixels], return_tensors="pt").pixel_values
    assert torch.equal(seen, clip([square], return_tensors="pt").pixel_values)


def test_accelerators_work_on_it(original: Path) -> None:
    options = GenerationOptions(max_new_tokens=3)
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        encoded = loaded.encode(_prompts())
        before = loaded.generate(encoded, options)
        with Patch() as patch:
            FastV(FastVConfig(layer=2, keep_ratio=0.25)).attach(loaded, None, patch)
            pruned = loaded.generate(encoded, options)
        assert [p.visual_tokens for p in pruned] == [(16, 16, 4, 4)] * 3
        assert loaded.generate(encoded, options)[0].logprobs == before[0].logprobs
        Hqq(HqqConfig(bits=4, group_size=32)).transform(loaded, None)
        assert loaded.generate(encoded, options)[0].logprobs != before[0].logprobs


def test_it_can_be_quantized_while_it_is_loaded(original: Path) -> None:
    model, nf4 = _model(original), Nf4(Nf4Config())
    with model.open(nf4.on_load(model.request())) as loaded:
        nf4.transform(loaded, None)
        assert loaded.generate(loaded.encode(_prompts(1)), GenerationOptions(max_new_tokens=2))
        assert nf4.report(loaded)["quantized_layers"] == 4 * 7


def test_it_is_described_from_its_files(original: Path) -> None:
    model = _model(original)
    info = model.describe(model.request())
    assert (info.family, info.layers, info.visual_tokens) == ("llava", 4, 16)
    apart = (original.parent / "clip").exists()
    assert ("vision_tower/model.safetensors" in info.weights) is apart
    assert model.architecture().image(80, 30).visual_tokens == 16
    with ExitStack() as stack:
        loaded = _opened(stack, original)
        assert loaded.info == info
        counted = sum(p.numel() for p in loaded.module.parameters())
    assert model.checkpoint().elements() == counted


def test_a_converted_directory_is_taken_as_it_is(
    checkpoint: Callable[[str], Path],
) -> None:
    model = _model(checkpoint("llava"))
    with model.open(model.request()) as loaded:
        assert loaded.generate(loaded.encode(_prompts(1)), GenerationOptions(max_new_tokens=2))


def _changed(folder: Path, tmp_path: Path, **config: Any) -> Path:
    copy = tmp_path / "changed"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    stated = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**stated, **config}))
    return copy


@pytest.fixture
def refused(original: Path, tmp_path: Path) -> Callable[..., str]:
    def message(drop: Sequence[str] = (), add: Sequence[str] = (), **config: Any) -> str:
        copy = _changed(original, tmp_path, **config)
        weights = load_file(copy / "model.safetensors")
        kept = {n: w for n, w in weights.items() if not any(part in n for part in drop)}
        kept |= {name: torch.ones(2) for name in add}
        save_file(kept, copy / "model.safetensors")
        with pytest.raises(DataError) as caught, ExitStack() as stack:
            _opened(stack, copy)
        return str(caught.value)

    return message


def test_a_missing_projector_is_named(refused: Callable[..., str]) -> None:
    assert "lack model.multi_modal_projector.linear_1.bias" in refused(drop=["mm_projector"])


def test_an_unknown_weight_is_named(refused: Callable[..., str]) -> None:
    assert "model.mm_projector.4.weight" in refused(add=["model.mm_projector.4.weight"])


def test_another_projector_is_refused(refused: Callable[..., str]) -> None:
    assert "mm_projector_type: 'linear'" in refused(mm_projector_type="linear")


def test_a_missing_tower_says_what_to_download(refused: Callable[..., str]) -> None:
    message = refused(mm_vision_tower="nobody/no-such-tower")
    assert "its CLIP tower: nobody/no-such-tower" in message
    assert "hf download nobody/no-such-tower" in message
