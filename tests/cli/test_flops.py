"""`stabfw flops` says what a prompt costs, and what is wrong with a question that has no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.cli import invoke
from stabfw.errors import Exit

LLAVA = "llava-hf/llava-1.5-7b-hf"
Flops = Callable[..., dict[str, Any]]


@pytest.fixture
def flops(capsys: pytest.CaptureFixture[str]) -> Flops:
    """What `stabfw flops --json` prints."""

    def printed(*args: str) -> dict[str, Any]:
        assert invoke(["flops", "--json", "--model", *args]) == Exit.OK
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return printed


def test_json_tells_everything(flops: Flops) -> None:
    told = flops(LLAVA)
    assert told["flops"]["total"] == sum(told["flops"]["parts"].values()) == 8_381_444_653_056
    assert list(told["flops"]["parts"]) == ["vision tower", "projector", "decoder", "head"]
    assert told["parameters"]["total"] == sum(told["parameters"]["parts"].values())
    assert told["parameters"]["total"] == 7_063_427_072
    assert told["weight_bytes"] == {
        "float32": 4 * 7_063_427_072,
        "bfloat16": 2 * 7_063_427_072,
        "float16": 2 * 7_063_427_072,
    }
    assert (told["visual_tokens"], told["text_tokens"]) == (576, 30)
    assert told["visual_tokens_by_layer"] == [576] * 32
    # Keys and values of 32 heads of 128 numbers, two bytes each.
    assert told["kv_cache_bytes"] == {
        "token_and_layer": 16_384,
        "token": 32 * 16_384,
        "prompt": 606 * 32 * 16_384,
    }


def test_kept_tokens_save_operations_and_cache(flops: Flops) -> None:
    whole, counts = flops(LLAVA), flops(LLAVA, "--keep", "2:288,16:100")
    assert counts["visual_tokens_by_layer"] == [576] * 2 + [288] * 14 + [100] * 16
    assert flops(LLAVA, "--keep", "2:0.5, 16:100") == counts
    for part in ("decoder", "head"):
        assert counts["flops"]["parts"][part] < whole["flops"]["parts"][part]
    tokens = 2 * 576 + 14 * 288 + 16 * 100 + 32 * 30
    assert counts["kv_cache_bytes"]["prompt"] == tokens * 16_384


def test_pruning_counts_the_modules(flops: Flops) -> None:
    told = flops(LLAVA, "--pruning", "lvpruning:0.5")
    assert told["visual_tokens_by_layer"] == [576] + [288] * 7 + [172] * 8 + [57] * 16
    assert told["flops"]["total"] / 1e12 == pytest.approx(3.18, abs=0.01)
    assert told["flops"]["parts"]["selection"] > 0


def test_conventions_and_heads_differ(flops: Flops) -> None:
    linear = flops(LLAVA)["flops"]["parts"]
    matmul = flops(LLAVA, "--convention", "matmul")["flops"]["parts"]
    assert matmul["decoder"] - linear["decoder"] == 32 * 4 * 606**2 * 4096
    assert matmul["projector"] == linear["projector"]
    last = flops(LLAVA, "--head", "last")["flops"]["parts"]
    assert linear["head"] == 606 * last["head"]


def test_pictures_add_up(flops: Flops) -> None:
    name = "llava-hf/llava-v1.6-mistral-7b-hf"
    one, other = flops(name, "--image", "336x336"), flops(name, "--image", "640x480")
    both = flops(name, "--image", "336x336", "--image", "640x480")
    assert (one["visual_tokens"], other["visual_tokens"]) == (1176, 2340)
    assert both["visual_tokens"] == 1176 + 2340
    parts = [told["flops"]["parts"]["vision tower"] for told in (one, other, both)]
    assert parts[0] + parts[1] == parts[2]


def test_visual_tokens_leave_the_vision_part_out(flops: Flops) -> None:
    told = flops(LLAVA, "--visual-tokens", "576")
    assert list(told["flops"]["parts"]) == ["decoder", "head"]
    assert told["flops"]["parts"]["decoder"] == flops(LLAVA)["flops"]["parts"]["decoder"]
    assert told["parameters"] == flops(LLAVA)["parameters"]


def test_plugins_and_directories_are_models_too(flops: Flops) -> None:
    from stabfw_models.tiny import WEIGHTS

    plugin, directory = flops("tiny-llava"), flops(str(WEIGHTS / "tiny-llava"))
    assert plugin["flops"] == directory["flops"]
    assert plugin["visual_tokens"] == 64
    source = "Qwen/Qwen2-VL-2B-Instruct"
    config = json.dumps({"source": source, "max_pixels": 100 * 28 * 28})
    limited = flops("qwen2-vl", "--config", config, "--image", "640x480")
    assert limited["visual_tokens"] == 88
    assert flops(source, "--image", "640x480")["visual_tokens"] == 391


def test_table_says_what_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["flops", "--model", LLAVA, "--keep", "2:0.5", "--dtype", "float32"]
    assert invoke([*args, "--convention", "matmul", "--head", "last"]) == Exit.OK
    shown = capsys.readouterr().out
    for text in (
        "576 visual and 30 text tokens",
        "7,063,427,072",
        "weights (float32)",
        "26.31 GiB",
        "TFLOPs",
        "counted: attention included, logits of the last token",
        "visual tokens by layer: 576 (0-1), 288 (2-31)",
        "KV cache: 32 KiB a token and layer, 1 MiB a token",
    ):
        assert text in shown
    assert invoke(["flops", "--model", LLAVA, "--visual-tokens", "9"]) == Exit.OK
    assert "not counted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["owner/none"], Exit.USAGE, "known without a download: Qwen/Qwen2-VL-2B-Instruct"),
        (["tiny-lava"], Exit.USAGE, "neither a directory nor a hub id"),
        (["llava"], Exit.USAGE, "source: Field required; `stabfw plugins llava`"),
        ([LLAVA, "--config", "{"], Exit.USAGE, "not valid JSON"),
        ([LLAVA, "--config", '{"max_pixels": 9}'], Exit.USAGE, "hf-vlm: max_pixels"),
        (
            ["openai-endpoint", "--config", '{"url": "http://localhost:1/v1", "model": "m"}'],
            Exit.PLUGIN,
            "does not state its sizes",
        ),
        ([LLAVA, "--image", "336"], Exit.USAGE, "'336' is not a width and a height"),
        ([LLAVA, "--image", "0x9"], Exit.USAGE, "'0x9' is not a width and a height"),
        ([LLAVA, "--image", "9x9", "--visual-tokens", "1"], Exit.USAGE, "not both"),
        ([LLAVA, "--keep", "2:1", "--pruning", "lvpruning:0.5"], Exit.USAGE, "not both"),
        ([LLAVA, "--keep", "2"], Exit.USAGE, "'2' is not LAYER:KEPT"),
        ([LLAVA, "--keep", "2:5,2:4"], Exit.USAGE, "layer 2 is given twice"),
        ([LLAVA, "--keep", "2:1.5"], Exit.USAGE, "cannot keep 864 visual tokens: there are 576"),
        ([LLAVA, "--keep", "32:9"], Exit.USAGE, "the model has layers 0 to 31"),
        ([LLAVA, "--pruning", "fastv:0.5"], Exit.USAGE, "is not lvpruning:RATIO"),
        ([LLAVA, "--pruning", "lvpruning:0.3"], Exit.USAGE, "must lie between 0.4 and 1"),
        (["tiny-llava", "--pruning", "lvpruning:0.5"], Exit.PLUGIN, "has only 6 layers"),
        ([LLAVA, "--text-tokens", "4000"], Exit.USAGE, "4,576 tokens are more than the 4,096"),
        (["Qwen/Qwen2-VL-2B-Instruct", "--image", "9999x9"], Exit.USAGE, "too narrow"),
    ],
)
def test_errors_say_what_to_do(
    args: list[str],
    code: Exit,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["flops", "--model", *args]) == code
    assert message in capsys.readouterr().err
