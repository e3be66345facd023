"""The images: counts by class, the files left out, images that come twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run

ORDER = 150
_CLASSES = 60  # that are listed
_FILES = 200


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there is no manifest."""
    if not run.manifest:
        return None
    splits = {
        name: split
        for name, split in (run.manifest.get("splits") or {}).items()
        if isinstance(split, Mapping)
    }
    rejects = run.manifest.get("rejects") or {}
    listed = (rejects.get("listed") or [])[:_FILES]
    return {
        "sizes": {name: split.get("count", 0) for name, split in splits.items()},
        "classes": len(run.classes),
        **_class_counts(run, splits),
        "rejected": rejects.get("count") or 0,
        "reasons": sorted((rejects.get("by_reason") or {}).items(), key=lambda item: -item[1]),
        "files": [(entry.get("key"), entry.get("reason")) for entry in listed],
        **_duplicates(run),
        "notes": run.manifest.get("notes") or [],
        "ignored": sum((run.manifest.get("ignored") or {}).values()),
    }


def _duplicates(run: Run) -> dict[str, Any]:
    """How many images come twice, None where that was not looked for, and a sheet of them."""
    found = run.manifest.get("duplicates")
    if not isinstance(found, Mapping):
        return {"duplicates": None}
    test, near, train, train_near = (
        int(found.get(name) or 0) for name in ("test_exact", "test_near", "train_exact", "train_near")
    )
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
