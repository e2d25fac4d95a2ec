"""`stabfw plan` on specs whose data and checkpoints are not on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stabfw.errors import DataError
from stabfw.plan import GPUS, Estimator, make_plan
from stabfw.plan.estimate import EFFICIENCY
from stabfw.registry import Registry
from stabfw.spec import ExperimentSpec, load_spec, parse_spec, to_yaml
from stabfw.store import Store
from stabfw_models.tiny import WEIGHTS

STABFW = str(Path(sys.executable).with_name("stabfw"))
STUDY = Path(__file__).parents[2] / "examples" / "study"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def small(registry: Registry, tmp_path: Path, **changes: object) -> ExperimentSpec:
    plain = {
        "stabfw": 1,
        "name": "small",
        "models": [{"type": "llava", "source": "llava-hf/llava-1.5-7b-hf"}],
        "stacks": {"fastv": ["fastv"]},
        "benchmarks": [{"type": "pope", "limit": 500}],
        "controls": {"noise_floor": {"repeats": 1}},
        "store": str(tmp_path / "store"),
    }
    return parse_spec({**plain, **changes}, registry)


@pytest.mark.parametrize("spec", sorted(STUDY.glob("*.yaml")), ids=lambda path: path.stem)
def test_study_is_laid_out_without_torch(spec: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from stabfw.cli import invoke\n"
        f"assert invoke(['plan', {str(spec)!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path), "PATH": "", "COLUMNS": "120"},
    )
    *told, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    text = "\n".join(told)
    assert "GPU hours on one A100" in text
    assert "unsupported" not in text
    assert "not here" in text


def test_a_gate_is_laid_out_without_the_data(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stabfw.cli import invoke

    gates = [{"metric": "correct_loss_rate", "at_most": 0.02}]
    path = tmp_path / "spec.yaml"
    path.write_text(to_yaml(small(registry, tmp_path, gates=gates)))
    assert invoke(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "500 questions, independent pictures: not known; 70.0% right, assumed" in said
    assert "350 answers can be lost, worth 350 independent ones (without the data" in said
    # Even all of them right and kept could not show so little.
    assert invoke(["plan", str(path), "--set", "gates.0.at_most=0.005"]) == 2
    assert "its 500 questions are too few" in capsys.readouterr().err


def test_study_is_the_grid_that_was_promised(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec(STUDY / "grid.yaml", registry)
    with Store(tmp_path / "store") as store:
        plan = make_plan(spec, registry, store, outline=True)
    compared = {
        (c.model, c.stack, c.benchmark, c.perturbation)
        for c in plan.named
        if c.stack in spec.stacks
    }
    assert len({model for model, *_ in compared}) == 4
    assert len({stack for _, stack, *_ in compared}) == 8
    assert len({benchmark for _, _, benchmark, _ in compared}) == 10
    assert len(compared) == 4 * len(spec.stacks) * 10 * (1 + len(spec.perturbations))
    sizes = {cell.dataset.type: cell.dataset.size for cell in plan.cells}
    assert (sizes["pope"], sizes["mmmu"], sizes["mme"]) == (3000, 900, 2374)


def test_a_run_does_not_take_an_outline_for_the_data(registry: Registry, tmp_path: Path) -> None:
    spec = small(registry, tmp_path)
    with Store(spec.store) as store:
        with pytest.raises(DataError, match="hf download lmms-lab/POPE"):
            make_plan(spec, registry, store)
        plan = make_plan(spec, registry, store, outline=True)
    assert [cell.dataset.size for cell in plan.cells] == [500] * 3
    assert len(plan.missing) == 2


def test_calibration_is_laid_out_without_its_data(registry: Registry, tmp_path: Path) -> None:
    calibration = {"benchmark": "textvqa", "split": "train", "limit": 32}
    spec = small(registry, tmp_path, stacks={"awq": ["awq"]}, calibration=calibration)
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store, outline=True)
    assert [fit.label for fit in plan.fits] == ["awq for llava"]
    assert any("lmms-lab/textvqa" in what for what in plan.missing)
    assert len(plan.cells) == 3


def test_what_nothing_is_known_of_is_an_error_still(registry: Registry, tmp_path: Path) -> None:
    spec = small(registry, tmp_path, models=[{"type": "hf-vlm", "source": "some/model"}])
    with Store(spec.store) as store, pytest.raises(DataError, match="hf download some/model"):
        make_plan(spec, registry, store, outline=True)


def test_hours_follow_from_the_sizes(registry: Registry, tmp_path: Path) -> None:
    spec = small(registry, tmp_path, generation={"max_new_tokens": 1})
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store, outline=True)
    cell, model = plan.cells[0], plan.sessions[0].model
    gpu = GPUS["a100"]
    hours = Estimator(gpu, spec.batch_size).hours(cell, model)
    asked = "--image 640x480 --text-tokens 40 --head last --convention matmul --json"
    told = subprocess.run(
        [STABFW, "flops", "--model", "llava-hf/llava-1.5-7b-hf", *asked.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    operations = json.loads(told.stdout)["flops"]["total"]
    # With a single token there is no decoding.
    assert hours == pytest.approx(500 * operations / (gpu.flops * EFFICIENCY) / 3600)
    longer = small(registry, tmp_path, generation={"max_new_tokens": 16})
    with Store(longer.store) as store:
        other = make_plan(longer, registry, store, outline=True).cells[0]
    more = Estimator(gpu, spec.batch_size).hours(other, model)
    assert more is not None
    assert hours is not None
    assert more > hours


def test_what_was_fitted_is_found_again_when_the_model_was_moved(
    registry: Registry, tmp_path: Path
) -> None:
    recipes = []
    for name in ("here", "there"):
        shutil.copytree(WEIGHTS / "tiny-llava", tmp_path / name)
        spec = small(
            registry,
            tmp_path,
            models=[{"type": "llava", "name": "same", "source": str(tmp_path / name)}],
            stacks={"smoothquant": ["smoothquant"]},
            benchmarks=[{"type": "shapes", "limit": 6}],
            calibration={"benchmark": {"type": "shapes", "limit": 6}, "split": "train"},
        )
        with Store(spec.store) as store:
            (fit,) = make_plan(spec, registry, store).fits
        recipes.append(fit.recipe)
    assert recipes[0] == recipes[1]
