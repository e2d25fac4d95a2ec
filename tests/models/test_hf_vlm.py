"""A Hugging Face model answers the same whatever the batch, and says clearly what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stabfw.components import (
    FinishReason,
    GenerationOptions,
    Image,
    LoadRequest,
    Prediction,
    Prompt,
)
from stabfw.errors import DataError, RunError
from stabfw_models.hf_vlm import HfVlm, HfVlmConfig, devices
from stabfw_models.tiny import WEIGHTS, TinyConfig, TinyLlava

LLAVA = WEIGHTS / "tiny-llava"
OPTIONS = GenerationOptions(max_new_tokens=8)


def answer(
    model: Any, prompts: Sequence[Prompt], size: int, options: GenerationOptions = OPTIONS
) -> list[Prediction]:
    return [
        prediction
        for start in range(0, len(prompts), size)
        for prediction in model.generate(model.encode(prompts[start : start + size]), options)
    ]


def tokens(predictions: Sequence[Prediction]) -> list[tuple[int, ...]]:
    return [prediction.token_ids for prediction in predictions]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model's files that a test may damage."""
    shutil.copytree(LLAVA, tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **fields: Any) -> Any:
    model = HfVlm(HfVlmConfig(source=str(folder), device="cpu", threads=1, **fields))
    return model.open(model.request())


class TestGenerate:
    def test_answers_do_not_depend_on_the_batch(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        single, eight = answer(tiny, prompts, 1), answer(tiny, prompts, 8)
        assert tokens(single) == tokens(eight)
        for one, other in zip(single, eight, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)

    def test_logprobs_are_those_of_a_teacher_forced_pass(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        import torch

        for prompt, prediction in zip(prompts[:6], answer(tiny, prompts[:6], 6), strict=True):
            inputs = dict(tiny.encode([prompt]).inputs)
            length = inputs["input_ids"].shape[1]
            continuation = torch.tensor([prediction.token_ids])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], continuation], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.inference_mode():
                logits = tiny.module(**inputs).logits[0, length - 1 : -1].float()
            expected = logits.log_softmax(-1).gather(1, continuation[0][:, None])[:, 0]
            assert prediction.logprobs == pytest.approx(expected.tolist(), abs=1e-4)

    def test_fields_agree_with_one_another(self, tiny: Any, prompts: tuple[Prompt, ...]) -> None:
        for prediction in answer(tiny, prompts, 8):
            assert prediction.finish is FinishReason.STOP
            assert set(prediction.token_ids) & tiny.end_tokens == {prediction.token_ids[-1]}
            assert len(prediction.logprobs) == len(prediction.token_ids)
            assert prediction.top[0].id == prediction.token_ids[0]
            assert prediction.top[0].logprob == pytest.approx(prediction.logprobs[0])
            best = [top.logprob for top in prediction.top]
            assert len(best) == 5
            assert best == sorted(best, reverse=True)
            assert prediction.top[0].text.strip() in prediction.text
            assert "</s>" not in prediction.text
            assert prediction.text == prediction.text.strip() != ""
            assert prediction.visual_tokens == (64,) * 6
            assert prediction.prefill_ms is not None
            assert prediction.prefill_ms > 0
            assert prediction.decode_ms > 0

    def test_an_answer_that_is_cut_off_says_so(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        for prediction in answer(tiny, prompts, 8, GenerationOptions(max_new_tokens=1)):
            assert prediction.finish is FinishReason.LENGTH
            assert len(prediction.token_ids) == len(prediction.logprobs) == 1

    def test_answers_come_from_the_image(self, tiny: Any) -> None:
        def ask(colour: tuple[int, int, int]) -> str:
            pixels = np.full((64, 64, 3), 235, np.uint8)
            pixels[20:44, 16:48] = colour
            prompt = Prompt("i", (Image.from_pixels(pixels),), "What color is the rectangle?")
            text: str = answer(tiny, [prompt], 1)[0].text
            return text

        assert (ask((255, 0, 0)), ask((0, 0, 255))) == ("red", "blue")

    def test_text_without_an_image_is_answered(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        blind = [Prompt("blind", (), prompts[0].text)]
        assert answer(tiny, blind, 1)[0].visual_tokens == (0,) * 6
        mixed = answer(tiny, [*prompts[:2], *blind], 3)
        assert tokens(mixed) == tokens(answer(tiny, [*prompts[:2], *blind], 1))

    def test_extra_options_reach_generate(self, tiny: Any, prompts: tuple[Prompt, ...]) -> None:
        options = GenerationOptions(max_new_tokens=8, extra={"min_new_tokens": 5})
        assert all(len(p.token_ids) >= 5 for p in answer(tiny, prompts[:4], 4, options))

    def test_question_with_a_placeholder_is_refused(self, tiny: Any) -> None:
        with pytest.raises(DataError, match=r"instance q7.*<image>"):
            tiny.encode([Prompt("q7", (), "What does <image> mean?")])

    def test_unreadable_image_is_a_data_error(self, tiny: Any, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"not a picture")
        broken = Prompt("i", (Image.from_file(tmp_path / "broken.png"),), "What is it?")
        with pytest.raises(DataError, match="not a readable image"):
            tiny.encode([broken])

    def test_state_is_cleared_even_after_an_error(
        self, tiny: Any, prompts: tuple[Prompt, ...]
    ) -> None:
        encoded = tiny.encode(prompts[:1])
        with pytest.raises(ValueError, match="must be greater than 0"):
            tiny.generate(encoded, GenerationOptions(max_new_tokens=-1))
        assert tiny.batch is None
        assert tiny.token_depths == ()


class TestLoading:
    def test_eager_answers_like_sdpa(self, tiny: Any, prompts: tuple[Prompt, ...]) -> None:
        with load(LLAVA, attention="eager") as eager:
            assert eager.module.config._attn_implementation == "eager"
            assert tokens(answer(eager, prompts, 8)) == tokens(answer(tiny, prompts, 8))

    def test_sampling_settings_of_the_checkpoint_do_not_apply(
        self, tiny: Any, prompts: tuple[Prompt, ...], folder: Path
    ) -> None:
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text()) | {
            "do_sample": True,
            "temperature": 5.0,
            "repetition_penalty": 9.0,
            "num_beams": 3,
            "max_new_tokens": 2,
            "suppress_tokens": list(range(280, 400)),
        }
        path.write_text(json.dumps(settings))
        with load(folder) as loaded:
            assert tokens(answer(loaded, prompts, 8)) == tokens(answer(tiny, prompts, 8))

    def test_end_tokens_of_the_checkpoint_apply(
        self, tiny: Any, prompts: tuple[Prompt, ...], folder: Path
    ) -> None:
        first = answer(tiny, prompts[:1], 1)[0].token_ids[0]
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, first]}))
        with load(folder) as loaded:
            prediction = answer(loaded, prompts[:1], 1)[0]
        assert prediction.token_ids == (first,)
        assert prediction.finish is FinishReason.STOP

    def test_padding_is_on_the_left_whatever_the_tokenizer_says(
        self, tiny: Any, prompts: tuple[Prompt, ...], folder: Path
    ) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "right"}))
        with load(folder) as loaded:
            assert tokens(answer(loaded, prompts, 8)) == tokens(answer(tiny, prompts, 8))

    def test_what_is_loaded_is_what_was_described(self, tiny: Any) -> None:
        model = TinyLlava(TinyConfig(device="cpu", dtype="float32", threads=1))
        assert model.request() == tiny.request
        assert model.describe(tiny.request) == tiny.info
        assert tiny.info.family == "llava"
        assert tiny.info.layers == len(tiny.anatomy.layers)
        assert tiny.info.visual_tokens == 64
        assert tiny.info.has_anatomy
        assert tiny.info.processor == "LlavaProcessor/CLIPImageProcessorPil"

    @pytest.mark.parametrize(("strategy", "tells"), [("default", True), ("full", False)])
    def test_whether_it_tells_of_its_tower_is_known_before_loading(
        self, strategy: str, tells: bool, folder: Path
    ) -> None:
        path = folder / "config.json"
        changed = {"vision_feature_select_strategy": strategy}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        with load(folder) as loaded:
            assert loaded.info.has_vision is tells
            assert (loaded.anatomy.vision is not None) is tells

    def test_parts_named_by_the_anatomy_exist(self, tiny: Any) -> None:
        for name in (*tiny.anatomy.vision_parts, tiny.anatomy.head):
            tiny.module.get_submodule(name)

    def test_dtype_and_threads_are_as_requested_and_put_back(self) -> None:
        import torch

        before = torch.get_num_threads()
        model = HfVlm(
            HfVlmConfig(
                source=str(LLAVA),
                device="cpu",
                dtype="bfloat16",
                threads=before + 1,
            )
        )
        with model.open(model.request()) as loaded:
            assert torch.get_num_threads() == before + 1
            assert loaded.module is not None
            assert loaded.module.dtype is torch.bfloat16
        assert torch.get_num_threads() == before
        assert loaded.module is None

    def test_missing_gpu_is_named(self) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        model = HfVlm(HfVlmConfig(source=str(LLAVA), device="cuda"))
        with pytest.raises(RunError, match="no GPU"), model.open(model.request()):
            pass


class TestFiles:
    def test_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="neither a directory nor a hub id"):
            HfVlm(HfVlmConfig(source=str(tmp_path / "none"))).request()

    def test_directory_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no config\.json"):
            HfVlm(HfVlmConfig(source=str(tmp_path))).request()

    def test_model_that_was_not_downloaded(self) -> None:
        model = HfVlm(HfVlmConfig(source="nobody/nothing", revision="v1"))
        with pytest.raises(DataError, match="hf download nobody/nothing --revision v1"):
            model.request()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("model.safetensors", "no weights"),
            ("processor_config.json", "no image processor"),
        ],
    )
    def test_missing_file(self, folder: Path, name: str, message: str) -> None:
        (folder / name).unlink()
        model = HfVlm(HfVlmConfig(source=str(folder)))
        with pytest.raises(DataError, match=message):
            model.describe(model.request())
        with pytest.raises(DataError, match=message), model.open(model.request()):
            pass

    def test_pickled_weights_are_refused(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        model = HfVlm(HfVlmConfig(source=str(folder)))
        with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle, which can run any"):
            model.describe(model.request())

    def test_missing_shard(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        model = HfVlm(HfVlmConfig(source=str(folder)))
        with pytest.raises(DataError, match=r"00001-of-00002.*missing"):
            model.describe(model.request())

    def test_damaged_weights(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(DataError, match=r"model\.safetensors is damaged"), load(folder):
            pass

    def test_cut_weights(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        with pytest.raises(DataError, match="cannot load the model"), load(folder):
            pass

    def test_weights_of_another_depth(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] += 1
        (folder / "config.json").write_text(json.dumps(config))
        with (
            pytest.raises(DataError, match=r"lack .*layers\.6\..* and 6 more, so they are not"),
            load(folder),
        ):
            pass

    def test_weights_of_another_width(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["intermediate_size"] += 64
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(DataError, match=r"have other shapes for .*mlp"), load(folder):
            pass

    def test_not_enough_memory(self, folder: Path) -> None:
        header = {"a": {"dtype": "BF16", "shape": [2**46], "data_offsets": [0, 2**47]}}
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        with (
            pytest.raises(RunError, match=r"take 262,144\.0 GiB in float32, but cpu has .* left"),
            load(folder),
        ):
            pass

    def test_missing_chat_template(self, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        with pytest.raises(DataError, match="no chat template"), load(folder):
            pass

    def test_unknown_processor_class(self, folder: Path) -> None:
        for name in ("processor_config.json", "tokenizer_config.json"):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace("LlavaProcessor", "NoSuchProcessor"))
        with (
            pytest.raises(DataError, match=r"no image-text processor|cannot load the processor"),
            load(folder),
        ):
            pass

    def test_config_that_is_not_json(self, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        with pytest.raises(DataError, match="not valid JSON"):
            HfVlm(HfVlmConfig(source=str(folder))).request()

    def test_tiny_llava_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="tiny-llava: no weights"):
            TinyLlava(TinyConfig(weights=tmp_path)).request()

    @pytest.mark.parametrize("name", sorted(p.name for p in LLAVA.glob("*.j*")))
    def test_every_file_enters_the_description(self, folder: Path, name: str) -> None:
        model = HfVlm(HfVlmConfig(source=str(folder)))
        before = model.describe(model.request())
        with (folder / name).open("a") as file:
            file.write("\n")
        after = model.describe(model.request())
        changed = {key for key in before.weights if before.weights[key] != after.weights[key]}
        assert changed == {name}

    def test_hub_model_is_found_in_the_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        commit = "a" * 40
        repo = tmp_path / "models--some--model"
        snapshot = repo / "snapshots" / commit
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        shutil.copytree(LLAVA, snapshot)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        model = HfVlm(HfVlmConfig(source="some/model", device="cpu"))
        request = model.request()
        assert (request.source, request.revision) == ("some/model", commit)
        assert model.describe(request).layers == 6

    def test_describing_imports_neither_torch_nor_transformers(self) -> None:
        code = (
            "import sys\n"
            "import stabfw_models.hf_vlm\n"
            "from stabfw_models.tiny import TinyLlava, TinyConfig\n"
            "model = TinyLlava(TinyConfig())\n"
            "assert 'numpy' not in sys.modules\n"
            "model.describe(model.request())\n"
            "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


class TestAuto:
    def test_dtype(self) -> None:
        assert devices.resolve_dtype("auto", {"dtype": "bfloat16"}, "cpu") == "float32"
        assert devices.resolve_dtype("auto", {"dtype": "bfloat16"}, "cuda") == "bfloat16"
        assert devices.resolve_dtype("auto", {"torch_dtype": "float16"}, "cuda:1") == "float16"
        nested = {"text_config": {"dtype": "bfloat16"}}
        assert devices.resolve_dtype("auto", nested, "cuda") == "bfloat16"
        assert devices.resolve_dtype("float16", {}, "cpu") == "float16"

    def test_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert devices.resolve_threads(None) == 3
        assert devices.resolve_threads(2) == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert devices.resolve_threads(None) == 1

    def test_device(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "0000:01").mkdir()
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(devices, "_GPUS", ((str(tmp_path), "*"),))
        monkeypatch.setattr(devices.metadata, "version", lambda _: "2.13.0")
        assert devices.resolve_device("auto") == "cuda"
        assert devices.resolve_device("cpu") == "cpu"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert devices.resolve_device("auto") == "cpu"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(devices.metadata, "version", lambda _: "2.13.0+cpu")
        assert devices.resolve_device("auto") == "cpu"

    def test_request_leaves_nothing_open(self) -> None:
        request = TinyLlava(TinyConfig()).request()
        assert isinstance(request, LoadRequest)
        assert "auto" not in (request.dtype, request.device, request.attention)
