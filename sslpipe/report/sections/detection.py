"""Scores of the boxes, and scenes with theirs."""

from __future__ import annotations

from sslpipe.report.results import beside_baselines
from sslpipe.report.run import Context, Run
from sslpipe.report.words import is_number

ORDER = 100
_COLUMNS = ("encoder", "random_init")
_ROWS = (("AP at an overlap of .5", "ap50"), ("AP over .5 to .95", "map"))


def context(run: Run) -> Context:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("detect", {})
    if "protocol" not in found or not is_number(found.get("ap50")):
        return None
    said = "Scenes with their true boxes, and below with those found"
    return {
        "protocol": run.protocol("detect"),
        "columns": _COLUMNS,
        "rows": beside_baselines(found, _ROWS, _COLUMNS),
        "scenes": run.picture("plots/detect/scenes.png", said),
    }
