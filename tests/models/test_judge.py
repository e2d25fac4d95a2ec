"""A judge behind a real server: what it is asked, how often, and what becomes of its replies."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import served
from PIL import Image as PillowImage
from stabfw import cli
from stabfw.components import Encoded, GenerationOptions, Prediction, Prompt, TopToken
from stabfw.errors import Exit, SpecError
from stabfw.experiment import Run, rescore, run
from stabfw.plan import make_plan
from stabfw.registry import Registry
from stabfw.report.layout import REPORT
from stabfw.report.results import Comparison
from stabfw.spec import parse_spec, to_yaml
from stabfw.store import Store
from stabfw_benchmarks.llava_bench import LlavaBench
from stabfw_benchmarks.mmvet import MmVet

COUNT = 8
#: What the stack answers to the first questions, instead of a word of the parrot's.
PLANTED = ("PARAPHRASE", "OTHER", "SWAPPED", "MURKY")


class Script:
    """A model that replies by a function of the question and of how often it was asked before."""

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.reply = reply
        self.asked: Counter[str] = Counter()

    def encode(self, prompts: Sequence[Prompt]) -> Encoded:
        assert all(not prompt.images for prompt in prompts)
        return Encoded(tuple(p.instance_id for p in prompts), {"texts": [p.text for p in prompts]})

    def generate(self, encoded: Encoded, options: GenerationOptions) -> list[Prediction]:
        return [self._answer(text) for text in encoded.inputs["texts"]]

    def _answer(self, text: str) -> Prediction:
        self.asked[text] += 1
        reply = self.reply(text, self.asked[text])
        return Prediction(reply, logprobs=(-0.1,), top=(TopToken(0, "", -0.1),))


def between(text: str, before: str, after: str) -> str:
    """The last part of a question that stands between two marks."""
    return text.rpartition(before)[2].partition(after)[0].strip()


def pair_of(text: str) -> tuple[str, str]:
    return (
        between(text, "Answer 1:\n", "\n\nEnd of answer 1"),
        between(text, "Answer 2:\n", "\n\nEnd of answer 2"),
    )


def verdict(text: str, time: int) -> str:
    """Replies as the answers say: some kinds of them show a weakness of the judge."""
    if text.endswith("Grade:"):
        answer = between(text, "\nAnswer:", "\n\nEnd of the answer")
        return {"OTHER": "0.2", "MURKY": "not correct"}.get(answer, "0.8/1")
    first, second = pair_of(text)
    if "MURKY" in (first, second):
        return "not equivalent"
    return "yes" if "PARAPHRASE" in (first, second) or second == "SWAPPED" else "no"


def forgetful(text: str, time: int) -> str:
    """The same, but once another verdict when it is asked again."""
    again = time > 1 and not text.endswith("Grade:") and pair_of(text)[1] == "OTHER"
    return "yes" if again else verdict(text, time)


def picture(number: int) -> dict[str, Any]:
    noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"{number}.png"}


def save(folder: Path, rows: list[dict[str, Any]], split: str) -> Path:
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    (folder / "data").mkdir(parents=True)
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def mmvet(tmp_path: Path) -> Path:
    rows = [
        {
            "question_id": f"v1_{n}",
            "image": picture(n),
            "question": f"What is in picture {n}?",
            "answer": "cat" if n < 6 else "dog",
            "image_source": "x.png",
            "capability": "rec,ocr" if n % 2 else "rec",
        }
        for n in range(COUNT)
    ]
    return save(tmp_path / "mmvet", rows, "test")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture
def serve_script() -> Iterator[Callable[..., served.Served]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(served.serve(Script(reply)))


def ids(folder: Path, cls: type[Any] = MmVet) -> list[str]:
    made = cls(cls.config_cls(path=folder))
    return [one.id for one in made.instances(made.splits[0])]


def spec_of(
    tmp_path: Path, folder: Path, judge: Mapping[str, Any] | None, cls: type[Any] = MmVet
) -> dict[str, Any]:
    """The parrot beside itself, with other answers to the first questions."""
    answers = dict(zip(ids(folder, cls), PLANTED, strict=False))
    return {
        "stabfw": 1,
        "name": "judged",
        "models": ["parrot"],
        "stacks": {"planted": [{"type": "planted", "answers": answers}]},
        "benchmarks": [{"type": "mmvet" if cls is MmVet else "llava-bench", "path": str(folder)}],
        "controls": {"noise_floor": {"repeats": 1, "stacks": True}},
        "batch_size": 3,
        "store": str(tmp_path / "store"),
        "runs": str(tmp_path / "runs"),
        "tracking": {"uri": None},
        **({} if judge is None else {"judge": judge}),
    }


def served_at(server: served.Served, **fields: Any) -> dict[str, Any]:
    at = {"type": "openai-endpoint", "url": server.url, "model": "j", "revision": "1", "retries": 0}
    return {"model": at, "batch_size": 1, **fields}


def started(plain: Mapping[str, Any], registry: Registry) -> Run:
    return run(parse_spec(plain, registry), registry=registry)


def only(done: Run) -> Comparison:
    (found,) = done.results.comparisons
    return found


def value(comparison: Comparison, name: str) -> tuple[float | None, int]:
    metric = comparison.metrics[name]
    return metric.value, metric.n


def test_answers_are_scored_and_compared_in_both_orders(
    mmvet: Path, tmp_path: Path, registry: Registry, serve_script: Any
) -> None:
    server = serve_script(forgetful)
    done = started(spec_of(tmp_path, mmvet, served_at(server)), registry)
    assert done.unjudged == ""
    assert done.results.failures == ()
    found = only(done)
    assert value(found, "free_divergence") == (4 / 8, 8)
    # Of seven that are decided, one is another answer, and one in one order only.
    assert value(found, "judged_divergence") == (2 / 7, 7)
    assert value(found, "judge_order_disagreement") == (1 / 3, 3)
    # Asked again: two orders of four pairs, and the answers of both sides, equal ones once.
    assert value(found, "judge_self_disagreement") == (1 / (8 + 8 + 4), 20)
    assert value(found, "judge_unreadable") == (2 / (4 + 12), 16)
    for floor in (found.floor, found.self_floor):
        assert floor["judged_divergence"].value == floor["free_divergence"].value == 0
    # What the judge did not grade enters no rate; the rest does, from 0.5 on as correct.
    assert found.counts.n == 7
    assert found.counts.n_missing == 1
    assert value(found, "accuracy_base") == (1.0, 7)
    assert value(found, "correct_loss_rate") == (1 / 7, 7)
    assert found.metrics["mean_score_delta"].value == pytest.approx(-0.6 / 7)
    cells = {cell.condition.stack: cell for cell in done.results.cells}
    assert cells["baseline"].aggregates["score"] == pytest.approx(80)
    graded = 100 * (6 * 0.8 + 0.2) / 7
    assert cells["planted"].aggregates == pytest.approx(
        {"score": graded, "rec": graded, "ocr": 100 * (2 * 0.8 + 0.2) / 3}
    )
    page = (done.directory / REPORT).read_text()
    assert "Free answers before a judge" in page
    assert "another verdict when asked again" in page


def test_nothing_is_asked_twice_and_a_finished_run_asks_nothing(
    mmvet: Path, tmp_path: Path, registry: Registry, serve_script: Any
) -> None:
    server = serve_script(verdict)
    plain = spec_of(tmp_path, mmvet, served_at(server, repeats=0))
    started(plain, registry)
    # Eight words of the parrot and four planted answers are graded; four pairs are compared.
    assert sum(server.model.asked.values()) == len(server.model.asked) == 8 + 4 + 2 * 4
    before = server.requests
    assert started(plain, registry).computed == 0
    shutil.rmtree(tmp_path / "runs")
    again = started(plain, registry)
    assert server.requests == before
    assert value(only(again), "judged_divergence") == (2 / 7, 7)
    shutil.rmtree(tmp_path / "runs")
    rescored = rescore(parse_spec(plain, registry), registry=registry)
    assert rescored.run is not None
    assert rescored.run.results == again.results
    assert server.requests == before


def test_a_judge_that_dies_goes_on_where_it_stopped(
    mmvet: Path, tmp_path: Path, registry: Registry, serve_script: Any
) -> None:
    server = serve_script(verdict)
    server.trouble = lambda number: "503" if number > 9 else ""
    plain = spec_of(tmp_path, mmvet, served_at(server))
    first = started(plain, registry)
    assert "HTTP 503" in first.unjudged
    assert first.results.failures == ()
    assert any("was not asked everything" in notice for notice in first.results.notices)
    # What needs no judge is published all the same.
    found = only(first)
    assert value(found, "free_divergence") == (4 / 8, 8)
    assert found.metrics["judged_divergence"].n == 4
    assert found.counts.n + found.counts.n_missing == 8
    assert found.counts.n_missing > 0
    assert server.answered == 9
    server.trouble = lambda number: ""
    second = started(plain, registry)
    assert second.unjudged == ""
    assert second.computed == 0
    assert value(only(second), "judged_divergence") == (2 / 7, 7)
    assert set(server.model.asked.values()) == {2}
    assert server.answered == 2 * (8 + 4 + 2 * 4)


def test_the_command_ends_as_incomplete_and_tells_the_most_there_is_to_ask(
    mmvet: Path,
    tmp_path: Path,
    registry: Registry,
    serve_script: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve_script(verdict)
    server.trouble = lambda number: "500"
    path = tmp_path / "spec.yaml"
    path.write_text(to_yaml(parse_spec(spec_of(tmp_path, mmvet, served_at(server)), registry)))
    assert cli.invoke(["plan", str(path)]) == Exit.OK
    # Four cells are graded; the stack and two repeats are compared; everything twice.
    assert "judge openai-endpoint: at most 160 replies" in capsys.readouterr().out
    assert server.requests == 0
    assert cli.invoke(["run", str(path)]) == Exit.INCOMPLETE
    told = capsys.readouterr()
    assert "the judge goes on where it stopped" in told.err
    assert "judging  replies 0/40" in told.err
    server.trouble = lambda number: ""
    assert cli.invoke(["run", str(path)]) == Exit.OK
    assert "Free answers before a judge" in capsys.readouterr().out


def test_a_judge_has_to_be_named_and_to_stay_the_same(
    mmvet: Path, tmp_path: Path, registry: Registry
) -> None:
    def planned(judge: Mapping[str, Any] | None) -> None:
        spec = parse_spec(spec_of(tmp_path, mmvet, judge), registry)
        with Store(spec.store) as store:
            make_plan(spec, registry, store)

    with pytest.raises(SpecError, match=r"'mmvet.*': its answers are scored by a judge; name"):
        planned(None)
    at = {"type": "openai-endpoint", "url": "http://127.0.0.1:9/v1", "model": "j"}
    with pytest.raises(SpecError, match=r"judge: openai-endpoint has no revision"):
        planned({"model": at})
    planned({"model": at | {"revision": "1"}})
    # A model on this machine is known by the hashes of its files.
    planned({"model": "parrot"})


def test_another_judge_or_question_is_asked_anew(
    mmvet: Path, tmp_path: Path, registry: Registry
) -> None:
    at = {"type": "openai-endpoint", "url": "http://127.0.0.1:9/v1", "model": "j", "revision": "1"}

    def key(question: str = "?", attempt: int = 0, model: Any = None, **fields: Any) -> str:
        plain = spec_of(tmp_path, mmvet, {"model": model or at, **fields})
        spec = parse_spec(plain, registry)
        with Store(spec.store) as store:
            judge = make_plan(spec, registry, store).judge
        assert judge is not None
        return judge.key(question, attempt)

    same = key()
    assert key(batch_size=3) == key(repeats=5) == key(model=at | {"name": "other"}) == same
    others = [
        key(question="??"),
        key(attempt=1),
        key(max_new_tokens=9),
        key(model=at | {"revision": "2"}),
        key(model=at | {"model": "k"}),
        key(model="parrot"),
    ]
    assert len({same, *others}) == 7


def test_a_judge_in_this_process_that_says_nothing_readable_decides_nothing(
    mmvet: Path, tmp_path: Path, registry: Registry
) -> None:
    plain = spec_of(tmp_path, mmvet, {"model": "parrot", "max_new_tokens": 16})
    # The parrot grades with words, but happens to say yes and no.
    done = started(plain, registry)
    found = only(done)
    assert done.unjudged == ""
    unreadable, n = value(found, "judge_unreadable")
    assert n == 16
    assert unreadable is not None
    assert unreadable > 0.5
    assert value(found, "judge_self_disagreement")[0] == 0
    assert found.counts.n == 0
    assert found.metrics["accuracy_base"].value is None
    assert value(found, "free_divergence") == (4 / 8, 8)


def test_ratings_are_averaged_over_both_orders(
    tmp_path: Path, registry: Registry, serve_script: Any
) -> None:
    rows = [
        {
            "question_id": n,
            "question": f"What is in picture {n}?",
            "image": picture(n),
            "image_id": f"{n}",
            "caption": "A cat. It sleeps.",
            "gpt_answer": "REFERENCE",
            "category": ("conv", "detail")[n % 2],
        }
        for n in range(4)
    ]
    folder = save(tmp_path / "llava", rows, "train")

    def rated(text: str, time: int) -> str:
        if "yes or no" in text:
            return "no"
        assert "A cat. It sleeps." in text
        _, second = pair_of(text)
        # The reference gets 8; an answer 4, and 2 points more where it stands first.
        return "6 8" if second == "REFERENCE" else "8 4"

    server = serve_script(rated)
    plain = spec_of(tmp_path, folder, served_at(server, repeats=0), LlavaBench)
    done = started(plain, registry)
    found = only(done)
    assert value(found, "judge_score_order_disagreement") == (1.0, 8)
    assert value(found, "judged_divergence") == (1.0, 4)
    assert "judge_self_disagreement" not in found.metrics
    for cell in done.results.cells:
        assert cell.accuracy.value == 1.0
        assert cell.aggregates == pytest.approx(
            {"relative_score": 62.5, "conv": 62.5, "detail": 62.5}
        )
