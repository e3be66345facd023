"""What k-NN takes for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from sslpipe.report import plots
from sslpipe.report.run import Context, Run, table
from sslpipe.report.words import natural

ORDER = 50
_DRAWN = 24  # classes up to which a matrix can be read


def context(run: Run) -> Context:
    """What the template shows; None where no predictions are kept."""
    confusion: Counter[tuple[str, str]] = run.load("plots/knn/confusion.csv", _pairs, Counter())
    if not confusion:
        return None
    seen = {name for pair in confusion for name in pair}
    names = [name for name in run.classes if name in seen] + sorted(seen - set(run.classes), key=natural)
    index = {name: n for n, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    for (actual, predicted), number in confusion.items():
        matrix[index[actual], index[predicted]] += number

    def draw(width: int) -> Markup:
        title = "Confusion matrix of k-NN on the test images"
        return plots.confusion(matrix, names, width=min(width, 560), title=title)

    return {
        "errors": int(matrix.sum() - np.trace(matrix)),
        "total": int(matrix.sum()),
        "worst": _worst_pairs(matrix, names),
        "matrix": plots.figure(draw) if len(names) <= _DRAWN else None,
    }


def _pairs(path: Path) -> Counter[tuple[str, str]]:
    """How many images there are of each true class and the class it was taken for."""
    return Counter((row["actual"], row["predicted"]) for row in table(path))


def _worst_pairs(matrix: np.ndarray, names: Sequence[str], limit: int = 6) -> list[tuple[str, str, int]]:
    """The commonest errors: the true class, the one it was taken for, and how often."""
    errors = matrix * (1 - np.eye(len(names), dtype=np.int64))
    order = [divmod(int(n), len(names)) for n in np.argsort(-errors, axis=None, kind="stable")[:limit]]
    return [(names[r], names[c], int(errors[r, c])) for r, c in order if errors[r, c]]
