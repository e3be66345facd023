"""The source `torchvision:<name>`: data sets that torchvision downloads and reads.

Each set lies in a folder of its own, by default below data/raw/torchvision. Only the splits and how they are asked for
are written here; everything else is torchvision's. Its import takes seconds: it waits until a set is opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError, explain_os_error, explained
from sslpipe.core import scratch
from sslpipe.sharding.scan import Found, Scan
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import Array, Item, Source, split

ROOT = "data/raw/torchvision"
_COMPLETE = ".complete"  # written when torchvision has opened all of a set

Splits = tuple[dict[str, Any], ...]  # keyword arguments, one for each part that a split is made of


def _parts(name: str, *values: Any) -> Splits:
    return tuple({name: value} for value in values)


_FLAG = (_parts("train", True), _parts("train", False))
_NAMED = (_parts("split", "train"), _parts("split", "test"))
_WHOLE: tuple[Splits, None] = (({},), None)  # no test split: one is drawn

#: What is trained on and what is tested on. Validation splits are trained on where there is a test split beside.
SETS: dict[str, tuple[Splits, Splits | None]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "USPS"), _FLAG),
    "STL10": (_parts("split", "train", "unlabeled"), _parts("split", "test")),
    "SVHN": _NAMED,
    "Imagenette": (_parts("split", "train"), _parts("split", "val")),
    "ImageNet": (_parts("split", "train"), _parts("split", "val")),
    "Places365": (_parts("split", "train-standard"), _parts("split", "val")),
    "Flowers102": (_parts("split", "train", "val"), _parts("split", "test")),
    "OxfordIIITPet": (_parts("split", "trainval"), _parts("split", "test")),
    "FGVCAircraft": (_parts("split", "trainval"), _parts("split", "test")),
    "DTD": (_parts("split", "train", "val"), _parts("split", "test")),
    "Food101": _NAMED,
    "StanfordCars": _NAMED,
    "GTSRB": _NAMED,
    "PCAM": (_parts("split", "train", "val"), _parts("split", "test")),
    "Country211": (_parts("split", "train", "valid"), _parts("split", "test")),
    **dict.fromkeys(("EuroSAT", "SUN397", "Caltech101", "Caltech256"), _WHOLE),
}
#: Digits, letters and signs mean something else when mirrored.
UPRIGHT = frozenset({"MNIST", "FashionMNIST", "KMNIST", "USPS", "SVHN", "GTSRB"})
SOURCE = Declaration(about="downloaded sets", reads=("root",), names=tuple(SETS))


@dataclass(frozen=True, slots=True)
class Image(Item):
    """One image of a data set; read when it is asked for."""

    dataset: Any
    index: int

    def read(self, limit: int) -> bytes | Array:
        """The file as it is where the data set has files, else its pixels."""
        import numpy  # here, as in `source.Array`

        image = self.dataset[self.index][0]
        if isinstance(image, bytes):
            return image[: limit + 1]
        return numpy.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def digest(config: Settings) -> dict[str, Any]:
    """Digest, number and bytes of a set's files, by their paths, sizes and times; downloads what is not there."""
    name, folder = _place(config)
    if not (folder / _COMPLETE).exists():
        for _ in _datasets(name, folder):
            pass
    with explained(f"data.root: listing {folder}"):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _COMPLETE)
        states = [(str(path.relative_to(folder)), path.stat()) for path in files]
    found = (Found(path, state.st_size, state.st_mtime_ns) for path, state in states)
    return Scan(tuple(found), (), {}).summary()


def open_source(config: Settings, seed: int) -> Source:
    """The set's images in its own splits, or in two drawn by seed."""
    name, folder = _place(config)
    images: dict[str, list[Image]] = {}
    names: Sequence[Any] = ()
    for split_name, prefix, dataset in _datasets(name, folder):
        images.setdefault(split_name, []).extend(
            Image(f"{name}/{prefix}/{index:07d}", label, dataset, index)
            for index, label in enumerate(_labels(dataset))
        )
        names = getattr(dataset, "classes", None) or names
    count = 1 + max(image.label for image in images["train"])
    if len(names) < count:
        names = range(count)
    # ImageNet and Imagenette give several names of a class.
    classes = tuple(str(each[0] if isinstance(each, (tuple, list)) else each) for each in names)
    splits = split(images["train"], config.test_fraction, seed, images.get("test"))
    return Source(name, classes, splits, recipe={"hflip": 0.0} if name in UPRIGHT else {})


def _place(config: Settings) -> tuple[str, Path]:
    """The set's name, and the folder that it is kept in."""
    name = config.source.partition(":")[2]
    return name, scratch.root() / Path(config.root or ROOT).expanduser() / name


def _datasets(name: str, folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Each part of each split, downloaded where it is not there, opened: ("train", "train/unlabeled", data set)."""
    for split_name, parts in zip(("train", "test"), SETS[name], strict=True):
        for asked in parts or ():
            prefix = split_name if len(parts or ()) == 1 else f"{split_name}/{asked['split']}"
            yield split_name, prefix, _open(name, folder, asked)
    (folder / _COMPLETE).touch()


def _open(name: str, folder: Path, asked: dict[str, Any]) -> Any:
    what = f"data.source torchvision:{name}"
    try:
        from torchvision import datasets as sets

        kind = getattr(sets, name)
        known = inspect.signature(kind.__init__).parameters
        given = dict(asked)
        if "download" in known:
            given["download"] = True
        if "loader" in known or name == "ImageNet":
            given["loader"] = _content  # the file as it is: it is decoded once, where shards are written
        folder.mkdir(parents=True, exist_ok=True)
        return kind(str(folder), **given)
    except ImportError as error:
        raise UserError(f"{what}: {error}: install it, or choose another source") from error
    except OSError as error:  # a download that failed is one, too
        what += f", getting it into {folder}"
        if error.errno is not None:
            raise explain_os_error(error, what) from error
        raise UserError(f"{what}: {error}; try again, or put its files there by hand") from error
    except (RuntimeError, ValueError) as error:  # damaged or missing files
        remedy = f"remove what is damaged from {folder} and try again, or put its files there by hand"
        raise UserError(f"{what}: {error}; {remedy}") from error


def _content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _labels(dataset: Any) -> list[int]:
    """Each image's class, without reading images where the data set keeps a list."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return [int(value) for value in values]
    return [int(dataset[index][1]) for index in range(len(dataset))]
