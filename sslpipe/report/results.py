"""The rows of the result table: each evaluation beside the same protocol on the baselines.

Read by the page and by the table on the terminal, so that both always say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslpipe import evals
from sslpipe.report.series import PREFIX
from sslpipe.report.words import integer, is_number, percent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation protocol. Accuracies and deviations are fractions in [0, 1]."""

    stage: str
    labels: int | None = None  # labelled training images used; None: all of them
    top1: Mapping[str, float] = field(default_factory=dict)  # by series, as SERIES
    std: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None

    @property
    def title(self) -> str:
        """The evaluation's name in tables."""
        return evals.declarations()[self.stage].title

    @property
    def gain(self) -> float | None:
        """What pretraining bought: the same network and protocol, minus random weights."""
        if "encoder" in self.top1 and "random_init" in self.top1:
            return self.top1["encoder"] - self.top1["random_init"]
        return None

    @property
    def condition(self) -> str:
        """With how many labels."""
        return "all labels" if self.labels is None else f"{integer(self.labels)} labels"


def of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of an evaluation, with `protocol` and `skipped` where they apply.

    Args:
        record: `runs/NAME.json` of the evaluation, parsed.
    """
    result = record.get("result")
    if not isinstance(result, Mapping):
        return {}
    metrics = result.get("metrics")
    found = dict(metrics) if isinstance(metrics, Mapping) else {}
    return found | {key: result[key] for key in ("protocol", "skipped") if result.get(key) is not None}


def told_by_accuracy() -> list[str]:
    """The evaluations that have rows in the table of accuracies, in its order."""
    return [name for name, evaluation in evals.declarations().items() if evaluation.subject is not None]


def rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The table's rows; evaluations without numbers are left out.

    That one was skipped which is off by default is no news, and left out, too.

    Args:
        metrics: by evaluation, as `of_record` has them.
    """
    found = []
    for stage in told_by_accuracy():
        entry = metrics.get(stage, {})
        if "skipped" in entry:
            default: Any = evals.config_of(stage)()
            if default.enabled:
                found.append(Row(stage=stage, skipped=str(entry["skipped"])))
            continue
        found.append(_row(stage, entry, labels=_labels(entry)))
        few = entry.get("few_labels")
        if isinstance(few, Mapping):
            counts = sorted(map(int, few), reverse=True)
            found += [_row(stage, few[str(count)], labels=count) for count in counts]
    return [row for row in found if row.skipped is not None or row.top1]


def headline(rows: list[Row], method: str, test_count: int | None) -> str | None:
    """What pretraining bought, in one sentence; None when no evaluation has a random-weights baseline.

    The row told is the one that asks most of the encoder: a frozen probe with the fewest labels.
    """
    row = most_telling(rows)
    if row is None or row.gain is None:
        return None
    subject = evals.declarations()[row.stage].subject
    subject = subject if row.labels is None else f"{subject} with {integer(row.labels)} labels"
    before, after = percent(row.top1["random_init"]), percent(row.top1["encoder"])
    if abs(row.gain) <= 2 * _error_of_difference(row, test_count):
        change = f"{before} before, {after} after"
        return f"{method} pretraining makes no measurable difference to {subject}: {change}."
    verb = "lifts" if row.gain > 0 else "lowers"
    return f"{method} pretraining {verb} {subject} from {before} to {after}."


def most_telling(rows: list[Row]) -> Row | None:
    """The row of the headline: by the evaluation's rank, the fewest labels first."""
    ranked = [
        (rank, row.labels or math.inf, place)
        for place, row in enumerate(rows)
        if row.gain is not None and (rank := evals.declarations()[row.stage].rank) is not None
    ]
    return rows[min(ranked)[-1]] if ranked else None


def standard_error(fraction: float, count: int) -> float:
    """Binomial standard error of an accuracy measured on `count` images."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / count)


def _row(stage: str, entry: Mapping[str, Any], labels: int | None) -> Row:
    top1, std = {}, {}
    for series, prefix in PREFIX.items():
        value, spread = entry.get(f"{prefix}top1"), entry.get(f"{prefix}top1_std")
        if is_number(value):
            top1[series] = float(value)
            if is_number(spread):
                std[series] = float(spread)
    return Row(stage=stage, labels=labels, top1=top1, std=std)


def _error_of_difference(row: Row, test_count: int | None) -> float:
    """Standard error of the gain; the test images are the same for both, so this errs on the safe side."""
    if not test_count:
        return 0.005
    return math.hypot(*(standard_error(row.top1[name], test_count) for name in ("encoder", "random_init")))


def _labels(entry: Mapping[str, Any]) -> int | None:
    """How many labels the protocol used; None for all there are."""
    protocol, used = entry.get("protocol"), entry.get("labels")
    everything = isinstance(protocol, Mapping) and protocol.get("labels") == "all"
    return int(used) if is_number(used) and not everything else None
