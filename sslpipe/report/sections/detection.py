"""Scores of the boxes, and scenes with theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.report.scores import beside_baselines
from sslpipe.report.words import is_number

ORDER = 100
_COLUMNS = ("encoder", "random_init")
_ROWS = (("AP at an overlap of .5", "ap50"), ("AP over .5 to .95", "map"))


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where there are no scores."""
    found = run.metrics.get("detect", {})
    protocol = found.get("protocol")
    if not isinstance(protocol, Mapping) or not is_number(found.get("ap50")):
        return None
    said = "Scenes with their true boxes, and below with those found"
    return {
        "frozen": bool(protocol.get("freeze")),
        "train": protocol.get("train_scenes", 0),
        "test": protocol.get("test_scenes", 0),
        "columns": _COLUMNS,
        "rows": beside_baselines(found, _ROWS, _COLUMNS),
        "scenes": run.picture("plots/detect/scenes.png", said),
    }
