"""Make the logs in `lmms_eval/`, by running lmms-eval on the embedded tiny LLaVA.

It lives in an environment of its own, whose Python is the argument. torchvision, which it pulls in,
does not go together with a CPU build of torch:

    python -m venv /tmp/harness
    /tmp/harness/bin/pip install lmms-eval==0.7.3 decord filelock==3.20.0
    /tmp/harness/bin/pip uninstall -y torchvision
    python tests/imports/lmms_eval_logs.py /tmp/harness/bin/python
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lm_eval_logs import BITS, keep_logs, rounded, write_data
from stabfw_models.tiny import WEIGHTS

LOGS = Path(__file__).parent / "lmms_eval"
TASK = """\
task: shapes
dataset_path: imagefolder
dataset_kwargs: {data_dir: data}
test_split: train
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {until: [], max_new_tokens: 8, do_sample: false}
process_results: !function utils.score
metric_list:
  - {metric: shapes_score, aggregation: !function utils.mean, higher_is_better: true}
metadata: {version: 1.0}
"""
#: Written as its own tasks are: what is parsed and scored is kept in an object.
UTILS = """\
def pictures(doc):
    return [doc["image"].convert("RGB")]


def text(doc):
    return doc["question"]


def score(doc, results):
    parsed = results[0].strip()
    right = parsed.lower() == doc["answer"].lower()
    return {"shapes_score": {"score": float(right), "pred_answer": parsed}}


def mean(results):
    return sum(result["score"] for result in results) / len(results)
"""


def ask(python: str, name: str, checkpoint: str, folder: Path) -> None:
    """Run the harness and keep its log of samples and its results."""
    out = folder / f"out-{name}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    arguments = f"pretrained={checkpoint},device=cpu,device_map=cpu,dtype=float32"
    command = [python, "-m", "lmms_eval", "--model", "llava_hf", "--model_args", arguments]
    command += ["--tasks", "shapes", "--include_path", str(folder / "tasks")]
    command += ["--batch_size", "1", "--log_samples", "--output_path", str(out)]
    subprocess.run(command, check=True, env=os.environ | offline, cwd=folder)
    keep_logs(out, LOGS / name, "*_samples_*.jsonl", "*_results.json")


def main(python: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(WEIGHTS / "tiny-llava", folder / "tiny-llava")
        rounded(WEIGHTS / "tiny-llava", folder / "tiny-llava-rounded", BITS)
        write_data(folder / "data")
        (folder / "tasks").mkdir()
        (folder / "tasks" / "shapes.yaml").write_text(TASK)
        (folder / "tasks" / "utils.py").write_text(UTILS)
        ask(python, "baseline", "tiny-llava", folder)
        ask(python, "rounded", "tiny-llava-rounded", folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
