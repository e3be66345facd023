"""Small CSV files that `dvc plots` and the report draw."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sslpipe.core.scratch import atomic_write


def write_confusion(
    path: str | Path, actual: Tensor, predicted: Tensor, classes: Sequence[str] | None
) -> None:
    """One row a test image: its class and the predicted one, by name."""
    names = classes or [str(number) for number in range(int(max(actual.max(), predicted.max())) + 1)]
    rows = [(names[a], names[p]) for a, p in zip(actual.tolist(), predicted.tolist(), strict=True)]
    _write(path, ("actual", "predicted"), rows)


def write_label_efficiency(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Linear-probe accuracy over the number of labels, for the encoder, random weights and raw pixels."""
    few = {int(count): scores for count, scores in metrics["few_labels"].items()}
    counts = {**few, metrics["protocol"]["train_images"]: metrics}
    rows = [
        (count, series, f"{scores[f'{prefix}top1']:.4f}", f"{scores.get(f'{prefix}top1_std', 0.0):.4f}")
        for series, prefix in (("encoder", ""), ("random_init", "random_init_"), ("raw_pixel", "raw_pixel_"))
        for count, scores in sorted(counts.items())
    ]
    _write(path, ("labels", "series", "top1", "std"), rows)


def write_draws(path: str | Path, draws: Sequence[Mapping[str, Any]]) -> None:
    """Fine-tuned accuracy of each draw of labels, from the encoder's weights and from random ones."""
    rows = [
        (each["draw"], series, f"{each[series]:.4f}")
        for series in ("encoder", "random_init")
        for each in draws
    ]
    _write(path, ("draw", "series", "top1"), rows)


def write_spectrum(path: str | Path, spectra: Mapping[str, Tensor]) -> None:
    """Eigenvalues of the features' covariance by rank, as shares of the variance; the first thousand of each series."""
    rows = [
        (rank, series, f"{value:.4e}")
        for series, spectrum in spectra.items()
        for rank, value in enumerate(spectrum[:1000].tolist(), start=1)
    ]
    _write(path, ("rank", "series", "share"), rows)


def write_robustness(folder: str | Path, metrics: Mapping[str, Any]) -> None:
    """invariance.csv, and where there are labels corruptions.csv, in which severity 0 is the clean image."""
    kinds = (("encoder", ""), ("random_init", "random_init_"))
    rows = [
        (operation, series, f"{similarity:.4f}", _number(metrics[f"{prefix}invariance"][operation]))
        for series, prefix in kinds
        for operation, similarity in metrics[f"{prefix}similarity"].items()
    ]
    _write(Path(folder, "invariance.csv"), ("operation", "series", "similarity", "invariance"), rows)
    if "corruptions" not in metrics:
        return
    scores = [
        (corruption, severity, series, f"{top1:.4f}")
        for series, prefix in kinds
        for corruption, by_severity in metrics[f"{prefix}corruptions"].items()
        for severity, top1 in {"0": metrics[f"{prefix}top1"], **by_severity}.items()
    ]
    _write(Path(folder, "corruptions.csv"), ("corruption", "severity", "series", "top1"), scores)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _write(path: str | Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, table.getvalue())
