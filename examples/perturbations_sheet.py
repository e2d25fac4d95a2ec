"""Draw docs/perturbations.png and measure the table of docs/perturbations.md.

    python examples/perturbations_sheet.py docs/perturbations.png

writes the picture and prints the table: PSNR and SSIM of every image perturbation and severity, on
a part of scikit-learn's photograph `china.jpg` of 224 x 224 pixels, the size that the severities of
ImageNet-C were chosen for; means over eight seeds.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from stabfw.components import Image, Instance, Kind, Modality, Perturbation, Prompt
from stabfw.execute.strength import strength
from stabfw.registry import Registry

SEEDS = 8
TILE, LABEL, GAP = 112, 130, 4
WIDTH = LABEL + 5 * (TILE + GAP)


def main(path: str) -> None:
    """Write the sheet and print the table."""
    registry = Registry()
    perturbations = [
        (plugin.name, cls)
        for plugin in registry.plugins()
        if plugin.kind is Kind.PERTURBATION
        and plugin.distribution == "stabfw"
        and (cls := registry.load(Kind.PERTURBATION, plugin.name)).modality is Modality.IMAGE
        and "severity" in cls.config_cls.model_fields
    ]
    photo = np.ascontiguousarray(load_sample_image("china.jpg")[100:324, 200:424])
    original = Instance.create((Image.from_pixels(photo),), "?", native_id=0)
    rows = math.ceil((len(perturbations) + 1) / 2)
    sheet = PillowImage.new("RGB", (2 * WIDTH, rows * (TILE + GAP)), "white")
    _write(sheet, "the photograph", 0, rows)
    _paste(sheet, photo, 0, 0, rows)
    print("| perturbation | PSNR (dB) at severity 1 2 3 4 5 | SSIM at severity 1 2 3 4 5 |")
    print("|---|---|---|")
    for row, (name, cls) in enumerate(perturbations, start=1):
        _write(sheet, name, row, rows)
        psnr, ssim = [], []
        for severity in range(1, 6):
            perturbation = cls(cls.config_cls(severity=severity))
            changed = [_changed(perturbation, original, seed) for seed in range(SEEDS)]
            _paste(sheet, changed[0].pixels, row, severity - 1, rows)
            found = [strength(_asked(original.images[0]), _asked(image)) for image in changed]
            psnr.append(f"{np.mean([s.psnr for s in found]):.1f}")
            ssim.append(f"{np.mean([s.ssim for s in found]):.2f}")
        print(f"| `{name}` | {' '.join(psnr)} | {' '.join(ssim)} |")
    sheet.quantize(255, dither=PillowImage.Dither.NONE).save(path, optimize=True)


def _changed(perturbation: Perturbation, original: Instance, seed: int) -> Image:
    return perturbation.perturb(original, np.random.default_rng(seed)).images[0]


def _asked(image: Image) -> Prompt:
    return Prompt("", (image,), "")


def _write(sheet: PillowImage.Image, name: str, row: int, rows: int) -> None:
    place = (row // rows * WIDTH + 6, row % rows * (TILE + GAP) + TILE // 2)
    ImageDraw.Draw(sheet).text(place, name, "black", ImageFont.load_default(13))


def _paste(sheet: PillowImage.Image, pixels: np.ndarray, row: int, column: int, rows: int) -> None:
    tile = PillowImage.fromarray(pixels)
    tile.thumbnail((TILE, TILE))
    left = row // rows * WIDTH + LABEL + column * (TILE + GAP)
    sheet.paste(tile, (left, row % rows * (TILE + GAP)))


if __name__ == "__main__":
    main(sys.argv[1])
