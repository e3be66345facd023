"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslpipe.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.device import mixed
from sslpipe.methods.base import Clock, Method, OptimizerConfig, Step
from sslpipe.progress import progress
from sslpipe.training import accumulation, guards, optim
from sslpipe.training.config import Config
from sslpipe.views.engine import ViewEngine

OnLog = Callable[[dict[str, float]], None]
OnResume = Callable[[int], None]
AfterEpoch = Callable[[int, int, list[dict[str, float]], Callable[[], None]], None]


@dataclass
class History:
    """The training curves so far; part of every checkpoint.

    Attributes:
        rows: one point each `log_every` steps: step, epoch, rate, and means over those steps.
        pending: the numbers of the steps since the last point.
        looks: what was seen of the features between epochs (sslpipe/training/watch.py).
        seconds: time spent training, over all processes that worked on this run.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, float | Tensor]] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        self.pending = [{name: float(value) for name, value in numbers.items()} for numbers in self.pending]
        return {"rows": self.rows, "pending": self.pending, "looks": self.looks, "seconds": self.seconds}

    def point(self, step: int, epoch: float, rate: float) -> dict[str, float]:
        """Close the interval since the last point into a new one."""
        names = self.pending[-1]
        means = {n: sum(float(numbers[n]) for numbers in self.pending) / len(self.pending) for n in names}
        row = {"step": step, "epoch": epoch, "rate": rate, **means}
        self.rows.append(row)
        self.pending = []
        return row


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
    after_epoch: AfterEpoch = lambda epoch, step, looks, save: None,
) -> History:
    """Train a method from the newest checkpoint, or from the start, to the end.

    Args:
        method: on `device`; trained in place.
        loader: batches of the training split.
        engine: batches to views.
        config: epochs, precision, how often to save.
        optimizer_config: the method's.
        seed: seeds dropout and the clock's generator, by step.
        checkpoints: where to save and resume.
        on_log: called with each new point of the curves.
        on_resume: called with the step when an earlier run is continued.
        after_epoch: called between epochs, before the first one and after the last one too, and again when a run is
            continued there: with epochs and steps done, `history.looks`, and what makes a checkpoint.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; the weights are as before that step.
        Interrupted: a signal came; everything is saved.
    """
    method.train()
    optimizer = optim.build(method.parameter_groups(), optimizer_config, config.batch_size)
    history = History()
    step = _resume(checkpoints, method, optimizer, history)
    if step:
        on_resume(step)
    total, saved, started = config.epochs * loader.steps, time.monotonic(), time.monotonic()

    def save() -> None:
        nonlocal saved, started
        history.seconds += time.monotonic() - started
        started = saved = time.monotonic()
        state = {
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history.state(),
        }
        checkpoints.save(step, state)

    with guards.Signals() as signals, progress("pretrain", total, "steps", done=step) as bar:
        while step < total:
            epoch, first = divmod(step, loader.steps)
            if first == 0:
                after_epoch(epoch, step, history.looks, save)
            for batch, views in engine.ahead(loader.epoch(epoch, start=first), epoch):
                clock = _clock(step, epoch, total, seed)
                optim.set_rates(optimizer, optimizer_config, clock, (step + 1) / loader.steps, config.epochs)
                optimizer.zero_grad(set_to_none=True)
                outcome = accumulation.backward(method, views, clock, config)
                numbers = _update(
                    method, optimizer, optimizer_config, outcome, clock, batch.index, checkpoints.folder
                )
                step += 1

                history.pending.append(numbers)
                if step % config.log_every == 0 or step == total:
                    rate = optimizer.param_groups[0]["lr"]
                    row = history.point(step, step / loader.steps, rate)
                    on_log(row)
                    bar.update(0, f"loss {row['loss']:.4f}")
                bar.update()
                if signals.received is not None:
                    save()
                    print(
                        f"pretrain: stopped at step {step} of {total}, saved; `dvc repro` goes on from there",
                        flush=True,
                    )
                    raise guards.Interrupted(signals.received)
                if time.monotonic() - saved >= config.checkpoint_seconds:
                    save()
        after_epoch(config.epochs, step, history.looks, save)
    history.seconds += time.monotonic() - started
    return history


def _clock(step: int, epoch: int, total: int, seed: int) -> Clock:
    """The clock of a step. Dropout and the generator are seeded by it, so a resume needs no random state."""
    step_seed = mixed(seed, step)
    torch.manual_seed(step_seed)
    return Clock(step, epoch, step / total, torch.Generator().manual_seed(step_seed))


def _update(
    method: Method,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    outcome: Step,
    clock: Clock,
    index: Tensor,
    folder: Path,
) -> dict[str, float | Tensor]:
    """Checks, clipping, one optimiser step; what is worth plotting of it."""
    method.before_update(clock)
    norm = guards.gradient_norm(method)
    guards.check_finite({"loss": outcome.loss, "gradient": norm}, step=clock.step, index=index, folder=folder)
    if config.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(_parameters(optimizer), config.clip, norm)
    optimizer.step()
    method.after_update(clock)
    numbers = {name: torch.as_tensor(value).detach() for name, value in outcome.numbers.items()}
    return {"loss": outcome.loss, "gradient_norm": norm, **numbers}


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _resume(
    checkpoints: Checkpoints, method: Method, optimizer: torch.optim.Optimizer, history: History
) -> int:
    found = checkpoints.load()
    if found is None:
        return 0
    step, state = found
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    history.rows, history.pending = state["history"]["rows"], state["history"]["pending"]
    history.looks, history.seconds = state["history"]["looks"], state["history"]["seconds"]
    print(f"pretrain: continuing from the checkpoint at step {step}", flush=True)
    return step
