"""Scores of the masks, by class, and scenes with their masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.report.scores import beside_baselines
from sslpipe.report.words import is_number

ORDER = 90
_COLUMNS = ("encoder", "random_init")
_ROWS = (
    ("Linear layer", "miou"),
    ("k-NN of patches", "knn_miou"),
    ("Encoder and layer fine-tuned", "finetuned_miou"),
)
_LISTED = 40  # classes


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("segment", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("miou")):
        return None
    said = "Scenes, their true masks, and those of the linear layer, row by row"
    return {
        "train": protocol.get("train_scenes", 0),
        "test": protocol.get("test_scenes", 0),
        "columns": _COLUMNS,
        "rows": beside_baselines(found, _ROWS, _COLUMNS),
        "classes": _by_class(run, found.get("iou"), protocol.get("class_names")),
        "scenes": run.picture("plots/segment/scenes.png", said),
    }


def _by_class(run: Run, scores: object, names: object) -> list[tuple[str, float]]:
    """Names and scores of the background and the classes, those without a number left out."""
    if not isinstance(scores, list):
        return []
    known = (
        names if isinstance(names, list) else [run.class_name(number) for number in range(len(scores) - 1)]
    )
    shown = ["background", *map(str, known)][:_LISTED]
    return [(name, score) for name, score in zip(shown, scores, strict=False) if is_number(score)]
