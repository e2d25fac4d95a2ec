"""Runs that are killed, and runs that share a store."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.report.results import Results
from stabfw.report.serialise import load_results
from stabfw.spec import ExperimentSpec
from stabfw.store import Store

Make = Callable[..., ExperimentSpec]

_RUN = """
import json, sys
from stabfw.experiment import run
from stabfw.registry import Registry
from stabfw.spec import parse_spec
registry = Registry()
run(parse_spec(json.loads(sys.argv[1]), registry), registry=registry)
"""


def start(spec: ExperimentSpec) -> subprocess.Popen[bytes]:
    plugins = str(Path(__file__).parents[1] / "plugins")
    environment = {**os.environ, "PYTHONPATH": plugins}
    command = [sys.executable, "-c", _RUN, json.dumps(spec.dump())]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=_heed_interrupts
    )


def _heed_interrupts() -> None:
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def metrics(results: Results) -> dict[str, Any]:
    return {c.condition.label: (c.metrics, c.floor, c.counts) for c in results.comparisons}


def batches(spec: ExperimentSpec) -> int:
    try:
        with Store(spec.store) as store:
            return sum(len(store.committed(row.key)) for row in store.cells())
    except Exception:
        return 0


def kill_and_resume(spec: ExperimentSpec, kills: int, seed: int) -> int:
    """Kill a run at random moments until it has been killed often enough, then let it finish.

    Returns:
        How many of the kills found work under way, that is batches but no results.
    """
    draw, under_way = random.Random(seed), 0
    for _ in range(kills):
        process = start(spec)
        begun = batches(spec)
        while batches(spec) == begun and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            under_way += 1
        process.wait()
    assert start(spec).wait() == 0
    return under_way


def check_whole(spec: ExperimentSpec, per_cell: int) -> None:
    """No instance is lost or doubled; the primary key rules out doubles within a cell."""
    with Store(spec.store) as store:
        for row in store.cells():
            assert row.status == "done", row.reason
            assert len(store.predictions(row.key)) == per_cell
        assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_killed_run_goes_on_to_the_same_numbers(
    make_spec: Make, registry: Registry, tmp_path: Path, executor: str
) -> None:
    shared: dict[str, Any] = {
        "models": [{"type": "parrot", "delay_ms": 30, "batch_sensitive": 0.2}],
        "stacks": {"half": ["half"], "planted": ["planted"]},
        "perturbations": ["suffix"],
        "batch_size": 4,
        "compare": "deployed",
        "execution": {"executor": executor, "workers": 2},
    }
    whole = run(make_spec(**shared, store=str(tmp_path / "whole")), registry=registry)
    spec = make_spec(**shared, runs=str(tmp_path / "killed"))
    assert kill_and_resume(spec, kills=4, seed=1) >= 2
    resumed = load_results(tmp_path / "killed" / "test" / "results.json")
    assert metrics(resumed) == metrics(whole.results)
    check_whole(spec, per_cell=100)


@pytest.mark.slow
def test_twenty_kills_of_a_real_model(tmp_path: Path, registry: Registry) -> None:
    from stabfw.spec import parse_spec

    def spec(name: str) -> ExperimentSpec:
        return parse_spec(
            {
                "stabfw": 1,
                "name": "killed",
                "models": ["tiny-llava"],
                "stacks": {
                    "fastv": [{"type": "fastv", "layer": 2, "keep_ratio": 0.25}],
                    "hqq": [{"type": "hqq", "bits": 2}],
                },
                "benchmarks": [{"type": "shapes", "limit": 240}],
                "perturbations": ["typos", {"type": "gaussian-noise", "severity": 3}],
                "controls": {"noise_floor": {"repeats": 1}},
                "store": str(tmp_path / name),
                "runs": str(tmp_path / f"runs-{name}"),
                "tracking": {"uri": None},
                "batch_size": 4,
            },
            registry,
        )

    assert start(spec("whole")).wait() == 0
    assert kill_and_resume(spec("killed"), kills=20, seed=2) >= 10
    whole = load_results(tmp_path / "runs-whole" / "killed" / "results.json")
    resumed = load_results(tmp_path / "runs-killed" / "killed" / "results.json")
    assert metrics(resumed) == metrics(whole)
    check_whole(spec("killed"), per_cell=240)


def test_two_experiments_share_a_baseline_at_once(
    make_spec: Make, registry: Registry, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {
        "models": [{"type": "parrot", "delay_ms": 20}],
        "batch_size": 2,
        "controls": {"noise_floor": {"repeats": 1}},
    }
    specs = [
        make_spec(**shared, name=name, stacks={name: [{"type": "planted", "answers": {name: "x"}}]})
        for name in ("one", "two")
    ]
    processes = [start(spec) for spec in specs]
    assert [process.wait() for process in processes] == [0, 0]
    with Store(specs[0].store) as store:
        labels = sorted(row.label.split(" · questions")[0] for row in store.cells())
    assert labels == [
        "baseline · clean",
        "baseline · repeat 1 · clean",
        "one · clean",
        "two · clean",
    ]
    check_whole(specs[0], per_cell=100)
    for name in ("one", "two"):
        results = load_results(tmp_path / "runs" / name / "results.json")
        assert [c.condition.stack for c in results.comparisons] == [name]
        assert not results.failures


def test_interrupt_gives_the_cells_up_and_keeps_what_is_done(make_spec: Make) -> None:
    spec = make_spec(models=[{"type": "parrot", "delay_ms": 400}], batch_size=2)
    process = start(spec)
    while batches(spec) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() != 0
    with Store(spec.store) as store:
        assert store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
    assert batches(spec) >= 3
