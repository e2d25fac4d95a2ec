"""Gates as a user meets them: planned, judged by `run` and `gate`, told to people and to CI."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stabfw import Registry, cli, load_spec
from stabfw.errors import Exit
from stabfw.experiment import outcomes_of
from stabfw.plan import Role
from stabfw.report.gates import verdict_schema
from stabfw.report.serialise import load_results
from stabfw_test_plugins.parrot import Parrot

ROOT = Path(__file__).parents[2]
LOSS = "gates=[{{metric: correct_loss_rate, at_most: {0}}}]"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a spec about 400 questions that the parrot answers right, but for planted losses."""
    monkeypatch.chdir(tmp_path)

    def write(
        lost: int = 0, *, n: int = 400, share: int = 1, noise: float = 0.0, **changes: Any
    ) -> str:
        rows = [[f"what is {i}?", "none yet", f"c{i // share}"] for i in range(n)]
        Path("questions.json").write_text(json.dumps(rows))
        plain: dict[str, Any] = {
            "stabfw": 1,
            "name": "mine",
            "models": [{"type": "parrot", "dtype": "float32", "batch_sensitive": noise}],
            "benchmarks": [{"type": "questions", "path": "questions.json"}],
            "controls": {"noise_floor": {"repeats": 1}},
            "tracking": {"uri": None},
        }
        spec = Path("spec.yaml")
        spec.write_text(json.dumps({**plain, "stacks": {}}))
        cli.invoke(["run", "spec.yaml", "-q"])
        base = next(t for c, t in outcomes_of(Path("runs/mine")).items() if c.role is Role.BASELINE)
        given = dict(zip(base.instance_id.tolist(), base.answer.tolist(), strict=True))
        # Gold labels are no part of a question's identity, so they may follow from the answers.
        order = _ids(spec)
        for row, name in zip(rows, order, strict=True):
            row[1] = given[name]
        Path("questions.json").write_text(json.dumps(rows))
        planted = dict.fromkeys(order[:: max(n // max(lost, 1), 1)][:lost], "green")
        stacks = {"planted": [{"type": "planted", "answers": planted}]}
        gates = [{"metric": "correct_loss_rate", "at_most": 0.05}]
        spec.write_text(json.dumps({**plain, "stacks": stacks, "gates": gates, **changes}))
        return "spec.yaml"

    return write


def _ids(spec: Path) -> list[str]:
    from stabfw.components import Kind
    from stabfw.spec import components

    registry = Registry()
    (config,) = load_spec(spec, registry).benchmarks
    benchmark: Any = components(registry, Kind.BENCHMARK, config)
    return [instance.id for instance in benchmark.instances("test")]


def verdict_file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/mine/verdict.json").read_text())
    return found


@pytest.mark.parametrize(
    ("lost", "verdict", "code"),
    [(0, "pass", 0), (40, "fail", Exit.GATE_FAILED), (18, "inconclusive", Exit.INCONCLUSIVE)],
)
def test_the_exit_code_is_the_verdict(
    make: Callable[..., str], stabfw: Callable[..., str], lost: int, verdict: str, code: int
) -> None:
    spec = make(lost)
    assert f"verdict  {verdict}\n" in stabfw("run", spec, "-q", code=code)
    found = verdict_file()
    assert (found["verdict"], found["exit_code"], found["incomplete"]) == (verdict, code, 0)
    (cell,) = found["gates"][0]["cells"]
    assert cell["estimate"]["value"] == pytest.approx(lost / 400)
    # The same again, from the store alone.
    assert f"verdict  {verdict}\n" in stabfw("gate", "runs/mine", code=code)
    assert f"verdict  {verdict}\n" in stabfw("gate", spec, code=code)
    suite = ET.parse("runs/mine/junit.xml").getroot()
    numbers = [int(suite.get(key, "")) for key in ("tests", "failures", "errors")]
    assert numbers == [1, verdict == "fail", verdict == "inconclusive"]
    assert f"## mine: {verdict}\n" in Path("runs/mine/summary.md").read_text()
    assert f"at 0.95: {verdict}</h3>" in Path("runs/mine/report.html").read_text()


def test_a_noisy_baseline_makes_a_gate_not_measurable(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0, noise=0.2)
    said = stabfw("run", spec, "-q", code=Exit.NOT_MEASURABLE)
    assert "the baseline against itself already breaks the limit" in said
    assert verdict_file()["exit_code"] == Exit.NOT_MEASURABLE
    # What passes beside it does not help, what fails weighs more.
    two = "gates=[{metric: correct_loss_rate, at_most: 0.05}, {metric: %s, where: {stack: %s}}]"
    calm = two % ("excess_correct_loss, at_most: 0.3", "planted")
    stabfw("gate", spec, "--set", calm, code=Exit.NOT_MEASURABLE)
    lost = dict.fromkeys(_ids(Path(spec)), "green")
    worse = two % ("excess_correct_loss, at_most: 0.3", "worse")
    stacks = f"stacks.worse=[{{type: planted, answers: {json.dumps(lost)}}}]"
    stabfw("run", spec, "-q", "--set", worse, "--set", stacks, code=Exit.GATE_FAILED)


def test_a_stack_that_minds_its_company_cannot_hide_behind_that(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    """Only noise of the baseline makes a gate not measurable."""
    spec = make(
        stacks={"crowded": ["crowded"]},
        controls={"noise_floor": {"repeats": 1, "stacks": True}},
        gates=[{"metric": "divergence_ratio", "at_most": 0.05}],
    )
    assert "verdict  fail" in stabfw("run", spec, "-q", code=Exit.GATE_FAILED)
    own = load_results(Path("runs/mine/results.json")).comparisons[0].self_floor
    assert own["divergence_ratio"].low > 0.05
    (cell,) = verdict_file()["gates"][0]["cells"]
    assert cell["floor"]["value"] == 0


def test_other_gates_are_judged_without_the_model(
    make: Callable[..., str], stabfw: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make(18)
    stabfw("run", spec, "-q", code=Exit.INCONCLUSIVE)
    monkeypatch.setattr(Parrot, "open", None)
    stabfw("gate", "runs/mine", "--set", LOSS.format(0.1))
    stabfw("gate", "runs/mine", "--set", LOSS.format(0.01), code=Exit.GATE_FAILED)
    # The directory now has these gates.
    stabfw("gate", "runs/mine", code=Exit.GATE_FAILED)
    found = json.loads(stabfw("gate", spec, "--json", code=Exit.INCONCLUSIVE))
    assert found == verdict_file()
    told = stabfw("gate", spec, "--markdown", code=Exit.INCONCLUSIVE)
    assert told == Path("runs/mine/summary.md").read_text()
    assert load_results(Path("runs/mine/results.json")).verdict == "inconclusive"
    # What was lost of the directory is made anew.
    Path("runs/mine/verdict.json").unlink()
    stabfw("gate", spec, code=Exit.INCONCLUSIVE)
    assert verdict_file() == found
    none = stabfw("gate", "runs/mine", "--set", "gates=[]", code=Exit.USAGE)
    assert "there are no gates in the spec of 'mine'" in none
    stabfw("run", spec, "-q", "--set", "gates=[]")
    assert not Path("runs/mine/verdict.json").exists()


def test_a_class_is_judged_by_itself(make: Callable[..., str], stabfw: Callable[..., str]) -> None:
    spec = make(0, n=1500)
    rows = json.loads(Path("questions.json").read_text())
    planted = {i: "green" for i, row in zip(_ids(Path(spec)), rows, strict=True) if row[1] == "yes"}
    assert 100 < len(planted) < 200
    content = json.loads(Path(spec).read_text())
    content["stacks"] = {"planted": [{"type": "planted", "answers": planted}]}
    gate = {"metric": "correct_loss_rate", "at_most": 0.2}
    content["gates"] = [
        {**gate, "where": {"gold": "no"}},
        {**gate, "where": {"gold": "yes", "stack": "planted"}},
        gate,
    ]
    Path(spec).write_text(json.dumps(content))
    stabfw("run", spec, "-q", code=Exit.GATE_FAILED)
    found = verdict_file()["gates"]
    assert [gate["verdict"] for gate in found] == ["pass", "fail", "pass"]
    assert found[1]["where"] == {"stack": ["planted"], "gold": ["yes"]}
    assert found[1]["cells"][0]["estimate"]["n"] == len(planted)


def test_incomplete_goes_before_a_verdict(
    make: Callable[..., str], stabfw: Callable[..., str], tmp_path: Path
) -> None:
    spec = make(40)
    said = stabfw("run", spec, "-q", "--set", "benchmarks.0.broken=3", code=Exit.INCOMPLETE)
    assert "verdict  fail" in said
    assert verdict_file()["incomplete"] > 0
    flag = tmp_path / "flag"
    flag.touch()
    failing = f"stacks.bad=[{{type: failing, flag: {flag}}}]"
    said = stabfw("run", spec, "-q", "--set", failing, code=Exit.INCOMPLETE)
    cells = {c["condition"]["stack"]: c for c in verdict_file()["gates"][0]["cells"]}
    assert cells["bad"]["verdict"] == "inconclusive"
    assert cells["bad"]["estimate"] is None
    assert cells["planted"]["verdict"] == "fail"
    assert "are not in the store" in stabfw("gate", spec, "--set", failing, code=Exit.INCOMPLETE)


def test_missing_answers_count_as_lost(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0)
    stabfw("run", spec, "-q", "--set", "benchmarks.0.broken=30", code=Exit.INCOMPLETE)
    (cell,) = verdict_file()["gates"][0]["cells"]
    assert cell["verdict"] == "fail"
    assert cell["missing"] == 30
    assert cell["estimate"]["value"] == pytest.approx(30 / 400)
    assert cell["complete"]["value"] == 0
    broken = ("--set", "benchmarks.0.broken=30")
    for form in ((), ("--json",), ("--markdown",)):
        stabfw("gate", spec, *broken, *form, code=Exit.INCOMPLETE)


def test_an_unsupported_stack_cannot_pass(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0)
    said = stabfw("run", spec, "-q", "--set", "stacks.picky=[picky]", code=Exit.INCONCLUSIVE)
    assert "there are no outcomes: unsupported: picky: works on llava only" in said
    narrow = "gates=[{metric: correct_loss_rate, at_most: 0.05, where: {stack: planted}}]"
    stabfw("gate", spec, "--set", "stacks.picky=[picky]", "--set", narrow)


def test_controls_are_never_judged(make: Callable[..., str], stabfw: Callable[..., str]) -> None:
    spec = make(0)
    # The parrot has no other attention back end, so the control fails; the verdict stands.
    stabfw("run", spec, "-q", "--set", "controls.lossless=true", code=Exit.INCOMPLETE)
    results = load_results(Path("runs/mine/results.json"))
    assert {f.condition.role for f in results.failures} == {Role.LOSSLESS}
    assert results.verdict == "pass"
    assert {c["condition"]["stack"] for c in verdict_file()["gates"][0]["cells"]} == {"planted"}


def test_the_plan_tells_power_before_anything_runs(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0)
    elsewhere = ["--set", "store=elsewhere"]
    said = " ".join(stabfw("plan", spec, *elsewhere, "--set", LOSS.format(0.02)).split())
    assert "400 questions, independent pictures: 400; 70.0% right, assumed" in said
    assert "280 answers can be lost, worth 280 independent ones (design effect 1.00)" in said
    assert "passes if at most 1 of the independent ones are lost" in said
    # 149 independent ones pass without a loss; of the questions 70 % are taken to be right.
    assert "│ 0.000% │ 100% │ 213 │ 213 │" in said
    assert "│ 0.500% │" in said
    stabfw("run", spec, "-q")
    known = " ".join(stabfw("plan", spec, "--set", LOSS.format(0.02)).split())
    assert "100.0% right, by the stored baseline" in known
    assert "│ 0.000% │ 100% │ 149 │ 149 │" in known
    told = {"model": "parrot", "benchmark": "questions", "accuracy": 0.5, "source": "table 1"}
    given = ["--set", f"published=[{json.dumps(told)}]"]
    said = " ".join(stabfw("plan", spec, *elsewhere, *given).split())
    assert "50.0% right, as published" in said


def test_questions_about_one_picture_need_more_of_them(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0, n=400, share=4)
    said = " ".join(stabfw("plan", spec).split())
    assert "400 questions, independent pictures: 100" in said
    # 1 + (4 − 1) · 0.4, as nothing is known of how losses cluster, and a little for the t
    # distribution.
    assert "design effect 2.23" in said


def test_too_few_pictures_stay_inconclusive(
    make: Callable[..., str], stabfw: Callable[..., str]
) -> None:
    spec = make(0, n=99)
    assert "too few pictures: it must stay inconclusive" in stabfw("plan", spec)
    said = stabfw("run", spec, "-q", code=Exit.INCONCLUSIVE)
    assert "99 independent pictures are too few for a verdict: it takes 100" in said


@pytest.mark.parametrize("command", ["plan", "run", "gate"])
def test_a_gate_that_could_never_pass_is_an_error(
    make: Callable[..., str], stabfw: Callable[..., str], command: str
) -> None:
    spec = make(0, n=298)
    stabfw("plan", spec, "--set", LOSS.format(0.0101))
    said = stabfw(command, spec, "--set", LOSS.format(0.01), code=Exit.USAGE)
    assert "gates[0]: correct_loss_rate on questions" in said
    assert "could not pass even if nothing was lost. It takes 299 such questions" in said


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ("{metric: correct_loss_rate, at_most: 0.1, where: {gold: purple}}", "no question has the"),
        (
            "{metric: negative_flip_rate, at_most: 0.1, where: {perturbation: suffix}}",
            "may change the right answer",
        ),
        ("{metric: divergence_ratio, at_most: 0.1, where: {stack: none}}", "no stack 'none'"),
    ],
)
def test_what_must_not_be_gated_is_refused(
    make: Callable[..., str],
    stabfw: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    gates: str,
    message: str,
) -> None:
    from stabfw_test_plugins.suffix import Suffix

    monkeypatch.setattr(Suffix, "preserves_label", lambda self, kind: False)
    spec = make(0, perturbations=["suffix"])
    assert message in stabfw("plan", spec, "--set", f"gates=[{gates}]", code=Exit.USAGE)
    # Which answers changed can be judged whatever is right.
    stabfw("plan", spec, "--set", "gates=[{metric: divergence_ratio, at_most: 0.1}]")


def test_free_answers_are_not_gated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stabfw: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("free.yaml").write_text(
        """\
stabfw: 1
name: free
models: [tiny-llava]
stacks: {fastv: [{type: fastv, layer: 1}]}
benchmarks:
  - {type: shapes, name: told, limit: 300, kinds: [describe], easiest: 0.0}
  - {type: shapes, name: asked, limit: 300}
gates: [{metric: divergence_ratio, at_most: 0.1}]
tracking: {uri: null}
"""
    )
    said = stabfw("plan", "free.yaml", code=Exit.USAGE)
    assert "gates[0]: divergence_ratio on told: 300 of 300 questions are answered freely" in said
    assert "first_divergence_token" in said
    stabfw("plan", "free.yaml", "--set", "gates.0.where={benchmark: asked}")


def test_the_schema_is_the_published_one(stabfw: Callable[..., str]) -> None:
    published = json.loads((ROOT / "docs" / "verdict.schema.json").read_text())
    assert published == verdict_schema() == json.loads(stabfw("schema", "--verdict"))


def test_verdicts_fit_the_schema(make: Callable[..., str], stabfw: Callable[..., str]) -> None:
    from pydantic import TypeAdapter, ValidationError
    from stabfw.report.gates import VerdictFile

    stabfw("run", make(40), "-q", "--set", "stacks.picky=[picky]", code=Exit.GATE_FAILED)
    text = Path("runs/mine/verdict.json").read_text()
    adapter = TypeAdapter(VerdictFile)
    assert adapter.validate_json(text, strict=True).verdict == "fail"
    with pytest.raises(ValidationError):
        adapter.validate_json(text.replace('"fail"', '"safe"'), strict=True)


# Real models, in minutes rather than seconds


@pytest.mark.slow
def test_half_precision_makes_a_gate_not_measurable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stabfw: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = str(ROOT / "examples" / "gate-not-measurable.yaml")
    stabfw("run", spec, "-q", "--set", "gates=[]")
    results = load_results(Path("runs/gate-not-measurable/results.json"))
    judged = next(c for c in results.comparisons if c.condition.perturbation != "clean")
    if judged.floor_counts is None or judged.floor_counts.n_changed < 3:
        pytest.skip("bfloat16 on this processor changes too few answers")
    said = stabfw("run", spec, "-q", code=Exit.NOT_MEASURABLE)
    assert "the baseline against itself already breaks the limit" in said


@pytest.mark.slow
def test_examples_end_with_their_codes_and_export_a_canary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stabfw: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in (
        ("pass", Exit.OK),
        ("fail", Exit.GATE_FAILED),
        ("inconclusive", Exit.INCONCLUSIVE),
    ):
        stabfw("run", str(ROOT / "examples" / f"gate-{name}.yaml"), "-q", code=code)
    kept = stabfw("canary", "runs/gate-fail", "-o", "canary", code=Exit.USAGE)
    assert "keeps pictures in place" in kept
    full = ["--set", "tracking.images=full"]
    counts = ["--flipped", "12", "--near-ties", "5", "--controls", "7"]
    said = stabfw("canary", "runs/gate-fail", "-o", "canary", *counts, *full)
    assert "12 flipped, 5 near-tie, 7 control. A regression test, never an estimate." in said
    manifest = json.loads(Path("canary/canary.json").read_text())
    for file, digest in manifest["files"].items():
        assert hashlib.sha256(Path("canary", file).read_bytes()).hexdigest() == digest
    assert "never an estimate" in Path("canary/README.md").read_text()
    again = {path: path.read_bytes() for path in sorted(Path("canary").rglob("*.*"))}
    stabfw("canary", "runs/gate-fail", "-o", "canary", *counts, *full)
    assert {path: path.read_bytes() for path in sorted(Path("canary").rglob("*.*"))} == again

    monkeypatch.chdir("canary")
    gates = "gates=[{metric: divergence_ratio, at_most: 0.9}]"
    refused = stabfw("plan", "spec.yaml", "--set", gates, code=Exit.USAGE)
    assert "its questions were chosen by how they were answered" in refused
    assert "a regression test, never an estimate" in stabfw("run", "spec.yaml", "-q")
    changed = [
        json.loads(line)
        for line in stabfw("show", "runs/gate-fail-canary", "--json").split("\n")
        if line
    ]
    flipped = [q for q in manifest["questions"] if q["group"] == "flipped"]
    assert len(changed) == len(flipped) == 12
    assert {c["slices"]["canary"] for c in changed} == {"flipped"}

    picture = next(Path("images").iterdir())
    picture.write_bytes(next(p for p in Path("images").iterdir() if p != picture).read_bytes())
    assert "differs from what canary.json pins" in stabfw("plan", "spec.yaml", code=Exit.USAGE)
