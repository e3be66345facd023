"""Scores of the masks, by class, and scenes with their masks."""

from __future__ import annotations

from sslpipe.report.results import beside_baselines
from sslpipe.report.run import Context, Run
from sslpipe.report.words import is_number

ORDER = 90
_COLUMNS = ("encoder", "random_init")
_ROWS = (
    ("Linear layer", "miou"),
    ("k-NN of patches", "knn_miou"),
    ("Encoder and layer fine-tuned", "finetuned_miou"),
)
_LISTED = 40  # classes


def context(run: Run) -> Context:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("segment", {})
    if "protocol" not in found or not is_number(found.get("miou")):
        return None
    said = "Scenes, their true masks, and those of the linear layer, row by row"
    return {
        "protocol": run.protocol("segment"),
        "columns": _COLUMNS,
        "rows": beside_baselines(found, _ROWS, _COLUMNS),
        "classes": _by_class(run, found.get("iou"), run.protocol("segment").get("class_names")),
        "scenes": run.picture("plots/segment/scenes.png", said),
    }


def _by_class(run: Run, scores: object, names: object) -> list[tuple[str, float]]:
    """Names and scores of the background and the classes, those without a number left out."""
    if not isinstance(scores, list):
        return []
    known = names if isinstance(names, list) else map(run.class_name, range(len(scores) - 1))
    shown = ["background", *map(str, known)][:_LISTED]
    return [(name, score) for name, score in zip(shown, scores, strict=False) if is_number(score)]
