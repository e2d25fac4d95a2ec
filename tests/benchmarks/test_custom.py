"""A user's own data: what is understood, what is refused and how, and the recipe of the README."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image as PillowImage
from pyarrow import parquet
from stabfw import cli
from stabfw.components import Answer, AnswerKind, AnswerStatus, Instance, Kind
from stabfw.errors import DataError, Exit, SpecError
from stabfw.registry import Registry
from stabfw.spec import load_spec, parse_spec
from stabfw.testing import Status, run_checks
from stabfw_benchmarks.custom import Custom, CustomConfig
from stabfw_benchmarks.shapes import scenes

ROOT = Path(__file__).parents[2]
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four pictures, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        file = Path(f"data/images/{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return Path("data")


Rows = list[dict[str, Any]]
YES_NO: Rows = [
    {"image": "images/0.png", "question": "Is it round?", "answer": "Yes"},
    {"image": "images/0.png", "question": "Is it square?", "answer": "no"},
    {"image": "images/1.png", "question": "Is it round?", "answer": "no."},
]


def lines(rows: Rows, name: str = "data/q.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def table(content: str | bytes, name: str = "data/q.csv") -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def custom(path: str, **config: Any) -> Custom:
    return Custom(CustomConfig.model_validate({"path": path, **config}))


def read(path: str, **config: Any) -> list[Instance]:
    return list(custom(path, **config).instances("test"))


def refused(path: str, **config: Any) -> str:
    with pytest.raises(DataError) as error:
        read(path, **config)
    with pytest.raises(DataError, match=re.escape(str(error.value))):
        custom(path, **config).fingerprint()
    return str(error.value)


# What is understood


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_one_table_in_every_format_is_the_same(suffix: str) -> None:
    name = f"data/q.{suffix}"
    if suffix == "jsonl":
        lines(YES_NO, name)
    elif suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(YES_NO), name)
    else:
        separator = "," if suffix == "csv" else "\t"
        rows = [list(YES_NO[0]), *(list(row.values()) for row in YES_NO)]
        table("\r\n".join(separator.join(row) for row in rows), name)
    found = read(name)
    assert [i.question for i in found] == [row["question"] for row in YES_NO]
    assert [i.references for i in found] == [("yes",), ("no",), ("no",)]
    assert {i.kind for i in found} == {AnswerKind.YES_NO}
    assert [i.id for i in found] == [i.id for i in read(lines(YES_NO, "data/same.jsonl"))]
    assert found[0].cluster_id == found[1].cluster_id != found[2].cluster_id
    assert found[0].images[0].pixels.shape == (24, 32, 3)


def test_columns_are_named_in_the_config() -> None:
    rows = [
        {
            "frage": "What is it?",
            "bilder": [f"{n}.png", "3.png"],
            "richtig": ["A cat", "cat", "CAT"],
            "note": "Look closely.",
            "nr": n,
            "patient": f"p{n}",
            "pair": "g",
            "site": "north" if n else None,
        }
        for n in range(2)
    ]
    columns = {"question": "frage", "image": "bilder", "answer": "richtig", "hint": "note"}
    columns |= {"id": "nr", "cluster": "patient", "group": "pair", "slices": ["site"]}
    found = read(lines(rows), columns=columns, images="data/images")
    assert [len(i.images) for i in found] == [2, 2]
    assert found[0].references == ("a cat", "cat")
    assert [i.cluster_id for i in found] == ["p0", "p1"]
    assert {i.group_id for i in found} == {"g"}
    assert [dict(i.slices) for i in found] == [{"site": "none"}, {"site": "north"}]
    benchmark = custom("data/q.jsonl")
    assert benchmark.render(found[0]) == f"Look closely.\nWhat is it?{SHORT}"


def test_prompt_and_suffix_go_around_the_question() -> None:
    benchmark = custom(lines(YES_NO), prompt="As a {role}: {question}", suffix=" Be brief.")
    first = next(iter(benchmark.instances("test")))
    assert benchmark.render(first) == "As a {role}: Is it round? Be brief."
    with pytest.raises(ValueError, match=r"must contain .question. once"):
        custom("x", prompt="{questoin}")


COLOURS = ["red", "blue", "green"]


def choice(answer: Any, options: Any = COLOURS, number: int = 0) -> dict[str, Any]:
    return {
        "image": f"images/{number}.png",
        "question": "Which colour?",
        "answer": answer,
        "options": options,
        "id": number,
    }


@pytest.mark.parametrize(
    "answers", [["red", "Green."], ["A", "c"], ["(A)", "C."], [0, 2], ["0", "2"], [1, 3]]
)
def test_right_option_is_text_letter_index_or_number(answers: list[Any]) -> None:
    found = read(lines([choice(a, number=n) for n, a in enumerate(answers)]))
    assert [i.references for i in found] == [("A",), ("C",)]
    assert [c.text for c in found[0].choices] == COLOURS
    benchmark = custom("data/q.jsonl")
    assert benchmark.render(found[0]) == f"Which colour?\nA. red\nB. blue\nC. green{LETTER}"
    assert benchmark.score(benchmark.extract("Green", found[1]), found[1]).correct


def test_options_come_in_several_forms() -> None:
    expected = [("B",), ("A", "B")]
    rows = "image,question,answer,{}\nimages/0.png,q,blue,{}\nimages/1.png,q,red|blue,{}\n"
    for header, cell in [
        ("options", "red|blue|green"),
        ("options", '"[""red"", ""blue"", ""green""]"'),
        ("choices", "\"['red', 'blue', 'green']\""),
        ("A,B,C,D", "red,blue,green,"),
        ("Choice A,Choice B,Choice C", "red,blue,green"),
        ("option_a,option_b,option_c", "red,blue,green"),
    ]:
        found = read(table(rows.format(header, cell, cell)))
        assert [i.references for i in found] == expected, header
        assert [c.text for c in found[0].choices] == COLOURS, header
    found = read(lines([choice("B", {"A": "red", "B": "blue"})]))
    assert found[0].references == ("B",)
    semicolons = rows.replace("red|blue", "red;blue").format("options", "red;blue", "red;blue")
    assert [i.references for i in read(table(semicolons), separator=";")] == expected


def test_question_with_options_can_be_asked_without_them() -> None:
    (one,) = read(lines([choice("B")]), kind="short")
    assert (one.kind, one.choices, one.references) == (AnswerKind.SHORT, (), ("blue",))


def test_kinds_are_told_from_the_data() -> None:
    def kinds(rows: Rows) -> list[str]:
        return [i.kind.value for i in read(lines(rows))]

    plain = {"image": "images/0.png", "question": "q"}
    assert kinds([{**plain, "answer": True}]) == ["yes-no"]
    # One answer that is neither, and a question whose answer is yes is no question of that kind.
    assert kinds([{**plain, "answer": "yes"}, {**plain, "answer": "two"}]) == ["short"] * 2
    mixed = [choice("red"), {**plain, "answer": "no", "id": 9}]
    assert kinds(mixed) == ["choice", "yes-no"]
    assert [dict(i.slices) for i in read("data/q.jsonl")] == [
        {"kind": "choice"},
        {"kind": "yes-no"},
    ]


def test_numbers_are_written_as_people_do() -> None:
    rows = [{"image": "images/0.png", "question": "How many?", "answer": a} for a in (3, 3.0, 2.5)]
    assert [i.references for i in read(lines(rows))] == [("3",), ("3",), ("2.5",)]


def test_pictures_inside_parquet_are_read() -> None:
    rows = [
        {"image": {"bytes": picture(n), "path": None}, "question": "q", "answer": "a"}
        for n in range(2)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "data/q.parquet")
    outside = [{"image": f"images/{n}.png", "question": "q", "answer": "a"} for n in range(2)]
    assert [i.id for i in read("data/q.parquet")] == [i.id for i in read(lines(outside))]
    assert read("data/q.parquet")[1].images[0].pixels.shape == (24, 32, 3)


def test_directory_with_metadata() -> None:
    rows = [{"file_name": f"{n}.png", "question": "q", "answer": "a"} for n in range(2)]
    lines(rows, "data/images/metadata.jsonl")
    assert len(read("data/images")) == 2
    table("file_name,question,answer\n0.png,q,a\n", "data/images/metadata.csv")
    assert "has metadata.jsonl and metadata.csv" in refused("data/images")


def classes(*names: str) -> None:
    for number, name in enumerate(names):
        folder = Path("data/classes") / name
        folder.mkdir(parents=True)
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / ".DS_Store").touch()
    Path("data/classes/.thumbnails").mkdir()
    Path("data/classes/.DS_Store").touch()


def test_class_folders_are_choices() -> None:
    classes("wall_clock", "cat")
    found = read("data/classes")
    assert [c.text for c in found[0].choices] == ["cat", "wall clock"]
    assert [i.references for i in found] == [("A",), ("B",)]
    assert [dict(i.slices) for i in found] == [{"class": "cat"}, {"class": "wall clock"}]
    assert {i.question for i in found} == {"Which of these does the picture show?"}
    short = read("data/classes", kind="short", question="What is it?")
    assert [(i.question, i.references) for i in short] == [
        ("What is it?", ("cat",)),
        ("What is it?", ("wall clock",)),
    ]


def test_many_class_folders_are_asked_for_a_word() -> None:
    classes(*(f"c{n}" for n in range(30)))
    assert "30 options, more than letters; ask for a word with `kind: short`" in refused(
        "data/classes"
    )
    assert read("data/classes", kind="short")[29].references == ("c9",)


def test_limit_draws_the_same_questions_each_time() -> None:
    rows = [{"image": "images/0.png", "question": f"q{n}", "answer": "a"} for n in range(9)]
    name = lines(rows)

    def asked(**config: Any) -> list[str]:
        return [i.question for i in read(name, **config)]

    assert asked(limit=3, sample_seed=None) == ["q0", "q1", "q2"]
    assert asked(limit=3) == asked(limit=3) != asked(limit=3, sample_seed=1)
    assert {*asked(limit=3)} < {*asked()}


def test_same_rows_without_ids_are_told_apart() -> None:
    found = read(lines([YES_NO[0], YES_NO[0]]))
    assert len({i.id for i in found}) == 2


def test_bom_and_lines_within_cells_are_read() -> None:
    name = table(b'\xef\xbb\xbfimage,question,answer\r\nimages/0.png,"Is it\r\nround?",yes\r\n')
    assert [i.question for i in read(name)] == ["Is it\r\nround?"]
    old = table("image,question,answer\rimages/0.png,Is it?,yes\r", "data/old.csv")
    assert [i.question for i in read(old)] == ["Is it?"]
    # A line separator of Unicode ends no line.
    name = table(
        '{"image": "images/0.png", "question": "a\u2028b", "answer": "c"}\n', "data/q.jsonl"
    )
    assert [i.question for i in read(name)] == ["a\u2028b"]


# What is refused


def bad(row: dict[str, Any], **changes: Any) -> Rows:
    return [row, {**row, "id": 7, **changes}]


OPEN = {"image": "images/0.png", "question": "What?", "answer": "cat", "id": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (bad(OPEN, question=" "), "data/q.jsonl:2: column 'question': is empty; fill it in"),
        (bad(OPEN, question=None), "data/q.jsonl:2: column 'question': is empty"),
        (bad(OPEN, question=["a"]), "column 'question': [\"a\"] is a list, not text"),
        (bad(OPEN, answer=""), "data/q.jsonl:2: column 'answer': is empty"),
        (bad(OPEN, answer=["cat", "."]), "data/q.jsonl:2: column 'answer': is empty"),
        (bad(OPEN, answer="NaN"), "data/q.jsonl:2: column 'answer': is empty"),
        (bad(OPEN, id=0), "data/q.jsonl:2: column 'id': '0' is the id of data/q.jsonl:1 already"),
        (bad(OPEN, image="images/9.png"), "column 'image': no such picture: data/images/9.png"),
        (bad(OPEN, image="images"), "column 'image': no such picture: data/images (names are"),
        (bad(OPEN, image="images\\0.png"), "use / and not \\ in names"),
        (bad(OPEN, image="https://a.b/0.png"), "is an address; nothing is downloaded"),
        (bad(OPEN, image="iVBOR" * 99), "is no file name; save the picture as a file"),
        (bad(OPEN, image="a\0b"), "column 'image': no such picture"),
        (bad(OPEN, image=[]), "column 'image': names no picture"),
        ([choice("purple")], "'purple' is not among the options, read as text: red | blue | green"),
        ([choice("D"), choice("A", number=1)], "q.jsonl:1: column 'answer': 'D' is not among"),
        ([choice(1), choice(2, number=1)], "means 'blue' as index and 'red' as number"),
        ([choice("A", ["B", "A"])], "means 'A' as text and 'B' as letter"),
        ([choice("A", ["red"])], "column 'options': only one option, 'red'"),
        ([choice("A", ["red", ""])], "column 'options': an option is empty"),
        ([choice("A", ["red", "Red."])], "column 'options': two options are the same"),
        ([choice("A", {"X": "red", "Y": "blue"})], "has the keys X, Y, not A, B, C"),
    ],
)
def test_bad_rows_are_shown_with_their_place(rows: Rows, message: str) -> None:
    assert message in refused(lines(rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data/q.jsonl: has no rows"),
        ("\n\n", "data/q.jsonl: has no rows"),
        ('{"image": 1}\n{"image": \n', "data/q.jsonl:2: not valid JSON: "),
        ("[1]\n", "data/q.jsonl:1: not a JSON object: [1]"),
        ('{"a": NaN}', "data/q.jsonl:1: not valid JSON: NaN is not JSON; write null"),
        (b"\n{\xff}", "data/q.jsonl:2: the byte 0xff is not UTF-8: save the file as UTF-8"),
        ("{}".encode("utf-16"), "data/q.jsonl:1: the byte 0xff is not UTF-8"),
    ],
)
def test_bad_json_lines(content: str | bytes, message: str) -> None:
    assert message in refused(table(content, "data/q.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "data/q.csv: has no rows"),
        ("image,question,answer\n", "data/q.csv: has no rows"),
        ("image;question;answer\na;b;c\n", "q.csv:1: one column only, 'image;question;answer'; if"),
        ("image,image\na,b\n", "data/q.csv:1: there are two columns 'image'"),
        ("image,question,answer\na,b\n", "q.csv:2: 2 cells where the first line names 3 columns"),
        ('image,question,answer\n\na,b,"c\nd', "data/q.csv:3: not readable as a table"),
        ('image,question,answer\nimages/0.png,"a\nb",c\nx.png,b,c', "data/q.csv:4: column 'image'"),
        ("image,question,answer\nimages/0.png,nan,c\n", "q.csv:2: column 'question': is empty"),
        ("image,question,answer,options\nimages/0.png,q,red,red/blue", "'|' goes between options"),
    ],
)
def test_bad_separated_files(content: str, message: str) -> None:
    assert message in refused(table(content))


def test_bad_parquet() -> None:
    assert "data/q.parquet: not readable as Parquet" in refused(table("x" * 20, "data/q.parquet"))
    rows = pyarrow.Table.from_pylist([OPEN, {**OPEN, "id": 1, "answer": None}])
    parquet.write_table(rows, "data/q.parquet")
    assert refused("data/q.parquet").startswith("data/q.parquet, row 2: column 'answer': is empty")
    scores = [{**OPEN, "answer": score} for score in (1.0, float("nan"))]
    parquet.write_table(pyarrow.Table.from_pylist(scores).drop(["id"]), "data/q.parquet")
    assert refused("data/q.parquet").startswith("data/q.parquet, row 2: column 'answer': is empty")


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (["image", "answer"], {}, "no column is called like the question: say which it is"),
        (["a", "b"], {}, "`columns: {question: …, image: …, answer: …}`; it has a, b"),
        (
            ["query", "prompt", "image", "answer"],
            {},
            "'query', 'prompt' could each be the question",
        ),
        (["image", "question", "gold", "label"], {}, "'gold', 'label' could each be the answer"),
        (
            ["image", "q", "answer"],
            {"columns": {"question": "question", "image": "image", "answer": "answer"}},
            "there is no column 'question'; it has image, q, answer",
        ),
        (
            ["image", "q", "answer"],
            {"columns": {"image": "image", "answer": "answer"}},
            "no column holds the question: name it in `columns: {question: …}`, or give one",
        ),
    ],
)
def test_columns_that_cannot_be_told(names: list[str], config: Any, message: str) -> None:
    assert message in refused(lines([dict.fromkeys(names, "x")]), **config)


def test_one_question_for_all_rows_needs_no_column() -> None:
    rows = [{"image": "images/0.png", "label": "cat"}]
    assert read(lines(rows), question="What is it?")[0].question == "What is it?"


def test_other_refusals() -> None:
    assert "nope.jsonl: no such file or directory; paths are relative to" in refused("nope.jsonl")
    assert "files of the kind '.json' are not read" in refused(table("[]", "data/q.json"))
    assert "expected metadata.jsonl, .csv" in refused("data")
    assert "'cat' is neither yes nor no" in refused(lines([OPEN]), kind="yes-no")
    assert "but `kind: choice` needs some" in refused(lines([OPEN]), kind="choice")
    letters = [choice("A", ["B", "A"])]
    assert "not among the options, read as index" in refused(lines(letters), answers="index")
    assert read(lines(letters), answers="letter")[0].references == ("A",)


def test_one_picture_in_two_clusters_is_refused() -> None:
    rows = [{**OPEN, "id": n, "patient": f"p{n}"} for n in range(2)]
    with pytest.raises(DataError, match=r"q.jsonl:2: its picture is in the cluster 'p1' here and"):
        read(lines(rows))


def test_strays_among_class_folders_are_named() -> None:
    classes("cat", "dog")
    Path("data/classes/cat/scan.dcm").touch()
    Path("data/classes/notes.txt").touch()
    said = refused("data/classes")
    assert said.startswith("2 problems:\n")
    assert "data/classes/notes.txt: neither a class folder nor a picture" in said
    assert "data/classes/cat/scan.dcm: DICOM; choose a window and convert it to PNG" in said


def test_many_problems_are_counted_and_the_first_are_shown() -> None:
    said = refused(lines([{**OPEN, "id": n, "question": ""} for n in range(30)]))
    assert said.startswith("30 problems:\ndata/q.jsonl:1: ")
    assert said.endswith("\n… and 20 more")


# Contract


def test_it_keeps_to_the_contract() -> None:
    rows = [*(choice("B", number=n) for n in range(3)), {**OPEN, "id": 8, "image": "images/3.png"}]
    for name, config in ((lines(rows), {}), (lines(YES_NO, "data/y.jsonl"), {"private": False})):
        absolute = str(Path(name).absolute())
        results = run_checks(Kind.BENCHMARK, "custom", {"path": absolute, **config})
        assert [r for r in results if r.status is Status.FAILED] == []
        assert sum(r.status is Status.OK for r in results) >= 9


def test_fingerprint_follows_table_and_pictures() -> None:
    benchmark = custom(lines(YES_NO))
    before = benchmark.fingerprint()
    assert benchmark.fingerprint() == before
    first = read("data/q.jsonl")
    Path("data/images/1.png").write_bytes(picture(99))
    changed = benchmark.fingerprint()
    assert changed["table"] == before["table"]
    assert changed["pictures"] != before["pictures"]
    # An edited picture is another question; the others stay what they were.
    second = read("data/q.jsonl")
    assert [a.id == b.id for a, b in zip(first, second, strict=True)] == [True, True, False]
    lines([*YES_NO, YES_NO[0]])
    assert benchmark.fingerprint()["table"] != before["table"]


def test_what_cannot_be_read_out_of_an_answer_is_invalid() -> None:
    benchmark = custom(lines(YES_NO))
    first = next(iter(benchmark.instances("test")))
    assert benchmark.extract("perhaps", first) == Answer(
        None, AnswerKind.YES_NO, AnswerStatus.INVALID
    )


@pytest.mark.parametrize(
    ("score", "golds", "answers"),
    [
        ("exact", ["a cat"], {"A cat.": 1, "cat": 0, "it is a cat": 0}),
        ("contains", ["cat", "kitten"], {"it is a Kitten": 1, "dog": 0, "": 0}),
        ("anls", ["Berlin"], {"berlin": 1, "Berlim": 0.833, "Bern": 0.667, "Paris": 0}),
        ("numeric", ["40"], {"41": 1, "$40.0": 1, "43": 0, "many": 0}),
    ],
)
def test_short_answers_are_scored_as_asked(
    score: str, golds: list[str], answers: dict[str, float]
) -> None:
    benchmark = custom(lines([{**OPEN, "answer": golds}]), score=score)
    (one,) = benchmark.instances("test")
    for text, expected in answers.items():
        told = benchmark.score(benchmark.extract(text, one), one)
        assert told.value == pytest.approx(expected, abs=1e-3), text
        assert told.correct == (expected >= 0.5)
    yes_no = custom(lines(YES_NO), score=score)
    first = next(iter(yes_no.instances("test")))
    assert yes_no.score(yes_no.extract("yes", first), first).correct
    assert not yes_no.score(yes_no.extract("no", first), first).correct


def test_another_score_needs_no_new_predictions(stabfw: Callable[..., str]) -> None:
    # Every colour that the model knows has an e, n, r or l in its name.
    rows = [
        {"image": "images/0.png", "question": question, "answer": ["e", "n", "r", "l"]}
        for question in ("what color is it?", "what is the color of the cross?")
    ]
    lines(rows)
    spec = {"stabfw": 1, "name": "mine", "models": ["tiny-llava"], "tracking": {"uri": None}}
    spec["controls"] = {"noise_floor": None}

    def accuracy(score: str) -> float:
        entry = {"type": "custom", "path": "data/q.jsonl", "score": score}
        Path("mine.yaml").write_text(json.dumps({**spec, "benchmarks": [entry]}))
        stabfw("run", "mine.yaml")
        (cell,) = json.loads(Path("runs/mine/results.json").read_text())["results"]["cells"]
        return float(cell["accuracy"]["value"])

    assert accuracy("exact") == 0
    text = Path("mine.yaml").read_text().replace("exact", "contains")
    Path("other.yaml").write_text(text)
    assert "1 in the store; to do: 0 instances" in stabfw("plan", "other.yaml")
    assert accuracy("contains") == 1


def test_unknown_column_roles_are_named() -> None:
    columns = {"question": "q", "image": "i", "answer": "a", "patient": "p"}
    entry = {"type": "custom", "path": "x.csv", "columns": columns}
    spec = {"stabfw": 1, "name": "x", "models": ["tiny-llava"], "benchmarks": [entry]}
    with pytest.raises(SpecError, match=r"benchmarks\[0\].columns.patient: unknown field"):
        parse_spec(spec, Registry())


def test_two_tables_need_two_names() -> None:
    lines(YES_NO)
    entry = {"type": "custom", "path": "data/q.jsonl"}
    spec = {"stabfw": 1, "name": "x", "models": ["tiny-llava"], "benchmarks": [entry] * 2}
    with pytest.raises(SpecError, match="a second entry 'q': leave one out or give it another"):
        parse_spec(spec, Registry())
    spec["benchmarks"] = [entry, {**entry, "name": "again"}]
    parsed = parse_spec(spec, Registry())
    assert parse_spec(parsed.dump(), Registry()) == parsed


# As a user meets it


@pytest.fixture
def stabfw(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, which must end with the exit code, and gives all that it printed."""

    def call(*arguments: str, code: int = 0) -> str:
        ended = cli.invoke(arguments)
        printed = capsys.readouterr()
        assert ended == code, printed.err
        return printed.out + printed.err

    return call


def drawn(name: str) -> list[scenes.Question]:
    """Draw a scene of shapes into a file, and return questions about it."""
    scene = scenes.generate("validation", sum(map(ord, name)), 0, 1.0, 1.2)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(scene.pixels).save(name)
    return list(scenes.questions(scene, 3, ("exist", "color", "shape", "count")))


def test_the_recipe_of_the_readme_works_as_it_stands(stabfw: Callable[..., str]) -> None:
    text = (ROOT / "README.md").read_text()
    section = text.split("## Ask your own questions\n")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))
    assert list(blocks) == ["json", "yaml", "console"]
    table(blocks["json"], "data/questions.jsonl")
    rows = [json.loads(line) for line in blocks["json"].splitlines()]
    assert len(rows) == 5
    for row in rows:
        drawn(f"data/{row['image']}")
    commands = [shlex.split(line, comments=True) for line in blocks["console"].splitlines()]
    (name,) = {command[2] for command in commands if command[1] == "run"}
    table(blocks["yaml"], name)
    said = [stabfw(*command[1:]) for command in commands]
    assert "questions: 5 yes-no" in said[0]
    results = json.loads(Path(f"runs/{Path(name).stem}/results.json").read_text())["results"]
    assert {cell["facts"]["instances"] for cell in results["cells"]} == {5}


def test_custom_data_is_described_with_what_the_page_names() -> None:
    """Each field of the config is on its page, and nothing else is called one."""
    page = (ROOT / "docs" / "custom-data.md").read_text()
    fields = {*CustomConfig.model_fields} - {"split"}
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    columns = CustomConfig.model_fields["columns"].annotation.__args__[0].model_fields
    assert named == fields | {*columns}


def unreadable_run(stabfw: Callable[..., str], **benchmark: Any) -> str:
    rows = []
    for number in range(4):
        name = f"scene{number}.png"
        for question in drawn(f"data/{name}"):
            rows.append({"image": name, "question": question.text, "answer": question.answer})
    whole = Path("data/scene2.png").read_bytes()
    Path("data/scene2.png").write_bytes(whole[: len(whole) // 2])
    stabfw("init", "--data", lines(rows), "--force")
    spec = json.loads(json.dumps(load_spec("spec.yaml", Registry()).dump()))
    spec["benchmarks"][0] |= benchmark
    spec |= {"stacks": {"few": [{"type": "fastv", "layer": 1, "keep_ratio": 0.05}]}}
    spec |= {"perturbations": [], "controls": {"noise_floor": None}, "generation": {}}
    spec["tracking"] = {"uri": None, "images": "thumbnails"}
    Path("mine.yaml").write_text(json.dumps(spec))
    return stabfw("run", "mine.yaml", code=Exit.INCOMPLETE)


def test_unreadable_picture_is_an_error_on_both_sides(stabfw: Callable[..., str]) -> None:
    said = unreadable_run(stabfw)
    assert "scene2.png" in " ".join(said.split())
    results = json.loads(Path("runs/my-data/results.json").read_text())["results"]
    (comparison,) = results["comparisons"]
    counts = comparison["counts"]
    assert counts["n_error_base"] == counts["n_error_variant"] == 3
    assert comparison["metrics"]["divergence_ratio"]["n"] == 9
    assert [cell["unanswered"] for cell in results["cells"]] == [3, 3]
    assert all(cell["accuracy"]["n"] == 9 for cell in results["cells"])
    planned = stabfw("plan", "mine.yaml")
    assert "q: 12 short; the pictures of 3 cannot be read" in planned
    # Private pictures are in no page, although thumbnails were asked for.
    (page,) = Path("runs").rglob("flips.html")
    assert counts["n_cc_diff"] + counts["n_ci"] + counts["n_ic"] + counts["n_ii_diff"] > 0
    assert "data:image" not in page.read_text()
    assert "its pictures are private and left out of reports" in page.read_text()


def test_pictures_are_shown_where_both_switches_say_so(stabfw: Callable[..., str]) -> None:
    unreadable_run(stabfw, private=False)
    (page,) = Path("runs").rglob("flips.html")
    assert "data:image" in page.read_text()
    assert "private" not in page.read_text()


def test_data_of_which_no_picture_can_be_read_is_refused_before_a_model_is_loaded(
    stabfw: Callable[..., str],
) -> None:
    for number in range(2):
        Path(f"data/images/{number}.png").write_bytes(bytes(128) + b"DICM" + bytes([number]))
    stabfw("init", "--data", lines(YES_NO))
    said = stabfw("run", "spec.yaml", code=Exit.USAGE)
    assert "no picture can be read; the first one: data/images/0.png: not a readable" in said
    assert "DICOM" in said


def test_init_writes_what_it_found(stabfw: Callable[..., str]) -> None:
    assert "Found 3 questions (3 yes-no) about 2 pictures." in stabfw(
        "init", "--data", lines(YES_NO)
    )
    (config,) = load_spec("spec.yaml", Registry()).benchmarks
    assert config.path == Path("data/q.jsonl")
    assert config.columns.answer == "answer"
    assert config.kind is AnswerKind.YES_NO
    assert "    # private: true\n" in Path("spec.yaml").read_text()
    classes("cat", "dog")
    stabfw("init", "--data", "data/classes", "classes.yaml")
    assert load_spec("classes.yaml", Registry()).benchmarks[0].question.startswith("Which of these")
    said = stabfw("init", "--data", lines([{"a": 1}]), "bad.yaml", code=Exit.USAGE)
    assert "say which it is" in said
    assert not os.path.lexists("bad.yaml")
    said = stabfw("init", "--data", "data", "--benchmark", "shapes", "x.yaml", code=Exit.USAGE)
    assert "benchmark 'shapes' brings its own data" in said
