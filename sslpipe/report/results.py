"""The rows of the result table: each evaluation beside the same protocol on the baselines.

Read by the page and by the table on the terminal, so that both always say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sslpipe import evals
from sslpipe.report.series import PREFIX
from sslpipe.report.words import integer, is_number, mapping


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
    def subject(self) -> str:
        """What was measured, within a sentence."""
        subject = evals.declarations()[self.stage].subject or ""
        return subject if self.labels is None else f"{subject} with {integer(self.labels)} labels"

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
    """All numbers of an evaluation by its record `runs/NAME.json`, with `protocol` and `skipped` where they apply."""
    result = mapping(record.get("result"))
    kept = {key: result[key] for key in ("protocol", "skipped") if result.get(key) is not None}
    return dict(mapping(result.get("metrics"))) | kept


def told_by_accuracy() -> list[str]:
    """The evaluations that have rows in the table of accuracies, in its order."""
    return [name for name, evaluation in evals.declarations().items() if evaluation.subject is not None]


def rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The table's rows, from the evaluations' numbers as `of_record` has them; those without any are left out.

    That one was skipped which is off by default is no news, and left out, too.
    """
    found = []
    for stage in told_by_accuracy():
        entry = metrics.get(stage, {})
        if "skipped" in entry:
            default: Any = evals.config_of(stage)()
            if default.enabled:
                found.append(Row(stage=stage, skipped=str(entry["skipped"])))
            continue
        few = mapping(entry.get("few_labels"))
        found.append(_row(stage, entry, labels=_labels(entry)))
        found += [_row(stage, few[str(n)], labels=n) for n in sorted(map(int, few), reverse=True)]
    return [row for row in found if row.skipped is not None or row.top1]


def most_telling(rows: list[Row]) -> Row | None:
    """The row that the headline tells: by the evaluation's rank, the fewest labels first."""
    ranked = [
        (rank, row.labels or math.inf, place)
        for place, row in enumerate(rows)
        if row.gain is not None and (rank := evals.declarations()[row.stage].rank) is not None
    ]
    return rows[min(ranked)[-1]] if ranked else None


def measurable(row: Row, test_count: int | None) -> bool:
    """Whether the gain is more than twice its standard error.

    The test images are the same for both networks, so taking the errors for independent errs on the safe side.
    """
    if row.gain is None:
        return False
    scores = (row.top1["encoder"], row.top1["random_init"])
    error = math.hypot(*(standard_error(score, test_count) for score in scores)) if test_count else 0.005
    return abs(row.gain) > 2 * error


def standard_error(fraction: float, count: int) -> float:
    """Binomial standard error of an accuracy measured on `count` images."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / count)


def beside_baselines(
    found: Mapping[str, Any], rows: Iterable[tuple[str, str]], columns: Sequence[str]
) -> list[tuple[str, dict[str, float | None], float]]:
    """Scores of other tasks and data sets: names, fractions by series, and the gain over random weights.

    Rows without the encoder's score or that of random weights are left out.

    Args:
        found: fractions by key, with the prefix of a baseline (`series.PREFIX`) where they are one's.
        rows: names and keys.
        columns: of `series.SERIES`, the encoder and random weights among them.
    """
    shown = []
    for name, key in rows:
        scores = {series: found.get(PREFIX[series] + key) for series in columns}
        values = {series: value if is_number(value) else None for series, value in scores.items()}
        own, random = values["encoder"], values["random_init"]
        if own is not None and random is not None:
            shown.append((name, values, own - random))
    return shown


def _row(stage: str, entry: Mapping[str, Any], labels: int | None) -> Row:
    top1 = {series: entry.get(f"{prefix}top1") for series, prefix in PREFIX.items()}
    known = {series: float(value) for series, value in top1.items() if is_number(value)}
    spreads = {series: entry.get(f"{PREFIX[series]}top1_std") for series in known}
    std = {series: float(spread) for series, spread in spreads.items() if is_number(spread)}
    return Row(stage=stage, labels=labels, top1=known, std=std)


def _labels(entry: Mapping[str, Any]) -> int | None:
    """How many labels the protocol used; None for all there are."""
    used, everything = entry.get("labels"), mapping(entry.get("protocol")).get("labels") == "all"
    return int(used) if is_number(used) and not everything else None
