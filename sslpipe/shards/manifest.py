"""The manifest of a folder of shards: what is in them, and what did not make it; and files compared with it.

Whatever is missing, damaged or cannot be written raises a `UserError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sslpipe.console.errors import UserError, explained
from sslpipe.core import scratch
from sslpipe.core.config import Config

NAME = "manifest.json"
LISTED = 1000  #: rejects named one by one; the rest are only counted
AGAIN = "run `dvc repro` to make the shards again"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Origin(Config):
    """Where the images came from; the digest is over their names, labels and contents, not their times."""

    name: str
    digest: Digest


class Shard(Config):
    """One tar or .beton file: its path below the manifest's folder, digest, bytes and samples."""

    path: str = Field(pattern=r"^(train|test)/[A-Za-z0-9_-]+\.(tar|beton)$")
    sha256: Digest
    bytes: Count
    count: int = Field(gt=0)


class Split(Config):
    """A split: its images, whether any have labels, how many of each class, its shards in order, its index's digest."""

    count: int = Field(gt=0)
    labelled: bool
    class_counts: tuple[Count, ...] | None
    shards: tuple[Shard, ...]
    index: Digest

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        if sum(shard.count for shard in self.shards) != self.count:
            raise ValueError("the shards' counts do not add up")
        if self.labelled != (self.class_counts is not None):
            raise ValueError("class_counts must be given if, and only if, the split is labelled")
        if self.class_counts is not None and not 0 < sum(self.class_counts) <= self.count:
            raise ValueError("class_counts do not add up")
        return self


class Statistics(Config):
    """Channel mean and standard deviation over the training images' own pixels (no canvas), in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class Reject(Config):
    """An image that was left out, and why."""

    key: str
    reason: str


class Rejects(Config):
    """All that was left out: counted by reason, the first 1000 by name."""

    count: Count
    by_reason: dict[str, int]
    listed: tuple[Reject, ...] = Field(max_length=LISTED)

    def __str__(self) -> str:
        by_count = sorted(self.by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{count} {reason}" for reason, count in by_count)


class Duplicate(Config):
    """An image that repeats the train image `of`, and how much the two differ (`duplicates.unlike`)."""

    split: Literal["train", "test"]
    place: Count
    key: str
    of: Count
    of_key: str
    difference: float
    exact: bool


class Duplicates(Config):
    """Images that repeat an earlier one of train; `unseen` pairs of close hashes were too many to be looked at."""

    train_exact: Count
    train_near: Count
    test_exact: Count
    test_near: Count
    unseen: Count
    listed: tuple[Duplicate, ...] = Field(max_length=LISTED)

    @property
    def total(self) -> int:
        """All images that come twice."""
        return self.train_exact + self.train_near + self.test_exact + self.test_near

    def __str__(self) -> str:
        return (
            f"{self.test_exact} exact and {self.test_near} near copies of train images in test, "
            f"{self.train_exact} and {self.train_near} within train"
        )


class Splits(Config):
    """The two splits."""

    train: Split
    test: Split


class Manifest(Config):
    """Everything later stages need to know of the data without reading it."""

    format: Literal[1] = 1
    source: Origin
    resolution: int = Field(ge=1)
    seed: int
    classes: tuple[str, ...] | None
    splits: Splits
    statistics: Statistics
    recipe: dict[str, Any]
    rejects: Rejects
    duplicates: Duplicates | None = None  #: None: not looked for
    notes: tuple[str, ...] = ()
    ignored: dict[str, int] = Field(default_factory=dict)
    digest: Digest

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        for name, split in self.splits:
            if split.class_counts is not None and len(split.class_counts) != len(self.classes or ()):
                raise ValueError(f"{name}: class_counts must have one number a class")
        if self.digest != shards_digest(self.splits):
            raise ValueError("digest does not belong to these shards")
        return self

    def counts(self) -> dict[str, int]:
        """What is worth comparing between runs: images, rejects, classes, and images that come twice."""
        counts = {name: split.count for name, split in self.splits}
        counts.update(rejects=self.rejects.count, classes=len(self.classes or ()))
        if self.duplicates is not None:
            found = self.duplicates.model_dump(exclude={"listed", "unseen"})
            counts |= {f"duplicates_{name}": number for name, number in found.items()}
        return counts

    def split(self, name: str) -> Split:
        """The split `train` or `test`."""
        if name not in ("train", "test"):
            raise UserError(f"there is no split {name!r}, only train and test")
        return self.splits.train if name == "train" else self.splits.test


def shards_digest(splits: Splits) -> str:
    """One digest for all shards: two folders with the same one hold the same samples in the same order."""
    return scratch.digest({name: [shard.sha256 for shard in split.shards] for name, split in splits})


def write(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a folder of shards: without it the rest is not trusted."""
    scratch.write_json(folder / NAME, manifest.model_dump(mode="json"))


def read(folder: Path) -> Manifest:
    """Read and check `manifest.json`."""
    path = folder / NAME
    with explained(f"reading {path}"):
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"there is no {path}: run `dvc repro` to make the shards") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"][-1:])
            again = "run `dvc repro` to make it again"
            raise UserError(f"{path} is damaged ({where}{first['msg']}): {again}") from error


class ShardError(UserError):
    """A shard or an index that is missing, damaged or not what the manifest says."""


def check(path: Path, sha256: str) -> None:
    """Raise a `ShardError` unless a file is there and has the digest that the manifest gives."""
    with explained(f"reading {path}"):
        try:
            same = scratch.file_digest(path) == sha256
        except FileNotFoundError as error:
            raise ShardError(f"{path} is missing: {AGAIN}") from error
    if not same:
        raise ShardError(f"{path} is not what its manifest says (damaged or changed): {AGAIN}")
