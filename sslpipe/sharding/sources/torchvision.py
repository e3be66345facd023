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

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core import scratch
from sslpipe.sharding.scan import Found, Scan
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import Array, Item, Source, drawn, split

ROOT = "data/raw/torchvision"
_COMPLETE = ".complete"  # written when torchvision has opened all of a set

Splits = tuple[dict[str, Any], ...]  # keyword arguments, one for each part that a split is made of


def _parts(name: str, *values: Any) -> Splits:
    return tuple({name: value} for value in values)


_FLAG = (_parts("train", True), _parts("train", False))
_WHOLE: tuple[Splits, None] = (({},), None)  # no test split: one is drawn

#: What is trained on and what is tested on. Validation splits are trained on where there is a test split beside.
SETS: dict[str, tuple[Splits, Splits | None]] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "MNIST": _FLAG,
    "FashionMNIST": _FLAG,
    "KMNIST": _FLAG,
    "USPS": _FLAG,
    "STL10": (_parts("split", "train", "unlabeled"), _parts("split", "test")),
    "SVHN": (_parts("split", "train"), _parts("split", "test")),
    "Imagenette": (_parts("split", "train"), _parts("split", "val")),
    "ImageNet": (_parts("split", "train"), _parts("split", "val")),
    "Places365": (_parts("split", "train-standard"), _parts("split", "val")),
    "Flowers102": (_parts("split", "train", "val"), _parts("split", "test")),
    "OxfordIIITPet": (_parts("split", "trainval"), _parts("split", "test")),
    "FGVCAircraft": (_parts("split", "trainval"), _parts("split", "test")),
    "DTD": (_parts("split", "train", "val"), _parts("split", "test")),
    "Food101": (_parts("split", "train"), _parts("split", "test")),
    "StanfordCars": (_parts("split", "train"), _parts("split", "test")),
    "GTSRB": (_parts("split", "train"), _parts("split", "test")),
    "PCAM": (_parts("split", "train", "val"), _parts("split", "test")),
    "Country211": (_parts("split", "train", "valid"), _parts("split", "test")),
    "EuroSAT": _WHOLE,
    "SUN397": _WHOLE,
    "Caltech101": _WHOLE,
    "Caltech256": _WHOLE,
}
#: Digits, letters and signs mean something else when mirrored.
UPRIGHT = frozenset({"MNIST", "FashionMNIST", "KMNIST", "USPS", "SVHN", "GTSRB"})


SOURCE = Declaration(about="downloaded sets", reads=("root",), names=tuple(SETS))


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a data set; read when it is asked for."""

    key: str
    label: int
    dataset: Any
    place: int

    def read(self, limit: int) -> bytes | Array:
        """The file as it is where the data set has files, else its pixels."""
        import numpy  # here, as in `source.Array`

        image = self.dataset[self.place][0]
        if isinstance(image, bytes):
            return image[: limit + 1]
        return numpy.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def digest(config: Settings) -> dict[str, Any]:
    """Digest, number and bytes of a set's files, by their paths, sizes and times; downloads what is not there.

    Raises:
        UserError: torchvision cannot get or read it.
    """
    name, folder = _place(config)
    if not (folder / _COMPLETE).exists():
        for _ in _datasets(name, folder):
            pass
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _COMPLETE)
        found = tuple(_found(path, folder) for path in files)
    except OSError as error:
        raise explain_os_error(error, f"data.root: listing {folder}") from error
    return Scan(found, (), {}).summary()


def _found(path: Path, folder: Path) -> Found:
    status = path.stat()
    return Found(str(path.relative_to(folder)), status.st_size, status.st_mtime_ns)


def open_source(config: Settings, seed: int) -> Source:
    """The set's images in its own splits, or in two drawn by seed.

    Raises:
        UserError: torchvision cannot get or read it.
    """
    name, folder = _place(config)
    images, classes = _images(name, folder)
    splits: dict[str, list[Item]]
    if "test" in images:
        splits = {"train": drawn(images["train"], seed), "test": list(images["test"])}
    else:
        splits = split(images["train"], config.test_fraction, seed)
    return Source(name=name, classes=classes, splits=splits, recipe={"hflip": 0.0} if name in UPRIGHT else {})


def _place(config: Settings) -> tuple[str, Path]:
    """The set's name, and the folder that it is kept in."""
    name = config.source.partition(":")[2]
    return name, scratch.root() / Path(config.root or ROOT).expanduser() / name


def _images(name: str, folder: Path) -> tuple[dict[str, list[Image]], tuple[str, ...]]:
    """The images of each split, and the names of the classes; the split `test` is missing where the set has none."""
    found: dict[str, list[Image]] = {}
    classes: Sequence[str] = ()
    for split_name, part, dataset in _datasets(name, folder):
        labels = _labels(dataset)
        prefix = "/".join([name, split_name, part] if part else [name, split_name])
        places = enumerate(labels)
        found.setdefault(split_name, []).extend(
            Image(f"{prefix}/{place:07d}", label, dataset, place) for place, label in places
        )
        classes = getattr(dataset, "classes", None) or classes
    count = 1 + max(image.label for image in found["train"])
    return found, tuple(map(_name, classes)) if len(classes) >= count else tuple(map(str, range(count)))


def _datasets(name: str, folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Each part of each split, opened, downloaded first where it is not there: ("train", "unlabeled", data set).

    Raises:
        UserError: torchvision is not installed, cannot get the files, or finds them damaged.
    """
    for split_name, parts in zip(("train", "test"), SETS[name], strict=True):
        for number, asked in enumerate(parts or ()):
            part = str(asked.get("split", number)) if len(parts or ()) > 1 else ""
            yield split_name, part, _open(name, folder, asked)
    (folder / _COMPLETE).touch()


def _open(name: str, folder: Path, asked: dict[str, Any]) -> Any:
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
        raise UserError(
            f"data.source torchvision:{name}: {error}: install it, or choose another source"
        ) from error
    except OSError as error:  # a download that failed is one, too
        what = f"data.source torchvision:{name}, getting it into {folder}"
        if error.errno is not None:
            raise explain_os_error(error, what) from error
        raise UserError(f"{what}: {error}; try again, or put its files there by hand") from error
    except (RuntimeError, ValueError) as error:  # damaged or missing files
        raise UserError(
            f"data.source torchvision:{name}: {error}; remove what is damaged from {folder} and try again, or put its "
            "files there by hand"
        ) from error


def _content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _labels(dataset: Any) -> list[int]:
    """Each image's class, without reading images where the data set keeps a list."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return [int(value) for value in values]
    return [int(dataset[place][1]) for place in range(len(dataset))]


def _name(value: Any) -> str:
    """A class's name: ImageNet and Imagenette give several."""
    return str(value[0] if isinstance(value, (tuple, list)) else value)
