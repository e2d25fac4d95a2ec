"""Make the logs in `lm_eval/`, by running lm-evaluation-harness on the embedded tiny LLaVA.

The harness lives in an environment of its own, whose `lm_eval` is the argument:

    python -m venv /tmp/harness && /tmp/harness/bin/pip install "lm-eval[hf]==0.4.13" pillow
    python tests/imports/lm_eval_logs.py /tmp/harness/bin/lm_eval
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image as PillowImage
from stabfw_benchmarks.shapes import Shapes, ShapesConfig
from stabfw_models.tiny import WEIGHTS

LOGS = Path(__file__).parent / "lm_eval"
QUESTIONS = 150
BITS = 2
TASK = """\
task: shapes
dataset_path: imagefolder
dataset_kwargs: {data_dir: data}
test_split: train
output_type: generate_until
doc_to_image: [image]
doc_to_text: "<image>{{question}}"
doc_to_target: answer
generation_kwargs: {until: [], max_gen_toks: 8, do_sample: false}
filter_list:
  - name: word
    filter: [{function: remove_whitespace}, {function: take_first}]
  - name: letter
    filter: [{function: regex, regex_pattern: "^ ?([A-D])$"}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: {version: 1.0}
"""

OPTIONS = """\
task: options
dataset_path: json
dataset_kwargs: {data_files: {test: options.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def rounded(source: Path, target: Path, bits: int) -> Path:
    """Write a checkpoint whose decoder weights have 2^bits levels an output channel."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if "language_model" in name and name.endswith("proj.weight"):
            wide = weight.float()
            step = wide.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 0.5)
            weights[name] = (((wide / step - 0.5).round() + 0.5) * step).to(weight.dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def write_data(folder: Path) -> None:
    """Write the questions of our `shapes` as a folder of pictures that `datasets` reads."""
    folder.mkdir()
    benchmark = Shapes(ShapesConfig(limit=QUESTIONS))
    lines = []
    for place, instance in enumerate(benchmark.instances("test")):
        name = f"{place:03}.png"
        PillowImage.fromarray(instance.images[0].pixels).save(folder / name)
        row = {
            "file_name": name,
            "question": benchmark.render(instance),
            "answer": instance.references[0],
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def write_options(path: Path) -> None:
    """Write questions with options of several lengths."""
    words = ("red", "dark blue", "a very light green", "no colour at all")
    rows = [
        {"question": f"Which is number {i}?", "choices": words[: 2 + i % 3], "label": i % 2}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def keep_logs(out: Path, target: Path, samples: str, results: str) -> None:
    """Copy what a harness wrote, without what it tells of the machine."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in out.rglob(samples):
        shutil.copy(file, target / file.name)
    for file in out.rglob(results):
        told = json.loads(file.read_text())
        told.pop("pretty_env_info", None)
        text = json.dumps(told, indent=1).replace(f"{out.parent}/", "")
        (target / file.name).write_text(text + "\n")


def ask(lm_eval: str, name: str, folder: Path, *options: str) -> None:
    """Run the harness and keep its log of samples and its results."""
    out = folder / f"out-{name}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    command = [lm_eval, "run", *options, "--include_path", str(folder / "tasks")]
    command += ["--device", "cpu", "--log_samples", "--output_path", str(out)]
    subprocess.run(command, check=True, env=os.environ | offline, cwd=folder)
    keep_logs(out, LOGS / name, "samples_*.jsonl", "results_*.json")


def ask_llava(lm_eval: str, name: str, folder: Path, checkpoint: str) -> None:
    """Ask the questions of `shapes`."""
    arguments = f"pretrained={checkpoint},dtype=float32,max_images=1"
    options = ["--model", "hf-multimodal", "--model_args", arguments, "--tasks", "shapes"]
    ask(lm_eval, name, folder, *options, "--apply_chat_template", "--batch_size", "10")


def main(lm_eval: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(WEIGHTS / "tiny-llava", folder / "tiny-llava")
        rounded(WEIGHTS / "tiny-llava", folder / "tiny-llava-rounded", BITS)
        write_data(folder / "data")
        write_options(folder / "options.jsonl")
        (folder / "tasks").mkdir()
        (folder / "tasks" / "shapes.yaml").write_text(TASK)
        (folder / "tasks" / "options.yaml").write_text(OPTIONS)
        # The harness's own model of random log-likelihoods.
        ask(lm_eval, "options", folder, "--model", "dummy", "--tasks", "options")
        ask_llava(lm_eval, "baseline", folder, "tiny-llava")
        ask_llava(lm_eval, "rounded", folder, "tiny-llava-rounded")


if __name__ == "__main__":
    main(*sys.argv[1:])
