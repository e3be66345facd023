"""Small CSV files that `dvc plots` and the report draw."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from torch import Tensor

from sslpipe.core.config import Config
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome

#: The series of a plot, and the prefix of their numbers.
SERIES = (("encoder", ""), ("random_init", "random_init_"))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def confusion(actual: Tensor, predicted: Tensor, classes: Sequence[str] | None) -> str:
    """One row a test image: its class and the predicted one, by name."""
    names = classes or [str(number) for number in range(int(max(actual.max(), predicted.max())) + 1)]
    rows = [(names[a], names[p]) for a, p in zip(actual.tolist(), predicted.tolist(), strict=True)]
    return table(("actual", "predicted"), rows)


def confusions(inputs: Inputs, config: Config, outcome: Outcome) -> dict[str, str]:
    """The `plots` of an evaluation on images whose details are classes by prefix: confusions of the encoder."""
    _, test = inputs.labelled()
    return {"confusion.csv": confusion(test.labels, outcome.details[""], inputs.manifest.classes)}
