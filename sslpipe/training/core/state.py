"""Where a run stands: its steps and curves, and the checkpoints from which it is continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sslpipe.core import distributed
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.training.core import optim, parallel
from sslpipe.training.core.history import History
from sslpipe.training.core.ledger import Ledger, Row
from sslpipe.training.core.step import TrainingStep

OnLog = Callable[[dict[str, float]], None]


class RunState:
    """Where a run stands.

    Args:
        training_step: of the method that is trained.
        ledger: where the loop notes each step.
        checkpoints: where to save and resume.
        on_log: called with each new point of the curves.

    Attributes:
        step: steps done.
        history: the curves, and looks at the features.
    """

    def __init__(
        self, training_step: TrainingStep, ledger: Ledger, checkpoints: Checkpoints, on_log: OnLog
    ) -> None:
        self.training_step, self.ledger = training_step, ledger
        self.checkpoints, self.on_log = checkpoints, on_log
        self.step, self.history = 0, History()
        self._since = time.monotonic()  # the start or the last checkpoint

    def resume(self) -> bool:
        """Go back to the newest checkpoint; whether there is one."""
        found = parallel.newest(self.checkpoints)
        if found is None:
            return False
        self.step, state = found
        parallel.load(self.training_step.method, state["method"])
        optim.restore(self.training_step.optimizer, state["optimizer"])
        self.history.restore(state["history"])
        before, now = state["processes"], distributed.world_size()
        changed = (
            "" if now == before else f" of {before} in {now} processes: sums are rounded in another order"
        )
        self._since = time.monotonic()
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
        """Whether the last checkpoint is so old that it is time for another."""
        return time.monotonic() - self._since >= self.training_step.config.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint. All ranks call this, and none goes on before it is written.

        Raises:
            NonFiniteError: a step that the host had not read yet is not finite.
        """
        self.log(self.ledger.drain())
        self.count_time()
        state = {
            "method": self.training_step.method.state_dict(),
            "optimizer": self.training_step.optimizer.state_dict(),
            "history": self.history.state(),
            "processes": distributed.world_size(),
        }
        state = parallel.whole(state)
        if distributed.rank() == 0:
            self.checkpoints.save(self.step, state)
        parallel.agreed(self.step)

    def count_time(self) -> None:
        """Add the time since this was last called to the run's."""
        now = time.monotonic()
        self.history.seconds += now - self._since
        self._since = now
