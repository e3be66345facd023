"""From a source to a folder of shards: every image is read, checked, scaled and stored once."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from sslpipe import config, progress, scratch
from sslpipe.data import images, manifest, sources, webdataset
from sslpipe.data.folder import UNREADABLE
from sslpipe.data.threads import cores, ordered_map
from sslpipe.errors import UserError, explain_os_error

#: What one file's fault may be; anything else (too many open files, …) is the machine's and stops the work.
_FILE_FAULTS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ELOOP, errno.EIO, errno.EISDIR, errno.ENOTDIR}


class Config(config.Config):
    """The section `shard` of params.yaml."""

    format: Literal["webdataset"] = Field("webdataset", description="how the images are stored")
    resolution: int = Field(
        28, ge=8, le=4096, description="canvas side in pixels; images are scaled down to it"
    )
    shard_size: int = Field(5000, ge=1, description="images in one tar")
    max_pixels: int = Field(100_000_000, ge=1, description="images of more pixels are left out")
    max_bytes: int = Field(100_000_000, ge=1, description="image files of more bytes are left out")


@dataclass(frozen=True)
class _Result:
    """What a thread makes of an item: a sample with its histogram [3, 256], or the reason why not."""

    key: str
    digest: str
    sample: webdataset.Sample | None
    histogram: np.ndarray | None
    reason: str = ""


class _Tally:
    """What is learnt of the images on the way."""

    def __init__(self) -> None:
        self.contents: list[tuple[str, int, str]] = []
        self.reasons: Counter[str] = Counter()
        self.listed: list[manifest.Reject] = []
        self.labels: dict[str, Counter[int]] = {split: Counter() for split in sources.SPLITS}
        self.histogram = np.zeros((3, 256), np.int64)

    def reject(self, key: str, reason: str) -> None:
        self.reasons[reason] += 1
        if len(self.listed) < manifest.LISTED:
            self.listed.append(manifest.Reject(key=key, reason=reason))


def shard(config: Config, source: sources.Source, output_dir: Path, seed: int) -> manifest.Manifest:
    """Write both splits and the manifest to a folder, with progress on standard error.

    An image that cannot be used is listed in the manifest with its reason and left out. The files depend on
    the images, their names and `seed` only, not on their times, the machine's cores or where they lay.

    Raises:
        UserError: no image of a split could be used; the disk is full or cannot be written.
    """
    for note in source.notes:
        print(f"shard: {note}", file=sys.stderr, flush=True)
    try:
        (output_dir / manifest.NAME).unlink(missing_ok=True)  # from here to the end the folder is not trusted
    except OSError as error:
        raise explain_os_error(error, f"clearing {output_dir}") from error
    tally = _Tally()
    total = sum(len(source.items(split)) for split in sources.SPLITS)
    with images.limits(config.max_pixels), progress.progress("shard", total, "images") as bar:
        splits = manifest.Splits(
            **{split: _write_split(config, source, split, output_dir, tally, bar) for split in sources.SPLITS}
        )
    result = manifest.Manifest(
        source=manifest.Origin(name=source.name, digest=scratch.digest(sorted(tally.contents))),
        resolution=config.resolution,
        seed=seed,
        classes=source.classes,
        splits=splits,
        statistics=statistics(tally.histogram),
        recipe=dict(source.recipe),
        rejects=manifest.Rejects(
            count=tally.reasons.total(),
            by_reason=dict(sorted(tally.reasons.items())),
            listed=tuple(tally.listed),
        ),
        notes=source.notes,
        ignored=dict(source.ignored),
        digest=manifest.shards_digest(splits),
    )
    manifest.write(output_dir, result)
    print(summary(result), file=sys.stderr, flush=True)
    return result


def statistics(histogram: np.ndarray) -> manifest.Statistics:
    """Channel mean and standard deviation in [0, 1] from counts of the levels 0 to 255, int64 [3, 256].

    The sums are whole numbers, so nothing is lost however many pixels there are. A standard deviation under
    one level (images of one colour) counts as one level, since views are divided by it.
    """
    mean, std = [], []
    for counts in histogram.tolist():
        number = sum(counts)
        total = sum(level * count for level, count in enumerate(counts))
        squares = sum(level * level * count for level, count in enumerate(counts))
        mean.append(total / number / 255)
        std.append(max(((number * squares - total * total) / number**2) ** 0.5, 1.0) / 255)
    return manifest.Statistics(mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def summary(result: manifest.Manifest) -> str:
    """One line for the user: what was stored, what was left out and why, what was passed over."""
    splits, classes = result.splits, result.classes
    text = f"shard: {splits.train.count} train and {splits.test.count} test images"
    text += f" of {len(classes)} classes" if classes else " without labels"
    if result.rejects.count:
        reasons = _by_reason(result.rejects.by_reason)
        text += f"; {result.rejects.count} rejected ({reasons}), listed in {manifest.NAME}"
    if result.ignored:
        kinds = ", ".join(list(result.ignored)[:5])
        text += f"; passed over {sum(result.ignored.values())} other files ({kinds})"
    return text


def _write_split(
    config: Config, source: sources.Source, split: str, folder: Path, tally: _Tally, bar: progress.Progress
) -> manifest.Split:
    items = source.items(split)
    with closing(_samples(config, items, split, tally, bar)) as samples:
        shards = webdataset.write_split(folder, split, samples, shard_size=config.shard_size)
    count = sum(shard.count for shard in shards)
    if not count:
        first = f", {tally.listed[0].key} to begin with" if tally.listed else ""
        raise UserError(
            f"not one of the {len(items)} {split} images can be used ({_by_reason(tally.reasons)}{first}): "
            "check data.root and its files"
        )
    labels = tally.labels[split]
    class_counts = None
    if source.classes is not None and max(labels) >= 0:
        class_counts = tuple(labels[number] for number in range(len(source.classes)))
    return manifest.Split(
        count=count, labelled=class_counts is not None, class_counts=class_counts, shards=shards
    )


def _samples(
    config: Config, items: Sequence[sources.Item], split: str, tally: _Tally, bar: progress.Progress
) -> Generator[webdataset.Sample]:
    threads = cores()
    with closing(
        ordered_map(lambda item: _store(config, item), items, threads=threads, ahead=4 * threads)
    ) as results:
        for item, result in zip(items, results, strict=True):
            bar.update()
            tally.contents.append((f"{split}/{result.key}", item.label, result.digest))
            if result.sample is None or result.histogram is None:
                tally.reject(result.key, result.reason)
                continue
            tally.labels[split][item.label] += 1
            if split == "train":
                tally.histogram += result.histogram
            yield result.sample


def _store(config: Config, item: sources.Item) -> _Result:
    digest = ""
    try:
        data = _read(item, config.max_bytes)
        digest = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).hexdigest()
        stored = images.store(data, resolution=config.resolution, max_pixels=config.max_pixels)
    except images.BadImage as error:
        extension = os.path.splitext(item.key)[1].lower()
        unread = error.reason == "not an image" and extension in UNREADABLE
        reason = f"format not read ({extension})" if unread else error.reason
        return _Result(item.key, digest, None, None, reason)
    counts = np.array(stored.image.histogram(), np.int64).reshape(-1, 256)  # [1 or 3, 256]
    sample = webdataset.Sample(item.key, item.label, stored.data, stored.extension)
    return _Result(item.key, digest, sample, np.broadcast_to(counts, (3, 256)))


def _read(item: sources.Item, limit: int) -> bytes | np.ndarray:
    try:
        data = item.read(limit)
    except OSError as error:
        if error.errno in _FILE_FAULTS:
            raise images.BadImage(f"cannot be read: {(error.strerror or 'unknown error').lower()}") from error
        raise explain_os_error(error, f"reading {item.key}") from error
    if isinstance(data, bytes) and len(data) > limit:
        raise images.BadImage("more bytes than shard.max_bytes")
    return data


def _by_reason(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)
