"""Small CSV files that `dvc plots` and the report draw."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

_SERIES = (("encoder", ""), ("random_init", "random_init_"))


def confusion(actual: Tensor, predicted: Tensor, classes: Sequence[str] | None) -> str:
    """One row a test image: its class and the predicted one, by name."""
    names = classes or [str(number) for number in range(int(max(actual.max(), predicted.max())) + 1)]
    rows = [(names[a], names[p]) for a, p in zip(actual.tolist(), predicted.tolist(), strict=True)]
    return _csv(("actual", "predicted"), rows)


def label_efficiency(metrics: Mapping[str, Any], train_images: int) -> str:
    """Linear-probe accuracy over the number of labels, for the encoder, random weights and raw pixels."""
    few = {int(count): scores for count, scores in metrics["few_labels"].items()}
    counts = {**few, train_images: metrics}
    rows = [
        (count, series, f"{scores[f'{prefix}top1']:.4f}", f"{scores.get(f'{prefix}top1_std', 0.0):.4f}")
        for series, prefix in (("encoder", ""), ("random_init", "random_init_"), ("raw_pixel", "raw_pixel_"))
        for count, scores in sorted(counts.items())
    ]
    return _csv(("labels", "series", "top1", "std"), rows)


def draws_of(draws: Sequence[Mapping[str, Any]]) -> str:
    """Fine-tuned accuracy of each draw of labels, from the encoder's weights and from random ones."""
    rows = [
        (each["draw"], series, f"{each[series]:.4f}")
        for series in ("encoder", "random_init")
        for each in draws
    ]
    return _csv(("draw", "series", "top1"), rows)


def spectrum(spectra: Mapping[str, Tensor]) -> str:
    """Eigenvalues of the features' covariance by rank, as shares of the variance; the first thousand of each series."""
    rows = [
        (rank, series, f"{value:.4e}")
        for series, values in spectra.items()
        for rank, value in enumerate(values[:1000].tolist(), start=1)
    ]
    return _csv(("rank", "series", "share"), rows)


def invariance(metrics: Mapping[str, Any]) -> str:
    """How alike features are under each operation, of the encoder and of random weights."""
    rows = [
        (operation, series, f"{similarity:.4f}", _number(metrics[f"{prefix}invariance"][operation]))
        for series, prefix in _SERIES
        for operation, similarity in metrics[f"{prefix}similarity"].items()
    ]
    return _csv(("operation", "series", "similarity", "invariance"), rows)


def corruptions(metrics: Mapping[str, Any]) -> str:
    """Accuracy by corruption and severity; severity 0 is the clean image."""
    rows = [
        (corruption, severity, series, f"{top1:.4f}")
        for series, prefix in _SERIES
        for corruption, by_severity in metrics[f"{prefix}corruptions"].items()
        for severity, top1 in {"0": metrics[f"{prefix}top1"], **by_severity}.items()
    ]
    return _csv(("corruption", "severity", "series", "top1"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue()
