"""The bundled digits in colour, as a folder of images: `python benchmarks/colour_digits.py FOLDER`.

A method that learns from colour needs colours that mean something, as green means grass. Each digit is printed in ink
of a hue of its own, give or take 20 degrees, which its neighbours' hues overlap; the lightness stays that of the grey
image to rounding, so that whoever looks at lightness alone sees no more than before. For colorization:

    python benchmarks/methods.py --methods colorization --free --seeds 3 \\
      --set data.source=folder data.root=FOLDER 'views.recipe={hflip: 0.0, rotation: 15.0}'
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslpipe.networks.lab import lab_to_rgb
from sslpipe.sharding import sources
from sslpipe.sharding.source import Pixels

CHROMA, SPREAD = 35.0, 20.0  # of the darkest ink to the lightest, in Lab's units; of hues, in degrees


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"{write(options.folder)} images in {options.folder}")


def write(folder: Path, seed: int = 0) -> int:
    """FOLDER/{train,test}/CLASS/NAME.png of all bundled digits; their number."""
    digits, generator = sources.open_source(sources.Config(), seed), np.random.default_rng(seed)
    count = 0
    for split, items in digits.splits.items():
        for item in items:
            assert isinstance(item, Pixels)
            assert item.label is not None
            path = folder / split / digits.classes[item.label] / f"{Path(item.key).name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            hue = generator.normal(36.0 * item.label, SPREAD)
            Image.fromarray(ink(item.pixels, hue)).save(path)
            count += 1
    return count


def ink(digit: np.ndarray, hue: float) -> np.ndarray:
    """A grey digit [H, W], uint8, in ink of a hue in degrees: [H, W, 3], uint8, of lightness 80 where it was white."""
    strength, angle = torch.from_numpy(digit).float() / 255, math.radians(hue)
    lab = torch.stack(
        [80 * strength, CHROMA * math.cos(angle) * strength, CHROMA * math.sin(angle) * strength]
    )
    rgb: np.ndarray = (lab_to_rgb(lab[None])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return rgb


if __name__ == "__main__":
    main()
