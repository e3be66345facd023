"""The training curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The training curves so far; part of every checkpoint.

    Attributes:
        rows: one point each `log_every` steps: step, epoch, rate, and means over those steps.
        pending: the numbers of the steps since the last point.
        looks: what was seen of the features between epochs (sslpipe/training/core/monitor.py).
        seconds: time spent training, over all processes that worked on this run.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, float]] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def caption(self) -> str:
        """The last point of the curves in a few words, for the progress bar; empty before the first one."""
        return f"loss {self.rows[-1]['loss']:.4f}" if self.rows else ""

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"rows": self.rows, "pending": self.pending, "looks": self.looks, "seconds": self.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.rows, self.pending = state["rows"], state["pending"]
        self.looks, self.seconds = state["looks"], state["seconds"]

    def point(self, step: int, epoch: float, lr: float) -> dict[str, float]:
        """Close the interval since the last point into a new one."""
        names = self.pending[-1]
        means = {name: sum(row[name] for row in self.pending) / len(self.pending) for name in names}
        row = {"step": step, "epoch": epoch, "lr": lr, **means}
        self.rows.append(row)
        self.pending = []
        return row
