"""The bundled digits in colour, as a folder of images: `python benchmarks/colour_digits.py FOLDER`.

As MNIST-M (Ganin et al., JMLR 2016, Sec. 5.2.2): a digit's strokes invert the colours of a patch cut from a photograph,
|patch - digit|. Here the photographs are scikit-learn's two, a palace below the sky and a flower; training images are
cut from their left halves and test images from their right ones. For methods that need colour:

    python benchmarks/methods.py --methods colorization --free --seeds 3 \\
      --set data.source=folder data.root=FOLDER 'views.recipe={hflip: 0.0, rotation: 15.0}'
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from sslpipe.data.bundled import open_mnist5k
from sslpipe.data.source import Pixels


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"{write(options.folder)} images in {options.folder}")


def write(folder: Path, seed: int = 0) -> int:
    """FOLDER/{train,test}/CLASS/NAME.png of all bundled digits; their number."""
    digits, generator = open_mnist5k(test_fraction=0.2, seed=seed), np.random.default_rng(seed)
    photographs = load_sample_images().images  # two of [427, 640, 3], uint8
    count = 0
    for split, items in digits.splits.items():
        for item in items:
            assert isinstance(item, Pixels)
            assert item.label is not None
            path = folder / split / digits.classes[item.label] / f"{Path(item.key).name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph = photographs[generator.integers(len(photographs))]
            Image.fromarray(blend(item.pixels, photograph, split, generator)).save(path)
            count += 1
    return count


def blend(
    digit: np.ndarray, photograph: np.ndarray, split: str, generator: np.random.Generator
) -> np.ndarray:
    """A digit [H, W] inverting a patch of one half of a photograph: [H, W, 3], uint8."""
    height, width = digit.shape
    half = photograph.shape[1] // 2
    left = generator.integers(half - width) + (half if split == "test" else 0)
    top = generator.integers(photograph.shape[0] - height)
    patch = photograph[top : top + height, left : left + width].astype(np.int16)
    return np.abs(patch - digit[..., None].astype(np.int16)).astype(np.uint8)


if __name__ == "__main__":
    main()
