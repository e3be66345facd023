"""From a source to a folder of shards: every image is read, checked, scaled and stored once."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sslpipe.console import progress
from sslpipe.console.errors import UserError, explained
from sslpipe.core import scratch
from sslpipe.core.threads import cores, ordered_map
from sslpipe.sharding import duplicates, executors, pieces, sources
from sslpipe.sharding.config import Config
from sslpipe.sharding.pieces import Piece, Report
from sslpipe.shards import index, manifest
from sslpipe.shards.files import Pictures


def shard(
    config: Config, source: sources.Source, output_dir: Path, seed: int, work: Path | None = None
) -> manifest.Manifest:
    """Write both splits and the manifest to a folder, with progress on standard error.

    An image that cannot be used is listed in the manifest with its reason and left out. The files depend on the images,
    their names and `seed` only, not on their times, the machine's cores or where they lay.

    Args:
        config: the section `shard`.
        source: the images.
        output_dir: the folder.
        seed: noted in the manifest; the source is drawn by it.
        work: where shards are kept until all are there. A later call with the same images, settings and `work`
            goes on with what is finished; None for a folder that nothing outlives.

    Raises:
        UserError: no image of a split could be used; the disk is full or cannot be written.
    """
    for note in source.notes:
        print(f"shard: {note}", file=sys.stderr, flush=True)
    _clear(output_dir)
    making = output_dir / ".making" if work is None else work
    try:
        reports = _make(config, source, making)
        splits = manifest.Splits(
            **{split: _join(reports[split], split, source, making, output_dir) for split in sources.SPLITS}
        )
    finally:
        if work is None:
            shutil.rmtree(making, ignore_errors=True)
    everything = [report for split in sources.SPLITS for report in reports[split]]
    contents = sum(report.contents for report in everything) % 2**256
    result = manifest.Manifest(
        source=manifest.Origin(name=source.name, digest=f"{contents:064x}"),
        resolution=config.resolution,
        seed=seed,
        classes=source.classes,
        splits=splits,
        statistics=statistics(np.sum([report.histogram for report in reports["train"]], axis=0)),
        recipe=dict(source.recipe),
        rejects=_rejects(everything),
        duplicates=_duplicates(config, reports, splits, output_dir) if config.duplicates else None,
        notes=source.notes,
        ignored=dict(source.ignored),
        digest=manifest.shards_digest(splits),
    )
    manifest.write(output_dir, result)
    shutil.rmtree(making, ignore_errors=True)
    print(summary(result), file=sys.stderr, flush=True)
    return result


@contextlib.contextmanager
def workplace(fingerprint: str) -> Iterator[Path]:
    """A locked folder of scratch for the shards of a run; what other runs left unfinished goes, but for the newest."""
    place, locks = scratch.folder("shard"), scratch.folder("locks")
    with scratch.locked(locks / f"shard-{fingerprint}", "another run that makes the same shards"):
        newest_first = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        others = (path for path in newest_first if path.name != fingerprint)
        idle = [path for path in others if not scratch.is_locked(locks / f"shard-{path.name}")]
        for old in idle[1:]:
            shutil.rmtree(old, ignore_errors=True)
        yield place / fingerprint


def statistics(histogram: np.ndarray) -> manifest.Statistics:
    """Channel mean and standard deviation in [0, 1] from counts of the levels 0 to 255, int64 [3, 256].

    The sums are whole numbers, so nothing is lost however many pixels there are. A standard deviation under one level
    (images of one colour) counts as one level, since views are divided by it.
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
        text += f"; {result.rejects.count} rejected ({result.rejects}), listed in {manifest.NAME}"
    if result.duplicates is not None and result.duplicates.total:
        text += f"; twice: {result.duplicates}"
    if result.ignored:
        kinds = ", ".join(list(result.ignored)[:5])
        text += f"; passed over {sum(result.ignored.values())} other files ({kinds})"
    return text


def _clear(output_dir: Path) -> None:
    """Remove an earlier run's files; from here to the end the folder is not trusted."""
    with explained(f"clearing {output_dir}"):
        (output_dir / manifest.NAME).unlink(missing_ok=True)
        unfinished = list(output_dir.glob(f".{manifest.NAME}.*"))  # what a kill left under a temporary name
        for split in sources.SPLITS:
            unfinished += (output_dir / split).glob(f"{split}-*")
            unfinished += (output_dir / split).glob(".*")
        for old in unfinished:
            old.unlink()


def _cut(config: Config, source: sources.Source, split: str) -> list[Piece]:
    """A split's images in pieces of one shard each."""
    items, size = source.items(split), config.shard_size
    return [
        Piece(split=split, number=number, first=first, items=items[first : first + size], config=config)
        for number, first in enumerate(range(0, len(items), size))
    ]


def _make(config: Config, source: sources.Source, folder: Path) -> dict[str, list[Report]]:
    """The reports of all pieces, in order; those that an earlier run finished are not made again."""
    cut = {split: _cut(config, source, split) for split in sources.SPLITS}
    every = [piece for some in cut.values() for piece in some]
    loaded = {piece.name: Report.load(pieces.report_path(folder, piece)) for piece in every}
    reports = {name: report for name, report in loaded.items() if report is not None}
    todo = [piece for piece in every if piece.name not in reports]
    total = sum(len(piece.items) for piece in every)
    if reports:
        print(f"shard: going on, {len(reports)} shards are finished", file=sys.stderr, flush=True)
    done = total - sum(len(piece.items) for piece in todo)
    with progress.progress("shard", total, "images", done=done) as bar:
        made = executors.run(todo, folder, executor=config.executor, workers=config.workers, bar=bar)
        for piece, report in made:
            reports[piece.name] = report
            if report.shard is not None:  # while others are made: at the end all would wait for the disk
                with explained(f"writing {folder / report.shard.path}"):
                    scratch.sync(folder / report.shard.path)
    return {split: [reports[piece.name] for piece in cut[split]] for split in sources.SPLITS}


def _join(
    reports: Sequence[Report], split: str, source: sources.Source, folder: Path, output_dir: Path
) -> manifest.Split:
    """Move a split's shards to where they belong and write its index and names."""
    columns = np.concatenate([report.columns for report in reports])
    if not len(columns):
        rejects = _rejects(reports)
        raise UserError(
            f"not one of the {rejects.count} {split} images can be used ({rejects}, {rejects.listed[0].key} to begin "
            "with): check data.root and its files"
        )
    kept = [report.shard for report in reports if report.shard is not None]
    for each in kept:
        target = output_dir / each.path
        with explained(f"writing {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / each.path, target)
            scratch.sync(target)
            scratch.sync(target.parent)
    # Pieces of nothing but rejects have no file: the numbers of the others close up.
    columns["shard"] = np.unique(columns["shard"], return_inverse=True)[1]
    index.write_keys(output_dir, split, (key for report in reports for key in report.keys))
    labels, class_counts = columns["label"], None
    if source.classes is not None and labels.max() >= 0:
        class_counts = tuple(np.bincount(labels[labels >= 0], minlength=len(source.classes)).tolist())
    return manifest.Split(
        count=len(columns),
        labelled=class_counts is not None,
        class_counts=class_counts,
        shards=tuple(kept),
        index=index.write(output_dir, split, columns),
    )


def _rejects(reports: Sequence[Report]) -> manifest.Rejects:
    rejects = [reject for report in reports for reject in report.rejects]
    reasons = dict(sorted(Counter(reject.reason for reject in rejects).items()))
    listed = tuple(rejects[: manifest.LISTED])
    return manifest.Rejects(count=len(rejects), by_reason=reasons, listed=listed)


def _duplicates(
    config: Config, reports: Mapping[str, Sequence[Report]], splits: manifest.Splits, folder: Path
) -> manifest.Duplicates:
    """What comes twice, found by hashes and by looking at the stored pictures."""
    pictures = Pictures(folder, splits, config.resolution)

    def look(split: str, indices: list[int]) -> Iterator[np.ndarray]:
        def small(index: int) -> np.ndarray:
            return duplicates.small(pictures.get(split, index))

        return ordered_map(small, indices, threads=cores(), ahead=64)

    found = duplicates.find(pictures.rows, look)
    keys = {split: [key for report in reports[split] for key in report.keys] for split in sources.SPLITS}
    listed = [
        manifest.Duplicate(
            split=pair.split,
            place=pair.index,
            key=keys[pair.split][pair.index],
            of=pair.of,
            of_key=keys["train"][pair.of],
            difference=round(pair.difference, 5),
            exact=pair.exact,
        )
        for pair in found.pairs[: manifest.LISTED]
    ]
    return manifest.Duplicates(**found.counts, unseen=found.unseen, listed=tuple(listed))
