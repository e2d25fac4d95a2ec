"""Another attention back end changes no answer, and is reported only where it was another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stabfw.components import Prediction
from stabfw_accelerators.attention import Attention, AttentionConfig
from stabfw_models.tiny import TinyConfig, TinyLlava

Ask = Callable[..., list[Prediction]]


def test_answers_stay(ask: Ask, baseline: list[Prediction]) -> None:
    accelerator = Attention(AttentionConfig(implementation="eager"))
    model = TinyLlava(TinyConfig(device="cpu", threads=1))
    with model.open(accelerator.on_load(model.request())) as loaded:
        answers = ask(loaded)
        report = accelerator.report(loaded)
    assert report == {"engaged": True, "attention": "eager", "replaced": "sdpa"}
    assert accelerator.expects_identical
    assert [a.token_ids for a in answers] == [b.token_ids for b in baseline]


def test_same_back_end_is_not_engaged(tiny: Any) -> None:
    accelerator = Attention(AttentionConfig(implementation="sdpa"))
    assert "sdpa attention anyway" in str(accelerator.supports(tiny.info, tiny.request))
    assert accelerator.on_load(tiny.request) == tiny.request
    assert accelerator.report(tiny)["engaged"] is False


def test_back_end_that_was_not_taken_up_is_not_engaged(tiny: Any) -> None:
    accelerator = Attention(AttentionConfig(implementation="eager"))
    assert accelerator.on_load(tiny.request).attention == "eager"
    assert accelerator.report(tiny)["engaged"] is False


def test_only_the_attention_of_the_request_changes(tiny: Any) -> None:
    accelerator = Attention(AttentionConfig(implementation="eager"))
    assert accelerator.supports(tiny.info, tiny.request) is None
    changed = accelerator.on_load(tiny.request)
    assert replace(changed, attention="sdpa") == tiny.request
    assert accelerator.on_load(changed) == changed
    assert accelerator.alters == {"attention"}


def test_plugins_import_nothing_heavy() -> None:
    names = ("attention", "divprune", "fastv", "hqq", "int8", "pyramiddrop", "random_drop", "vtw")
    imports = "\n".join(f"import stabfw_accelerators.{name}" for name in names)
    code = (
        f"import sys\n{imports}\n"
        "sys.exit(' '.join({'torch', 'transformers', 'hqq', 'torchao', 'numpy'}"
        " & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
