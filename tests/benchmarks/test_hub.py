"""Benchmarks of the hub, on small directories with the same columns and features."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image as PillowImage
from stabfw.components import Answer, AnswerKind, AnswerStatus, Benchmark, Instance, Kind
from stabfw.errors import DataError
from stabfw.registry import Registry
from stabfw.testing import run_checks
from stabfw_benchmarks.hub import HubBenchmark

Rows = list[dict[str, Any]]
SW = "\nAnswer the question using a single word or phrase."
LT = "\nAnswer with the option's letter from the given choices directly."


def picture(number: int) -> dict[str, Any]:
    noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"{number}.png"}


def save(folder: Path, rows: Rows, split: str, config: str = "", several: bool = False) -> None:
    """Write rows as the hub holds them: Parquet, with configurations named in the card."""
    table = datasets.Dataset.from_list(rows)
    for column in table.column_names:
        if column.startswith("image") and isinstance(rows[0][column], dict | list):
            kind = datasets.List(datasets.Image()) if several else datasets.Image()
            table = table.cast_column(column, kind)
    place = folder / (config or "data")
    place.mkdir(parents=True, exist_ok=True)
    table.to_parquet(place / f"{split}-00000-of-00001.parquet")
    if config:
        entries = [
            f"- config_name: {inside.name}\n  data_files:\n"
            + "".join(
                f"  - split: {name}\n    path: {inside.name}/{name}-*\n"
                for name in sorted(file.name.partition("-")[0] for file in inside.iterdir())
            )
            for inside in sorted(filter(Path.is_dir, folder.iterdir()))
        ]
        (folder / "README.md").write_text("---\nconfigs:\n" + "".join(entries) + "---\n")


def pope(folder: Path) -> None:
    shared = {"image_source": "COCO_1", "image": picture(0), "category": "popular"}
    rows = [
        {"id": "0", "question_id": "1", "question": "Is there a dog in the image?", "answer": "no"},
        {
            "id": "1",
            "question_id": "2",
            "question": "Is there a cat in the image?",
            "answer": "yes",
        },
    ]
    save(folder, [row | shared for row in rows], "test")


def mme(folder: Path) -> None:
    rows = [
        {
            "question_id": "code/1.png",
            "image": picture(0),
            "question": f"Is this {language}? Please answer yes or no.",
            "answer": answer,
            "category": "code_reasoning",
        }
        for language, answer in (("Python", "Yes"), ("C", "No"))
    ]
    save(folder, rows, "test")


def gqa(folder: Path) -> None:
    question = {
        "id": "20",
        "imageId": "n1",
        "question": "What is the man wearing?",
        "answer": "T-shirt",
        "fullAnswer": "A T-shirt.",
        "types": {"structural": "query", "semantic": "rel"},
    }
    save(folder, [question], "testdev", "testdev_balanced_instructions")
    pictures = [{"id": "n0", "image": picture(0)}, {"id": "n1", "image": picture(1)}]
    save(folder, pictures, "testdev", "testdev_balanced_images")


def vqav2(folder: Path) -> None:
    given = ["two"] * 4 + ["2"] * 3 + ["3"] * 3
    row = {
        "question_id": 7,
        "question": "How many dogs are there?",
        "image": picture(0),
        "image_id": 3,
        "answers": [
            {"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(given)
        ],
        "multiple_choice_answer": "2",
        "question_type": "how many",
        "answer_type": "number",
    }
    save(folder, [row], "validation")


def textvqa(folder: Path) -> None:
    row = {
        "question_id": 1,
        "image_id": "a",
        "question": "what brand is it?",
        "image": picture(0),
        "answers": ["Nokia"] * 8 + ["nokia phone"] * 2,
        "ocr_tokens": ["NOKIA"],
    }
    save(folder, [row], "validation")


def vizwiz(folder: Path) -> None:
    row = {
        "question_id": "VizWiz_val_1.jpg",
        "image": picture(0),
        "question": "what is this?",
        "answers": ["unanswerable"] * 10,
        "category": "unanswerable",
    }
    save(folder, [row], "val")


def scienceqa(folder: Path) -> None:
    row = {
        "image": picture(0),
        "question": "Which is warmer?",
        "choices": ["ice", "tea"],
        "answer": 1,
        "hint": "Look at the cups.",
        "subject": "natural science",
    }
    save(folder, [row, row | {"hint": "", "answer": 0}], "test", "ScienceQA-IMG")


def mmbench(folder: Path) -> None:
    row = {
        "index": 5,
        "question": "What is it?",
        "hint": "nan",
        "answer": "B",
        "A": "a tree",
        "B": "a car",
        "C": "nan",
        "D": "nan",
        "category": "object",
        "image": picture(0),
    }
    rotated = {"index": 1_000_005, "answer": "A", "A": "a car", "B": "a tree", "hint": "Look."}
    save(folder, [row, row | rotated], "dev", "en")


def seed_bench(folder: Path) -> None:
    row = {
        "question_id": "1",
        "question": "How many towels are there?",
        **dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), "1234", strict=True)),
        "answer": "A",
        "data_type": "image",
        "image": [picture(0)],
        "question_type_id": 5,
    }
    video = row | {"question_id": "2", "data_type": "video", "image": [picture(1), picture(2)]}
    save(folder, [video, row], "test", several=True)


def mmmu(folder: Path) -> None:
    row: dict[str, Any] = {
        "id": "validation_Art_Theory_1",
        "question": "Compare <image 2> and <image 1>.",
        "options": "['<image 1>', 'both', \"don't know\"]",
        "answer": "C",
        "question_type": "multiple-choice",
        "subfield": "Art",
        **{f"image_{number}": picture(number) for number in (1, 2)},
    }
    opened = row | {
        "id": "validation_Math_2",
        "question": "How much is it? <image 1>",
        "options": "[]",
        "answer": "['1,200', 'twelve hundred']",
        "question_type": "open",
    }
    save(folder, [row, opened], "validation")


def photograph(name: str) -> dict[str, Any]:
    """A real photograph, made small so that the models of the tests are quick on it."""
    found = resources.files("sklearn.datasets") / "images" / name
    with resources.as_file(found) as path, PillowImage.open(path) as opened:
        small = opened.resize((32, 24))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=95)
    return {"bytes": stream.getvalue(), "path": name}


def mmstar(folder: Path) -> None:
    row = {
        "index": 0,
        "question": "What is shown?\nOptions: A: a flower, B: a temple, C: a dog, D: a car",
        "image": photograph("china.jpg"),
        "answer": "B",
        "category": "coarse perception",
        "l2_category": "image scene and topic",
        "meta_info": {"id": "0", "source": "MMBench", "split": "val", "image_path": "0.jpg"},
    }
    other = {"index": 1, "answer": "A", "image": photograph("flower.jpg")}
    save(folder, [row, row | other], "val")


def ai2d(folder: Path) -> None:
    row = {
        "question": "Which label is the sun?",
        "options": ["P", "R", "V", "T"],
        "answer": "2",
        "image": picture(0),
    }
    save(folder, [row, row | {"question": "Which is the moon?", "answer": "0"}], "test")


def realworldqa(folder: Path) -> None:
    letter = "\nPlease answer directly with only the letter of the correct option and nothing else."
    word = "\nPlease answer directly with a single word or number."
    rows = [
        {"question": "Where to?\n\nA. Left\nB. Straight\nC. Right" + letter, "answer": "B"},
        {"question": "How many lanes are there?" + word, "answer": "3"},
        {"question": "Is it open?" + word, "answer": "Yes"},
    ]
    shared = {"image": photograph("china.jpg"), "image_path": "0.webp"}
    save(folder, [shared | row for row in rows], "test")


def ocrbench(folder: Path) -> None:
    row = {
        "dataset": "IIIT5K",
        "question_type": "Regular Text Recognition",
        "question": "what is written in the image?",
        "answer": ["CENTRE"],
        "image": picture(0),
    }
    formula = {
        "dataset": "HME100k",
        "question_type": "Handwritten Mathematical Expression Recognition",
        "question": "Please write out the expression of the formula in the image.",
        "answer": ["A = \\frac { 1 } { 2 }"],
    }
    save(folder, [row, row | formula | {"image": picture(1)}], "test")


def vqa_rad(folder: Path) -> None:
    rows = [
        {"question": "is there a fracture?", "answer": "No"},
        {"question": "which lung is affected?", "answer": "Left upper lung (anterior)"},
    ]
    save(folder, [{"image": picture(0)} | row for row in rows], "test")


def slake(folder: Path) -> None:
    row = {
        "img_id": 102,
        "img_name": "xmlab102/source.jpg",
        "question": "What modality is used to take this image?",
        "answer": "X-Ray",
        "q_lang": "en",
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "content_type": "Modality",
        "triple": ["vhead", "_", "_"],
        "qid": 11934,
    }
    closed = {
        "qid": 11937,
        "question": "Does the lung look healthy?",
        "answer": "No",
        "answer_type": "CLOSED",
        "content_type": "Abnormality",
    }
    chinese = {"qid": 11964, "q_lang": "zh", "question": "图像的成像方式是什么?", "answer": "X光"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.json").write_text(
        json.dumps([row, row | closed, row | chinese], ensure_ascii=False)
    )
    with zipfile.ZipFile(folder / "imgs.zip", "w") as packed:
        packed.writestr("imgs/xmlab102/source.jpg", picture(0)["bytes"])
        packed.writestr("imgs/xmlab103/source.jpg", picture(1)["bytes"])


def pmc_vqa(folder: Path) -> None:
    names = ("Choice A", "Choice B", "Choice C", "Choice D")
    options = (" A:Ultrasound ", " B:MRI, T1 ", " C:X-ray ", "D:CT")
    row = {
        "Figure_path": "PMC8253797_Fig4_11.jpg",
        "Question": " What is the imaging modality?",
        "Answer": "MRI, T1",
        **dict(zip(names, options, strict=True)),
        "Answer_label": "B",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "test_clean.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        writer.writeheader()
        writer.writerows([row, row | {"Question": "Which one?", "Answer_label": "D"}])
    with zipfile.ZipFile(folder / "images.zip", "w") as packed:
        packed.writestr("images/PMC8253797_Fig4_11.jpg", picture(0)["bytes"])


def mmvet(folder: Path) -> None:
    row = {
        "question_id": "v1_0",
        "image": picture(0),
        "question": "What is x in the equation?",
        "answer": "-1<AND>-5",
        "image_source": "v1_0.png",
        "capability": "ocr,math",
    }
    other = {"question_id": "v1_1", "question": "Who is it?", "answer": "Ada", "capability": "rec"}
    save(folder, [row, row | other], "test")


def llava_bench(folder: Path) -> None:
    row = {
        "question_id": 0,
        "question": "What is the name of this famous sight?",
        "image": picture(0),
        "image_id": "001",
        "caption": "An aerial view of Diamond Head.",
        "gpt_answer": "It is Diamond Head.",
        "category": "conv",
    }
    other = {"question": "Describe it.", "gpt_answer": "A crater.", "category": "detail"}
    save(folder, [row, row | other], "train")


#: What each benchmark asks and what counts as right: prompts, then texts of full marks.
CASES: Mapping[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "pope": (
        pope,
        ["Is there a dog in the image?" + SW, "Is there a cat in the image?" + SW],
        ["No.", "yes"],
    ),
    "mme": (mme, ["Is this Python?" + SW, "Is this C?" + SW], ["Yes", "No"]),
    "gqa": (gqa, ["What is the man wearing?" + SW], ["A T-shirt."]),
    "vqav2": (vqav2, ["How many dogs are there?" + SW], ["Two"]),
    "textvqa": (textvqa, ["What brand is it?" + SW], ["NOKIA"]),
    "vizwiz": (
        vizwiz,
        [
            "What is this?\nWhen the provided information is insufficient, respond with "
            "'Unanswerable'." + SW
        ],
        ["Unanswerable"],
    ),
    "scienceqa": (
        scienceqa,
        [
            "Context: Look at the cups.\nWhich is warmer?\nA. ice\nB. tea" + LT,
            "Which is warmer?\nA. ice\nB. tea" + LT,
        ],
        ["B", "A. ice"],
    ),
    "mmbench": (
        mmbench,
        [
            "What is it? There are several options:\nA. a tree\nB. a car" + LT,
            "Look. What is it? There are several options:\nA. a car\nB. a tree" + LT,
        ],
        ["B", "a car"],
    ),
    "seed-bench": (
        seed_bench,
        ["How many towels are there?\nA. 1\nB. 2\nC. 3\nD. 4" + LT],
        ["A"],
    ),
    "mmmu": (
        mmmu,
        [
            "Compare (picture 1) and (picture 2).\nA. (picture 2)\nB. both\nC. don't know" + LT,
            "How much is it? (picture 1)" + SW,
        ],
        ["C", "$1200.00"],
    ),
    "mmstar": (
        mmstar,
        [
            "What is shown?\nOptions: A: a flower, B: a temple, C: a dog, D: a car"
            + LT.removesuffix(".")
        ]
        * 2,
        ["B", "A: a flower"],
    ),
    "ai2d": (
        ai2d,
        [
            "Which label is the sun?\nA. P\nB. R\nC. V\nD. T" + LT,
            "Which is the moon?\nA. P\nB. R\nC. V\nD. T" + LT,
        ],
        ["C.", "A. P"],
    ),
    "realworldqa": (
        realworldqa,
        [
            "Where to?\n\nA. Left\nB. Straight\nC. Right\nPlease answer directly with only the "
            "letter of the correct option and nothing else.",
            "How many lanes are there?\nPlease answer directly with a single word or number.",
            "Is it open?\nPlease answer directly with a single word or number.",
        ],
        ["B", "3.", "Yes."],
    ),
    "ocrbench": (
        ocrbench,
        [
            "what is written in the image?",
            "Please write out the expression of the formula in the image.",
        ],
        ["It says\n'centre'.", "$A=\\frac{1}{2}$"],
    ),
    "mmvet": (
        mmvet,
        [
            "First please perform reasoning, and think step by step to provide best answer to the "
            f"following question: \n\n{question}"
            for question in ("What is x in the equation?", "Who is it?")
        ],
        ["-1<AND>-5", "ada."],
    ),
    "llava-bench": (
        llava_bench,
        ["What is the name of this famous sight?", "Describe it."],
        ["It is Diamond Head", "A crater."],
    ),
    "vqa-rad": (
        vqa_rad,
        ["is there a fracture?" + SW, "which lung is affected?" + SW],
        ["No, there is none.", "Left upper lung."],
    ),
    "path-vqa": (
        vqa_rad,
        ["is there a fracture?" + SW, "which lung is affected?" + SW],
        ["no", "left upper lung"],
    ),
    "slake": (
        slake,
        ["What modality is used to take this image?" + SW, "Does the lung look healthy?" + SW],
        ["x ray", "No."],
    ),
    "pmc-vqa": (
        pmc_vqa,
        [
            "What is the imaging modality?\nA. Ultrasound\nB. MRI, T1\nC. X-ray\nD. CT" + LT,
            "Which one?\nA. Ultrasound\nB. MRI, T1\nC. X-ray\nD. CT" + LT,
        ],
        ["B", "CT"],
    ),
}


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry()


def benchmark(registry: Registry, name: str, **fields: Any) -> Benchmark[Any]:
    cls = registry.load(Kind.BENCHMARK, name)
    made = cls(cls.config_cls(**fields))
    assert isinstance(made, Benchmark)
    return made


def read(made: Benchmark[Any]) -> list[Instance]:
    return list(made.instances(made.splits[0]))


@pytest.mark.parametrize("name", CASES)
def test_prompts_are_as_documented_and_gold_answers_score_full_marks(
    name: str, registry: Registry, tmp_path: Path
) -> None:
    write, asked, gold = CASES[name]
    write(tmp_path)
    made = benchmark(registry, name, path=tmp_path)
    instances = read(made)
    assert [made.render(one) for one in instances] == asked
    for one, text in zip(instances, gold, strict=True):
        answer = made.extract(text, one)
        assert answer.status is AnswerStatus.OK
        score = made.score(answer, one)
        assert (score.value, score.correct) == (1.0, True)
        wrong = made.score(made.extract("nothing of the kind", one), one)
        assert (wrong.value, wrong.correct) == (0.0, False)
        assert all(image.pixels.shape == (24, 32, 3) for image in one.images)
    assert len({one.id for one in instances}) == len(instances)
    assert [one.id for one in read(benchmark(registry, name, path=tmp_path))] == [
        one.id for one in instances
    ]


@pytest.mark.parametrize("name", CASES)
def test_benchmark_keeps_to_the_contracts(name: str, registry: Registry, tmp_path: Path) -> None:
    CASES[name][0](tmp_path)
    results = run_checks("benchmark", name, {"path": str(tmp_path)}, registry)
    assert [result for result in results if not result.status.good] == []


def test_every_benchmark_of_the_hub_is_tried(registry: Registry) -> None:
    loaded = {name: registry.load(Kind.BENCHMARK, name) for name in registry.names(Kind.BENCHMARK)}
    assert {name for name, cls in loaded.items() if issubclass(cls, HubBenchmark)} == set(CASES)


def test_rows_that_belong_together_are_told(registry: Registry, tmp_path: Path) -> None:
    for name in ("pope", "mme", "mmbench", "mmmu", "gqa"):
        CASES[name][0](tmp_path / name)
    found = {n: read(benchmark(registry, n, path=tmp_path / n)) for n in ("pope", "mme", "mmbench")}
    assert {one.cluster_id for one in found["pope"]} == {"COCO_1"}
    assert {one.group_id for one in found["mme"]} == {"code/1.png"}
    assert {one.group_id for one in found["mmbench"]} == {"5"}
    compared, opened = read(benchmark(registry, "mmmu", path=tmp_path / "mmmu"))
    first, second = compared.images
    assert opened.images[0].digest == second.digest != first.digest
    assert opened.slices == {"subject": "Math"}
    (joined,) = read(benchmark(registry, "gqa", path=tmp_path / "gqa"))
    assert (joined.images[0].digest, joined.cluster_id) == (second_digest(), "n1")


def second_digest() -> str:
    import hashlib

    return hashlib.sha256(picture(1)["bytes"]).hexdigest()


def test_limit_draws_by_seed(registry: Registry, tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"{n}",
            "image": picture(n),
            "question": f"Is this {n}?",
            "answer": "Yes",
            "category": "count",
        }
        for n in range(20)
    ]
    save(tmp_path, rows, "test")

    def asked(**fields: Any) -> list[str]:
        return [one.question for one in read(benchmark(registry, "mme", path=tmp_path, **fields))]

    assert asked(limit=3, sample_seed=None) == ["Is this 0?", "Is this 1?", "Is this 2?"]
    assert asked(limit=3) == asked(limit=3) != asked(limit=3, sample_seed=1)
    assert sorted(asked()) == sorted(asked(limit=20))
    outline = benchmark(registry, "mme", limit=3).outline("test")
    assert outline is not None
    assert (outline.instances, benchmark(registry, "mme").outline("test").instances) == (3, 2374)  # type: ignore[union-attr]


class TestErrors:
    def test_data_set_that_is_not_here(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(DataError, match="hf download lmms-lab/POPE --repo-type dataset"):
            read(benchmark(registry, "pope"))

    def test_directory_that_does_not_exist(self, registry: Registry, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such directory.*laid out like lmms-lab/POPE"):
            read(benchmark(registry, "pope", path=tmp_path / "nothing"))

    def test_other_columns(self, registry: Registry, tmp_path: Path) -> None:
        save(tmp_path, [{"question": "?", "image": picture(0)}], "test")
        with pytest.raises(DataError, match=r"lacks question_id, answer, image_source, category"):
            read(benchmark(registry, "pope", path=tmp_path))

    def test_no_such_split(self, registry: Registry, tmp_path: Path) -> None:
        CASES["mme"][0](tmp_path)
        with pytest.raises(DataError, match="cannot read the split 'validation'"):
            read(benchmark(registry, "vqav2", path=tmp_path))

    def test_picture_that_is_none(self, registry: Registry, tmp_path: Path) -> None:
        row = {"question_id": "1", "question": "Is it?", "answer": "Yes", "category": "count"}
        save(tmp_path, [row | {"image": {"bytes": b"GIF89a", "path": "x.gif"}}], "test")
        (one,) = read(benchmark(registry, "mme", path=tmp_path))
        with pytest.raises(DataError, match="image of row 0: not a readable image"):
            _ = one.images[0].pixels

    @pytest.mark.parametrize("name", CASES)
    def test_offline_it_says_at_once_what_to_download(
        self, name: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        made = benchmark(registry, name, revision="main")
        assert isinstance(made, HubBenchmark)
        # What lies under the same name where one happens to stand is not the data set.
        CASES[name][0](tmp_path / made.hub_id)
        monkeypatch.chdir(tmp_path)
        download = rf"hf download {made.hub_id}( [\w.]+)* --repo-type dataset --revision main"
        for asked in (lambda: read(made), made.fingerprint):
            with pytest.raises(DataError, match=download):
                asked()

    def test_archive_that_was_left_out(self, registry: Registry, tmp_path: Path) -> None:
        slake(tmp_path)
        (tmp_path / "imgs.zip").unlink()
        with pytest.raises(DataError, match=r"hf download BoKelvin/SLAKE test.json imgs.zip"):
            read(benchmark(registry, "slake", path=tmp_path))

    def test_archive_that_is_none_or_not_complete(self, registry: Registry, tmp_path: Path) -> None:
        pmc_vqa(tmp_path)
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
            packed.writestr("images/other.jpg", b"")
        with pytest.raises(DataError, match=r"no picture PMC8253797_Fig4_11.jpg in it"):
            read(benchmark(registry, "pmc-vqa", path=tmp_path))
        (tmp_path / "images.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match="not a zip file"):
            read(benchmark(registry, "pmc-vqa", path=tmp_path))

    def test_files_that_are_something_else(self, registry: Registry, tmp_path: Path) -> None:
        slake(tmp_path)
        (tmp_path / "test.json").write_text('{"rows": []}')
        with pytest.raises(DataError, match="expected a list of objects"):
            read(benchmark(registry, "slake", path=tmp_path))
        (tmp_path / "test.json").write_text('[{"qid": 1}]')
        with pytest.raises(DataError, match="row 0 lacks img_id"):
            read(benchmark(registry, "slake", path=tmp_path))
        with pytest.raises(DataError, match=r"test_clean\.csv: no such file"):
            read(benchmark(registry, "pmc-vqa", path=tmp_path))


def test_a_judge_is_shown_what_it_has_to_know(registry: Registry, tmp_path: Path) -> None:
    mmvet(tmp_path / "mmvet")
    made = benchmark(registry, "mmvet", path=tmp_path / "mmvet")
    first, _ = read(made)
    assert made.judged is not None
    (text,) = made.judged.questions(first, "x = $gold")
    assert "Question: What is x in the equation?\nCorrect answer: -1 <AND> -5\n" in text
    assert "Answer: x = $gold\n\nEnd" in text
    assert "step by step" not in text
    verdict = made.judged.read("0.5/1", 0)
    assert verdict is not None
    assert made.judged.score([verdict]) == 0.5
    assert first.slices == {"capability": "math+ocr"}

    llava_bench(tmp_path / "llava")
    made = benchmark(registry, "llava-bench", path=tmp_path / "llava")
    first, _ = read(made)
    assert made.judged is not None
    texts = made.judged.questions(first, "A hill.")
    gold, said = "It is Diamond Head.", "A hill."
    for text, (one, two) in zip(texts, ((gold, said), (said, gold)), strict=True):
        assert "Description:\nAn aerial view of Diamond Head.\n" in text
        assert f"Answer 1:\n{one}\n" in text
        assert f"Answer 2:\n{two}\n" in text
    # Two points more for whatever stands first cancel out.
    verdicts = [made.judged.read("10 4", 0), made.judged.read("6 8", 1)]
    assert verdicts == [(4, 10), (6, 8)]
    assert made.judged.score([v for v in verdicts if v is not None]) == 10 / 18


def test_half_agreement_counts_as_correct(registry: Registry) -> None:
    made = benchmark(registry, "vqav2")
    one = Instance.create((), "?", native_id=0, references=("a b",) * 2 + ("c",) * 8)
    score = made.score(Answer("a b", AnswerKind.SHORT), one)
    assert (round(score.value, 3), score.correct) == (0.6, True)


def test_open_medical_answers_get_points_for_words(registry: Registry, tmp_path: Path) -> None:
    vqa_rad(tmp_path)
    made = benchmark(registry, "vqa-rad", path=tmp_path)
    closed, opened = read(made)
    assert (closed.kind, opened.kind) == (AnswerKind.YES_NO, AnswerKind.SHORT)
    score = made.score(made.extract("The left lung.", opened), opened)
    assert (round(score.value, 3), score.correct) == (0.667, False)
    score = made.score(made.extract("yes", closed), closed)
    assert (score.value, score.correct) == (0.0, False)


def test_slake_in_the_other_language_and_unpacked(registry: Registry, tmp_path: Path) -> None:
    slake(tmp_path)
    (one,) = read(benchmark(registry, "slake", path=tmp_path, language="zh"))
    made = benchmark(registry, "slake", path=tmp_path, language="zh")
    assert made.render(one) == "图像的成像方式是什么?\n请用一个词或短语回答问题。"
    assert made.outline("test").instances == 1033  # type: ignore[union-attr]
    assert (one.cluster_id, one.slices["answer_type"]) == ("102", "open")
    with zipfile.ZipFile(tmp_path / "imgs.zip") as packed:
        packed.extractall(tmp_path)
    (tmp_path / "imgs.zip").unlink()
    (again,) = read(made)
    assert (again.id, again.images[0].digest) == (one.id, one.images[0].digest)


def test_a_picture_outside_of_the_archive_is_not_read(registry: Registry, tmp_path: Path) -> None:
    slake(tmp_path / "data")
    (tmp_path / "secret.jpg").write_bytes(picture(5)["bytes"])
    rows = json.loads((tmp_path / "data" / "test.json").read_text())
    rows[0]["img_name"] = "../secret.jpg"
    (tmp_path / "data" / "test.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"no picture \.\./secret\.jpg"):
        read(benchmark(registry, "slake", path=tmp_path / "data"))


def test_pope_has_its_three_kinds_as_splits(registry: Registry, tmp_path: Path) -> None:
    rows = [
        {
            "id": "0",
            "question_id": "1",
            "question": "Is there a dog in the image?",
            "answer": "no",
            "image_source": "COCO_1",
            "image": picture(0),
        }
    ]
    for name in ("random", "popular", "adversarial"):
        save(tmp_path, [rows[0] | {"category": name}], name, "Full")
    for name in ("random", "popular", "adversarial"):
        made = benchmark(registry, "pope", path=tmp_path, split=name)
        (one,) = made.instances(name)
        assert one.slices == {"category": name}
        assert made.outline(name).instances == 3000  # type: ignore[union-attr]


def told(instance: Instance) -> Any:
    pictures = [(image.digest, image.pixels.tobytes()) for image in instance.images]
    return replace(instance, images=()), pictures


@pytest.mark.parametrize("name", CASES)
def test_streaming_gives_the_same_instances(name: str, registry: Registry, tmp_path: Path) -> None:
    CASES[name][0](tmp_path)
    whole = read(benchmark(registry, name, path=tmp_path))
    streamed = read(benchmark(registry, name, path=tmp_path, streaming=True))
    assert [told(one) for one in streamed] == [told(one) for one in whole]


def test_streaming_reads_across_files_and_row_groups(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "question_id": f"{number}",
            "image": picture(number),
            "question": f"Is this {number}?",
            "answer": "Yes",
            "category": "count",
        }
        for number in range(20)
    ]
    for part, (begin, end) in enumerate(((0, 7), (7, 20))):
        table = datasets.Dataset.from_list(rows[begin:end]).cast_column("image", datasets.Image())
        (tmp_path / "data").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "data" / f"test-0000{part}-of-00002.parquet", batch_size=3)
    whole = read(benchmark(registry, "mme", path=tmp_path, limit=9))
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *_, **__: pytest.fail("a copy is made after all")
    )
    made = benchmark(registry, "mme", path=tmp_path, limit=9, streaming=True)
    streamed = read(made)
    assert [told(one) for one in streamed] == [told(one) for one in whole]
    assert len(read(benchmark(registry, "mme", path=tmp_path, streaming=True))) == 20
    assert made.fingerprint() == benchmark(registry, "mme", path=tmp_path).fingerprint()


def test_what_cannot_be_streamed_is_said(registry: Registry, tmp_path: Path) -> None:
    row = {"question_id": "1", "question": "Is it?", "answer": "Yes", "category": "count"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"image": "x"}))
    with pytest.raises(DataError, match="only Parquet files can be streamed"):
        read(benchmark(registry, "mme", path=tmp_path, streaming=True))
    CASES["mme"][0](tmp_path / "other")
    with pytest.raises(DataError, match="cannot read the split 'validation': there is none"):
        read(benchmark(registry, "vqav2", path=tmp_path / "other", streaming=True))


def test_a_sample_keeps_groups_together(registry: Registry, tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"count/{number}.png",
            "image": picture(number),
            "question": f"Is this {number}, {answer}?",
            "answer": answer,
            "category": "count",
        }
        for answer in ("Yes", "No")
        for number in range(10)
    ]
    save(tmp_path, rows, "test")
    drawn = read(benchmark(registry, "mme", path=tmp_path, limit=7))
    sizes = Counter(one.group_id for one in drawn)
    assert sorted(sizes.values()) == [1, 2, 2, 2]
