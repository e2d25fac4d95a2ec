"""Command line: ``python -m stabfw_models.tiny.training --model tiny-llava --out DIR``."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from stabfw_models.tiny.training.train import RECIPES, export_checkpoint, train


def main() -> None:
    """Train one seed, or resume it, and print the SHA-256 of its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--model", choices=RECIPES, default="tiny-llava")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="steps of stage 1")
    parser.add_argument("--vision-steps", type=int, help="steps of stage 0")
    parser.add_argument(
        "--export-checkpoint", action="store_true", help="export the latest checkpoint and stop"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.export_checkpoint:
        print(export_checkpoint(options.out))
        return
    asked = {"steps": options.steps, "vision_steps": options.vision_steps}
    changed = {name: steps for name, steps in asked.items() if steps is not None}
    recipe = replace(RECIPES[options.model], seed=options.seed, **changed)
    print(train(recipe, options.out))


if __name__ == "__main__":
    main()
