"""The images: counts by class, the files left out, images that come twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.run import Context, Run
from sslpipe.report.words import mapping

ORDER = 150
_CLASSES = 60  # that are listed
_FILES = 200


def context(run: Run) -> Context:
    """What the template shows; None where there is no manifest."""
    manifest = run.manifest
    if not manifest:
        return None
    named = mapping(manifest.get("splits")).items()
    splits = {name: split for name, split in named if isinstance(split, Mapping)}
    rejects = manifest.get("rejects") or {}
    return {
        "sizes": {name: split.get("count", 0) for name, split in splits.items()},
        "classes": len(run.classes),
        **_class_counts(run, splits),
        "rejected": rejects.get("count") or 0,
        "reasons": sorted((rejects.get("by_reason") or {}).items(), key=lambda item: -item[1]),
        "files": (rejects.get("listed") or [])[:_FILES],
        **_duplicates(run),
        "notes": manifest.get("notes") or [],
        "ignored": sum((manifest.get("ignored") or {}).values()),
    }


def _duplicates(run: Run) -> dict[str, Any]:
    """How many images come twice, None where that was not looked for, and a sheet of them."""
    found = run.manifest.get("duplicates")
    if not isinstance(found, Mapping):
        return {"duplicates": None}
    kinds = ("test_exact", "test_near", "train_exact", "train_near")
    test, near, train, train_near = (int(found.get(kind) or 0) for kind in kinds)
    counts = {"test": test + near, "near": near, "train": train + train_near}
    if not any(counts.values()):
        return {"duplicates": counts, "sheet": None}
    said = "pairs of images that are the same or nearly"
    return {"duplicates": counts, "sheet": run.picture("plots/shard/duplicates.png", said)}


def _class_counts(run: Run, splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of each class the number of images by split, and the largest class, by which bars are as long as they are."""
    counts = {name: split["class_counts"] for name, split in splits.items() if split.get("class_counts")}
    rows = [
        (name, {split: values[n] for split, values in counts.items() if n < len(values)})
        for n, name in enumerate(run.classes[:_CLASSES])
    ]
    return {
        "split_names": list(counts),
        "counts": rows if counts else [],
        "most": max(map(sum, zip(*counts.values(), strict=False)), default=0) or 1,
    }
