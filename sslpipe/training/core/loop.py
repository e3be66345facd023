"""The training loop."""

from __future__ import annotations

import signal
from collections.abc import Callable

from sslpipe.console.progress import progress
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.device import keep_freed_memory
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Method
from sslpipe.training.core import guards
from sslpipe.training.core.config import Config
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.state import History, OnLog, RunState
from sslpipe.training.core.step import TrainingStep
from sslpipe.views.engine import ViewEngine

OnResume = Callable[[int], None]
OnEpoch = Callable[[RunState, int], None]


def train(
    method: Method,
    loader: Loader,
    engine: ViewEngine,
    config: Config,
    optimizer_config: OptimizerConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    on_log: OnLog = lambda row: None,
    on_resume: OnResume = lambda step: None,
    on_epoch: OnEpoch = lambda state, epoch: None,
) -> History:
    """Train a method in place and on its device, from the newest checkpoint, or from the start, to the end.

    Several processes train it together, each with its part of the loader's batches; the first one saves.

    Args:
        seed: seeds dropout and the clock's generator, by step.
        on_log: called with each new point of the curves.
        on_resume: called with the step when an earlier run is continued.
        on_epoch: called with the run's state and the number of epochs done: before the first one, after each one, and
            once more where a run is continued between two.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; the weights are as before that step.
        Interrupted: a signal came; everything is saved.
    """
    method.train()
    device = next(method.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    training_step = TrainingStep(method, config, optimizer_config, steps_per_epoch=loader.steps, seed=seed)
    total, ledger = training_step.total, Ledger(device, checkpoints.folder)
    state = RunState(training_step, ledger, checkpoints, on_log)
    if state.resume():
        on_resume(state.step)

    signals = guards.Signals()
    bars = progress("pretrain", total, "steps", done=state.step)
    with guards.handled(signals.note), state.saves, bars as bar:
        while state.step < total:
            epoch, first = divmod(state.step, loader.steps)
            if first == 0:
                on_epoch(state, epoch)
            for batch, views in engine.ahead(loader.epoch(epoch, start=first), epoch):
                gradient = training_step.gradient(state.step, views)
                stop, save = signals.received is not None, state.is_due
                ledger.note(state.step + 1, gradient.lr, gradient.numbers, batch.index, stop=stop, save=save)
                training_step.update(gradient, ledger.mask)
                state.step += 1

                row = state.log(ledger.settled())
                bar.update(1, state.history.caption)
                if row is not None and (row.stop or row.save):
                    state.save(wait=row.stop)
                if row is not None and row.stop:
                    where = f"at step {state.step} of {total}"
                    print(f"pretrain: stopped {where}, saved; `dvc repro` goes on from there", flush=True)
                    raise guards.Interrupted(signals.received or signal.SIGTERM)
        state.log(ledger.drain())
        bar.update(0, state.history.caption)
        on_epoch(state, config.epochs)
    state.count_time()
    return state.history
