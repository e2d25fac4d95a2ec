"""Light commands stay light: what they import is counted in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "datasets", "mlflow", "numpy", "scipy", "PIL", "pandas", "rich"}


def imported(code: str, cwd: Path) -> set[str]:
    show = "import sys; print('\\n', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_stabfw_imports_nothing_else(tmp_path: Path) -> None:
    loaded = imported("import stabfw; assert 'run' in dir(stabfw)", tmp_path)
    assert {name for name in loaded if name.startswith("stabfw")} == {"stabfw"}
    assert not {"pydantic", "pluggy", "ruamel"} & loaded


def test_help_imports_click_and_no_command(tmp_path: Path) -> None:
    loaded = imported("from stabfw.cli import invoke; invoke(['--help'])", tmp_path)
    assert "click" in loaded
    assert {name for name in loaded if name.startswith("stabfw")} == {
        "stabfw",
        "stabfw.cli",
        "stabfw.errors",
    }
    assert not {"pydantic", "pluggy", "ruamel"} & loaded


FLOPS = ["flops", "--model", "Qwen/Qwen2.5-VL-7B-Instruct"]


@pytest.mark.parametrize(
    "args",
    [
        ["plugins"],
        ["schema"],
        ["init"],
        ["plugins", "shapes"],
        [*FLOPS, "--json"],
        ["flops", "--model", "tiny-llava", "--keep", "2:0.5", "--json"],
    ],
)
def test_light_commands(args: list[str], tmp_path: Path) -> None:
    loaded = imported(f"from stabfw.cli import invoke; assert invoke({args}) == 0", tmp_path)
    assert not HEAVY & loaded


def test_table_of_flops_needs_no_model(tmp_path: Path) -> None:
    loaded = imported(f"from stabfw.cli import invoke; assert invoke({FLOPS}) == 0", tmp_path)
    # A table takes rich, and the other tables' module numpy.
    assert not (HEAVY - {"rich", "numpy"} | {"huggingface_hub"}) & loaded


def test_validating_a_spec_with_built_in_plugins(tmp_path: Path) -> None:
    code = (
        "from stabfw import Registry, load_spec; from stabfw.cli import invoke; invoke(['init']); "
        "load_spec('spec.yaml', Registry())"
    )
    loaded = imported(code, tmp_path)
    assert "stabfw_models.tiny" in loaded
    assert "stabfw_models.hf_vlm.loaded" not in loaded
    assert not HEAVY & loaded
