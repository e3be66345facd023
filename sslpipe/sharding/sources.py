"""Where images come from: bundled digits, solar cells (elpv), a folder, torchvision; nothing here imports torch.

A source is one entry of `_KINDS`: how to take its digest without reading images, and how to open it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from sslpipe.console.errors import UserError
from sslpipe.core import config
from sslpipe.sharding import bundled, folder, remote, tar_source, torchvision_sets
from sslpipe.sharding.source import SPLITS, File, Item, Source, drawn, split

__all__ = ["SPLITS", "Config", "Item", "Source", "open_source", "source_digest"]


class Config(config.Config):
    """The section `data` of params.yaml."""

    source: str = Field(
        "mnist5k",
        description="mnist5k (bundled digits), elpv (solar cells), torchvision:<name>, folder (your images) or shards "
        "(tars of them)",
    )
    root: str | None = Field(
        None,
        description="folder of {train,test}/class/*, class/* or plain images; shards: a folder of tars, or a pattern "
        "such as s3://bucket/train-{0000..0127}.tar; for torchvision, where its sets are kept",
    )
    test_root: str | None = Field(
        None, description="shards: the tars to test on, as root; null: drawn from root"
    )
    schemes: tuple[str, ...] = Field(
        (), description=f"shards: kinds of addresses to trust besides {', '.join(remote.SCHEMES)}"
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
        if self.source in ("folder", "shards") and not self.root:
            raise ValueError(f"source is {self.source}: set root to where your images are")
        if self.source != "shards" and (self.test_root or self.schemes):
            raise ValueError("test_root and schemes are for source shards: leave them out")
        if self.source in ("mnist5k", "elpv") and self.root:
            raise ValueError(
                f"root is set, but source is {self.source}, which does not read it: "
                "set source to folder to use your images, or root to null"
            )
        return self


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
            File(folder.printable(path), -1 if name is None else numbers[name], os.path.join(root, path))
            for path, name in paths
        ]

    if arranged.test is None:
        if len(arranged.train) < 2:
            raise UserError(
                f"data.root: one image in {root} is not enough: training and testing need one each"
            )
        splits = split(items(arranged.train), config.test_fraction, seed)
    else:
        splits = {"train": drawn(items(arranged.train), seed), "test": items(arranged.test)}
    return Source(
        name="folder",
        classes=None if arranged.classes is None else tuple(map(folder.printable, arranged.classes)),
        splits=splits,
        notes=arranged.notes,
        ignored=found.ignored,
    )


def _tars(config: Config) -> dict[str, list[str]]:
    assert config.root is not None
    return tar_source.find(config.root, config.test_root, config.schemes)


def _torchvision(name: str) -> _Kind:
    def digest(config: Config) -> dict[str, Any]:
        return torchvision_sets.digest(name, config.root)

    def opened(config: Config, seed: int) -> Source:
        images, classes = torchvision_sets.images(name, config.root)
        if "test" in images:
            splits: dict[str, list[Item]] = {
                "train": drawn(images["train"], seed),
                "test": list(images["test"]),
            }
        else:
            splits = split(images["train"], config.test_fraction, seed)
        recipe = {"hflip": 0.0} if name in torchvision_sets.UPRIGHT else {}
        return Source(name=name, classes=classes, splits=splits, recipe=recipe)

    return _Kind(digest, opened)


_OWN: dict[str, _Kind] = {
    "mnist5k": _Kind(
        lambda config: bundled.mnist5k_digest(),
        lambda config, seed: bundled.open_mnist5k(config.test_fraction, seed),
    ),
    "elpv": _Kind(
        lambda config: bundled.elpv_digest(),
        lambda config, seed: bundled.open_elpv(config.test_fraction, seed),
    ),
    "folder": _Kind(_folder_digest, _open_folder),
    "shards": _Kind(
        lambda config: tar_source.digest(_tars(config)),
        lambda config, seed: tar_source.open_source(_tars(config), config.test_fraction, seed),
    ),
}
_KINDS = _OWN | {torchvision_sets.PREFIX + name: _torchvision(name) for name in torchvision_sets.SETS}
