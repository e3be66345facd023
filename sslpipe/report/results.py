"""The rows of the result table: each evaluation beside the same protocol on the baselines.

Read by the page and by the table on the terminal, so that both always say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

NARROW_SPACE = "\u202f"
SERIES = {"encoder": "Pretrained", "random_init": "Random weights", "raw_pixel": "Raw pixels"}
PREFIX = {"encoder": "", "random_init": "random_init_", "raw_pixel": "raw_pixel_"}
TITLES = {
    "knn": "k-NN",
    "linear": "Linear probe",
    "online": "Linear probe, augmented",
    "attentive": "Attentive probe",
    "finetune": "Fine-tuning",
}
_OFF = ("attentive", "online")  # off by default: that it was skipped is no news
_SUBJECTS = {
    "knn": "k-NN",
    "linear": "a linear probe",
    "online": "a linear probe on augmented views",
    "attentive": "an attentive probe",
    "finetune": "fine-tuning",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation protocol. Accuracies and deviations are fractions in [0, 1]."""

    stage: str
    title: str
    labels: int | None = None  # labelled training images used; None: all of them
    top1: Mapping[str, float] = field(default_factory=dict)  # by series, as SERIES
    std: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None

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


def rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The table's rows from `metrics/{knn,linear,finetune}.json`, those not there left out.

    Args:
        metrics: parsed metrics by stage.
    """
    found = []
    for stage, title in TITLES.items():
        entry = metrics.get(stage)
        if not entry:
            continue
        if "skipped" in entry and stage in _OFF:
            continue
        if "skipped" in entry:
            found.append(Row(stage=stage, title=title, skipped=str(entry["skipped"])))
            continue
        found.append(_row(stage, title, entry, labels=_labels(entry)))
        few = entry.get("few_labels")
        if isinstance(few, Mapping):
            counts = sorted(map(int, few), reverse=True)
            found += [_row(stage, title, few[str(count)], labels=count) for count in counts]
    return [row for row in found if row.skipped is not None or row.top1]


def headline(rows: list[Row], method: str, test_count: int | None) -> str | None:
    """What pretraining bought, in one sentence; None when no evaluation has a random-weights baseline.

    The row told is the one that asks most of the encoder: a frozen probe with the fewest labels.
    """
    row = most_telling(rows)
    if row is None or row.gain is None:
        return None
    subject = _SUBJECTS[row.stage]
    subject = subject if row.labels is None else f"{subject} with {integer(row.labels)} labels"
    before, after = percent(row.top1["random_init"]), percent(row.top1["encoder"])
    if abs(row.gain) <= 2 * _error_of_difference(row, test_count):
        change = f"{before} before, {after} after"
        return f"{method} pretraining makes no measurable difference to {subject}: {change}."
    verb = "lifts" if row.gain > 0 else "lowers"
    return f"{method} pretraining {verb} {subject} from {before} to {after}."


def most_telling(rows: list[Row]) -> Row | None:
    """The row of the headline: linear before k-NN before fine-tuning, fewest labels first."""
    rank = {"linear": 0, "knn": 1, "online": 2, "attentive": 3, "finetune": 4}
    usable = [row for row in rows if row.gain is not None]
    return min(usable, key=lambda row: (rank[row.stage], row.labels or math.inf), default=None)


def standard_error(fraction: float, count: int) -> float:
    """Binomial standard error of an accuracy measured on `count` images."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / count)


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage, 0.874 → "87.4 %" with a narrow no-break space."""
    return f"{100 * fraction:.{digits}f}{NARROW_SPACE}%"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, signed, with a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")


def integer(value: float) -> str:
    """An integer with its thousands apart."""
    return f"{round(value):,}".replace(",", NARROW_SPACE)


def _row(stage: str, title: str, entry: Mapping[str, Any], labels: int | None) -> Row:
    top1, std = {}, {}
    for series, prefix in PREFIX.items():
        value, spread = entry.get(f"{prefix}top1"), entry.get(f"{prefix}top1_std")
        if is_number(value):
            top1[series] = float(value)
            if is_number(spread):
                std[series] = float(spread)
    return Row(stage=stage, title=title, labels=labels, top1=top1, std=std)


def _error_of_difference(row: Row, test_count: int | None) -> float:
    """Standard error of the gain; the test images are the same for both, so this errs on the safe side."""
    if not test_count:
        return 0.005
    return math.hypot(*(standard_error(row.top1[name], test_count) for name in ("encoder", "random_init")))


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _labels(entry: Mapping[str, Any]) -> int | None:
    """How many labels the protocol used; None for all there are."""
    protocol, used = entry.get("protocol"), entry.get("labels")
    everything = isinstance(protocol, Mapping) and protocol.get("labels") == "all"
    return int(used) if is_number(used) and not everything else None
