"""Command line: ``python -m stabfw_models.tiny_llava.training --seed 0 --out DIR``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from stabfw_models.tiny_llava.training.train import Recipe, export_checkpoint, train


def main() -> None:
    """Train one seed, or resume it, and print the SHA-256 of its weights."""
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps, help="steps of stage 1")
    parser.add_argument("--vision-steps", type=int, default=default.vision_steps)
    parser.add_argument(
        "--export-checkpoint", action="store_true", help="export the latest checkpoint and stop"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.export_checkpoint:
        print(export_checkpoint(options.out))
        return
    recipe = Recipe(seed=options.seed, steps=options.steps, vision_steps=options.vision_steps)
    print(train(recipe, options.out))


if __name__ == "__main__":
    main()
