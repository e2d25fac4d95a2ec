"""Print the framework's own cost beside what it wraps."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIGHT_S, RERUN_S, PER_INSTANCE_MS, METRICS_S, METRICS_GB = 0.3, 2.0, 2.0, 10.0, 2.0
QUESTIONS, BATCH, TOKENS, ROUNDS = 240, 8, 6, 3
_HEAVY = ("torch", "transformers", "mlflow", "datasets")


def main() -> None:
    """Run every measurement."""
    with tempfile.TemporaryDirectory() as directory:
        framework_cost(Path(directory))
        light_commands(Path(directory))
        finished_run(Path(directory))
    million_pairs()


def framework_cost(directory: Path) -> None:
    """CPU time per instance of `stabfw` and of a bare Hugging Face loop, same batches, in turn."""
    import torch
    from stabfw.execute import InlineExecutor, Task, Todo
    from stabfw.plan import make_plan
    from stabfw.registry import Registry
    from stabfw.spec import parse_spec
    from stabfw.store import Store

    torch.set_num_threads(1)
    registry = Registry()
    spec = parse_spec(_spec(directory), registry)
    ours, bare = [], []
    with Store(spec.store) as store:
        plan = make_plan(spec, registry, store)
        session, cell = plan.sessions[0], plan.cells[0]
        task = Task(session, {cell.key: Todo(tuple(range(len(cell.batches))), "")})
        for round_number in range(ROUNDS + 1):
            with session.model.open(session.request) as loaded:
                bare_s = _bare_loop(loaded, cell)
            begin = time.process_time()
            first = None
            for message in InlineExecutor(store).execute([task]):
                # Loading is the same on both sides and is not counted.
                if first is None:
                    first = begin = time.process_time()
                if hasattr(message, "outcomes"):
                    _commit(store, cell, message, round_number)
            ours_s = time.process_time() - begin
            if round_number:  # The first round warms both sides up.
                ours.append(ours_s)
                bare.append(bare_s)
    ours_ms, bare_ms = (statistics.median(side) * 1000 / QUESTIONS for side in (ours, bare))
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    print("framework cost, CPU ms per instance (tiny-llava, batch 8)")
    print(f"  bare loop {bare_ms:6.2f}   stabfw {ours_ms:6.2f}   ratio {ratio:.2f}   ", end="")
    print(_verdict(ours_ms - bare_ms, PER_INSTANCE_MS, "ms beyond"))


def _bare_loop(loaded: Any, cell: Any) -> float:
    """What a user would write: decode, chat template and processor, generate, decode tokens."""
    import torch
    from PIL import Image
    from stabfw.execute.inputs import Inputs

    inputs = Inputs()
    for row in cell.dataset.rows:
        inputs.clean(cell.dataset, row.id)
    processor, module = loaded.processor, loaded.module
    begin = time.process_time()
    for batch in cell.batches:
        instances = [inputs.clean(cell.dataset, i) for i in batch]
        texts = [cell.dataset.benchmark.render(instance) for instance in instances]
        chats = [
            processor.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": text}],
                    }
                ],
                add_generation_prompt=True,
            )
            for text in texts
        ]
        images = [[Image.fromarray(i.images[0].pixels)] for i in instances]
        tensors = processor(text=chats, images=images, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = module.generate(
                **tensors,
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=processor.tokenizer.pad_token_id,
                eos_token_id=processor.tokenizer.eos_token_id,
            )
        processor.batch_decode(out[:, tensors["input_ids"].shape[1] :], skip_special_tokens=True)
    return time.process_time() - begin


def _commit(store: Any, cell: Any, message: Any, round_number: int) -> None:
    key = f"round {round_number}"
    store.claim(key, {}, key)
    store.commit_batch(
        key, message.number, cell.dataset.scorer, message.outcomes, message.report, message.seconds
    )


def light_commands(directory: Path) -> None:
    """CPU time of commands that load no model, and what they import."""
    spec = directory / "spec.yaml"
    spec.write_text(json.dumps(_spec(directory)))
    check = (
        "from stabfw.registry import Registry; from stabfw.spec import load_spec; "
        f"load_spec({str(spec)!r}, Registry())"
    )
    print("light commands, CPU s")
    for name, code in (
        ("--help", _command("--help")),
        ("plugins", _command("plugins")),
        ("spec validation", check),
    ):
        seconds, heavy = _fresh(code)
        print(f"  {name:16} {seconds:5.2f}   {_verdict(seconds, LIGHT_S, 's')}{heavy}")


def finished_run(directory: Path) -> None:
    """Wall time of running a finished experiment again."""
    spec = directory / "spec.yaml"
    spec.write_text(json.dumps(_spec(directory)))
    code = _command("run", str(spec), "-q")
    _fresh(code)
    begin = time.perf_counter()
    _, heavy = _fresh(code)
    seconds = time.perf_counter() - begin
    print("finished run again, wall s")
    print(f"  {'run':16} {seconds:5.2f}   {_verdict(seconds, RERUN_S, 's')}{heavy}")


def million_pairs() -> None:
    """CPU time and memory of all metrics with intervals: 200,000 images, five questions each."""
    import numpy as np
    from stabfw import metrics

    n, rng = 1_000_000, np.random.default_rng(0)
    ids, cluster = np.arange(n), np.arange(n) // 5
    slices = {"kind": np.array(list("abcdefghij"))[ids % 10]}

    def table(logits: Any) -> Any:
        answers, ordered = logits.argmax(axis=1), np.sort(logits, axis=1)
        return metrics.Outcomes.from_columns(
            ids,
            answer=answers,
            correct=answers == 0,
            cluster=cluster,
            margin=ordered[:, -1] - ordered[:, -2],
            slices=slices,
        )

    before = rng.normal(0, 2, (n, 4))
    after = before + rng.normal(0, 0.2, (n, 4))
    pairs = metrics.pair(table(before), table(after))
    spent: dict[str, float] = {}

    def measure(name: str, compute: Any) -> None:
        begin = time.process_time()
        compute()
        spent[name] = time.process_time() - begin

    sure, sure_after = (
        np.exp(side).max(axis=1) / np.exp(side).sum(axis=1) for side in (before, after)
    )
    right, right_after = pairs.base.correct, pairs.variant.correct
    measure("stability", lambda: metrics.stability_metrics(pairs))
    measure("option drift", lambda: metrics.option_drift(before, after, cluster))
    measure(
        "excess drift",
        lambda: metrics.excess_option_drift(before, after, [before], cluster),
    )
    measure(
        "confidence",
        lambda: metrics.confidence_metrics(sure, sure_after, right, right_after, cluster),
    )
    measure("excess", lambda: metrics.excess_metrics(pairs, [pairs]))
    excess = metrics.excess_per_instance(pairs, [pairs])
    added = metrics.amplification_per_instance(excess, excess)
    measure("amplification", lambda: metrics.mean_amplification({"same": [added]}))
    measure("foresight", lambda: metrics.foresee(pairs, metrics.ForesightRule()))
    measure("self-consistency", lambda: metrics.self_consistency(pairs))
    measure("accuracy_did", lambda: metrics.accuracy_did(pairs, pairs))
    measure("corruption", lambda: metrics.corruption_errors(pairs, {"same": [pairs]}))
    measure("worst slice", lambda: metrics.worst_slice(pairs))
    measure("contrasts", lambda: metrics.slice_contrasts(pairs, "divergence_ratio"))
    measure("accuracy p", lambda: metrics.accuracy_change_p(pairs))
    seconds = sum(spent.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("metrics with intervals over 1 M pairs")
    print(f"  CPU s            {seconds:5.2f}   {_verdict(seconds, METRICS_S, 's')}")
    print(f"    {', '.join(f'{name} {part:.2f}' for name, part in spent.items())}")
    print(f"  peak GB          {memory:5.2f}   {_verdict(memory, METRICS_GB, 'GB')}")


def _spec(directory: Path) -> dict[str, Any]:
    return {
        "stabfw": 1,
        "name": "perf",
        "models": ["tiny-llava"],
        "benchmarks": [{"type": "shapes", "limit": QUESTIONS}],
        "controls": {"noise_floor": None},
        "generation": {"max_new_tokens": TOKENS},
        "batch_size": BATCH,
        "store": str(directory / "store"),
        "runs": str(directory / "runs"),
        "tracking": {"uri": None},
    }


def _command(*arguments: str) -> str:
    return (
        f"import sys; sys.argv = ['stabfw', *{list(arguments)!r}]\n"
        "from stabfw.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )


def _fresh(code: str) -> tuple[float, str]:
    """Run code in a fresh interpreter: its CPU seconds, and which heavy packages it imported."""
    tail = f"\nimport sys; print([m for m in {_HEAVY!r} if m in sys.modules], file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    heavy = done.stderr.strip().splitlines()[-1]
    return seconds, "" if heavy == "[]" else f"   imports {heavy}"


def _verdict(value: float, budget: float, unit: str) -> str:
    return f"{value:.2f} {unit} of {budget:g} allowed: {'ok' if value <= budget else 'OVER'}"


if __name__ == "__main__":
    main()
