"""Draw the table of docs/results/conformance.md: every accelerator on every embedded model.

python examples/conformance_table.py > table.md
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from stabfw.components import Kind
from stabfw.registry import Registry
from stabfw.testing import Status, run_checks

MODELS = ("tiny-llava", "tiny-llava-next", "tiny-qwen2-vl", "tiny-qwen2.5-vl")
#: What is not tried with its defaults: the layers of these models are narrow.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "awq": {"group_size": 32},
    "gptq": {"group_size": 32},
    "hqq": {"group_size": 32},
    "kv-cache": {"group_size": 32},
}
#: Needs another checkpoint, or a server.
NOT_TRIED = ("replace",)

Told = tuple[str, str, Counter[Status], list[str]]


def check(name: str, model: str) -> Told:
    """Run all checks on one accelerator and model; return counts and what failed."""
    registry = Registry()
    cls: Any = registry.load(Kind.MODEL, model)
    made = cls(cls.config_cls(device="cpu", threads=1))
    found = run_checks(Kind.ACCELERATOR, name, CONFIGS.get(name), registry, model=made)
    failed = [f"{r.name}: {r.message}" for r in found if r.status is Status.FAILED]
    return name, model, Counter(result.status for result in found), failed


def main() -> None:
    """Print the table, then every failure; progress goes to the other stream."""
    names = [n for n in Registry().names(Kind.ACCELERATOR) if n not in NOT_TRIED]
    tasks = [(name, model) for name in names for model in MODELS]
    found: dict[tuple[str, str], Told] = {}
    with ProcessPoolExecutor(2) as pool:
        for told in pool.map(check, *zip(*tasks, strict=True)):
            found[told[:2]] = told
            print(f"{len(found)} of {len(tasks)}: {told[0]} on {told[1]}", file=sys.stderr)
    print(f"| accelerator | {' | '.join(MODELS)} |")
    print("|---" * (1 + len(MODELS)) + "|")
    for name in names:
        cells = []
        for model in MODELS:
            counts = found[name, model][2]
            failed = counts[Status.FAILED]
            cells.append(f"{counts[Status.OK]}" + (f", {failed} failed" if failed else ""))
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for name, model in tasks:
        for line in found[name, model][3]:
            print(f"- `{name}` on {model}: {line}")


if __name__ == "__main__":
    main()
