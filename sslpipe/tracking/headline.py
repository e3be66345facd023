"""The numbers that stand for a stage's result: beside its experiment in MLflow, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslpipe.core.config import numbers
from sslpipe.tracking.journal import read_json


def headline(stage: str, result: Mapping[str, Any] | None, metrics_folder: str | Path) -> dict[str, float]:
    """A stage's numbers as `<stage>.<dotted name>`, from the result in its record.

    Where there is none, `<stage>.json` tells, which may hold the numbers under the stage's own name; a file that cannot
    be read has none.
    """
    if result is None:
        content = read_json(Path(metrics_folder) / f"{stage}.json") or {}
        found = content[stage] if content.keys() == {stage} else content
    else:
        found = result["metrics"]
    return {f"{stage}.{name}": value for name, value in flat(found).items()}


def flat(nested: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers in nested mappings, by dotted name.

    Words and truth values are left out, and so is what lies under `protocol`: those are settings, not results.
    """
    return {
        name: float(value) for name, value in numbers(nested).items() if "protocol" not in name.split(".")
    }


def results_table(numbers: Mapping[str, float]) -> str:
    """Headline numbers as a Markdown table: each evaluation beside the same protocol on the baselines."""
    rows = ["| top-1 | encoder | random weights | raw pixels |", "| --- | ---: | ---: | ---: |"]
    for name in numbers:
        evaluation, _, last = name.rpartition(".")
        if last == "top1":
            cells = [numbers.get(f"{evaluation}.{kind}top1") for kind in ("", "random_init_", "raw_pixel_")]
            label = evaluation.replace(".few_labels.", ", labels: ")
            rows.append(
                f"| {label} | " + " | ".join("–" if cell is None else f"{cell:.4f}" for cell in cells) + " |"
            )
    return (
        "\n".join([*rows, "", "The whole report: *Artifacts*, `report/index.html`."]) if len(rows) > 2 else ""
    )
