"""Where a run stands: its steps and curves, and the checkpoints from which it is continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sslpipe.core import distributed
from sslpipe.core.checkpoint import Checkpoints, Saves
from sslpipe.training.core import optim, parallel
from sslpipe.training.core.ledger import Ledger, Row
from sslpipe.training.core.step import TrainingStep

OnLog = Callable[[dict[str, float]], None]
MOST = 0.02  # of the time may go into checkpoints, unless `checkpoint_seconds` is 0


@dataclass
class History:
    """The training curves so far; part of every checkpoint."""

    #: One point each `log_every` steps: step, epoch, rate, and means over those steps.
    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, float]] = field(default_factory=list)  # numbers of the steps since the last point
    looks: list[dict[str, float]] = field(default_factory=list)  # what the monitor saw between epochs
    seconds: float = 0.0  # time spent training, over all processes that worked on this run

    @property
    def caption(self) -> str:
        """The last point of the curves in a few words, for the progress bar; empty before the first one."""
        return f"loss {self.rows[-1]['loss']:.4f}" if self.rows else ""

    def point(self, step: int, epoch: float, lr: float) -> dict[str, float]:
        """Close the interval since the last point into a new one."""
        names = self.pending[-1]
        means = {name: sum(row[name] for row in self.pending) / len(self.pending) for name in names}
        self.rows.append({"step": step, "epoch": epoch, "lr": lr, **means})
        self.pending = []
        return self.rows[-1]


class RunState:
    """Where a run stands: the steps done and its history. `on_log` is called with each new point of the curves."""

    def __init__(
        self, training_step: TrainingStep, ledger: Ledger, checkpoints: Checkpoints, on_log: OnLog
    ) -> None:
        self.training_step, self.ledger = training_step, ledger
        self.checkpoints, self.on_log = checkpoints, on_log
        self.saves, self.step, self.history = Saves(checkpoints), 0, History()
        self._counted = time.monotonic()  # until when the history has counted the time

    def resume(self) -> bool:
        """Go back to the newest checkpoint; whether there is one."""
        found = parallel.newest(self.checkpoints)
        if found is None:
            return False
        self.step, state = found
        parallel.load(self.training_step.method, state["method"])
        optim.restore(self.training_step.optimizer, state["optimizer"])
        self.history = History(**state["history"])
        before, now = state["processes"], distributed.world_size()
        other_order = f" of {before} in {now} processes: sums are rounded in another order"
        changed = other_order if now != before else ""
        self._counted = time.monotonic()
        print(f"pretrain: continuing from the checkpoint at step {self.step}{changed}", flush=True)
        return True

    def log(self, rows: Iterable[Row]) -> Row | None:
        """Add the numbers of steps to the curves; the last step's row, if there is one."""
        row = None
        for row in rows:
            self.history.pending.append(row.numbers)
            if row.step % self.training_step.config.log_every == 0 or row.step == self.training_step.total:
                epoch = row.step / self.training_step.steps_per_epoch
                self.on_log(self.history.point(row.step, epoch, row.lr))
        return row

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is so old that it is time for another; the first process knows."""
        wanted = self.training_step.config.checkpoint_seconds
        least = max(wanted, self.saves.seconds * (1 / MOST - 1)) if wanted else 0.0
        return distributed.rank() == 0 and self.saves.since >= least

    def save(self, wait: bool = False) -> None:
        """Let a checkpoint be written, or with `wait` write it; call it on all ranks.

        Raises:
            NonFiniteError: a step that was not read yet is bad.
            UserError: this checkpoint, or the one before it, could not be written.
        """
        self.log(self.ledger.drain())
        self.count_time()
        state = parallel.whole({
            "method": self.training_step.method.state_dict(),
            "optimizer": self.training_step.optimizer.state_dict(),
            "history": vars(self.history),
            "processes": distributed.world_size(),
        })  # fmt: skip
        if distributed.rank() == 0:
            self.saves.start(self.step, state)
        if wait:
            self.saves.wait()
            parallel.agreed(self.step)

    def count_time(self) -> None:
        """Add the time since this was last called to the run's."""
        now = time.monotonic()
        self.history.seconds += now - self._counted
        self._counted = now
