"""The training loop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable

import torch

from sslpipe.console.progress import progress
from sslpipe.core import distributed
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.core.device import keep_freed_memory, mixed
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.training.core import accumulation, guards, optim, parallel
from sslpipe.training.core.config import Config
from sslpipe.training.core.history import History
from sslpipe.training.core.ledger import Ledger, Row
from sslpipe.views.engine import ViewEngine

OnLog = Callable[[dict[str, float]], None]
OnResume = Callable[[int], None]
AfterEpoch = Callable[[parallel.Trained, int, int, list[dict[str, float]], Callable[[], None]], None]


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
    after_epoch: AfterEpoch = lambda trained, epoch, step, looks, save: None,
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
            continued there: with the method as it is trained, epochs and steps done, `history.looks`, and what makes
            a checkpoint.

    Several processes train it together, each with its part of the loader's batches; the first one saves.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; the weights are as before that step.
        Interrupted: a signal came; everything is saved.
    """
    method.train()
    device = next(method.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    trained = parallel.wrap(method, config)
    optimizer = optim.build(method.parameter_groups(), optimizer_config, config.batch_size)
    history = History()
    step = _resume(checkpoints, method, optimizer, history)
    if step:
        on_resume(step)
    total, saved, started = config.epochs * loader.steps, time.monotonic(), time.monotonic()
    ledger = Ledger(device, checkpoints.folder)
    parameters = list(method.parameters())  # once: to walk through all modules takes as long as their norm

    def log(rows: Iterable[Row]) -> Row | None:
        """Draw the curves on; the last row, if there is one."""
        row = None
        for row in rows:
            history.pending.append(row.numbers)
            if row.step % config.log_every == 0 or row.step == total:
                point = history.point(row.step, row.step / loader.steps, row.rate)
                on_log(point)
                bar.update(0, f"loss {point['loss']:.4f}")
        return row

    def save() -> None:
        nonlocal saved, started
        log(ledger.drain())
        history.seconds += time.monotonic() - started
        started = saved = time.monotonic()
        state = {
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history.state(),
            "processes": distributed.world_size(),
        }
        state = parallel.whole(state)
        if distributed.rank() == 0:
            checkpoints.save(step, state)
        parallel.agreed(step)  # none ends before it is written

    with guards.Signals() as signals, progress("pretrain", total, "steps", done=step) as bar:
        while step < total:
            epoch, first = divmod(step, loader.steps)
            if first == 0:
                after_epoch(trained, epoch, step, history.looks, save)
            for batch, views in engine.ahead(loader.epoch(epoch, start=first), epoch):
                clock = _clock(step, epoch, total, seed, device)
                optim.set_rates(optimizer, optimizer_config, clock, (step + 1) / loader.steps, config.epochs)
                optimizer.zero_grad(set_to_none=True)
                outcome = accumulation.backward(trained, views, clock, config)
                method.before_update(clock)
                norm = guards.gradient_norm(parameters)
                ledger.note(
                    step + 1,
                    optimizer.param_groups[0]["lr"],
                    {"loss": outcome.loss, "gradient_norm": norm, **outcome.numbers},
                    batch.index,
                    stop=signals.received is not None,
                    save=time.monotonic() - saved >= config.checkpoint_seconds,
                )
                optim.clip(optimizer, optimizer_config.clip, norm)
                optim.step(optimizer, ledger.bad if ledger.lag else None)
                method.after_update(clock)
                step += 1

                row = log(ledger.settled())
                bar.update()
                if row is not None and row.stop:
                    save()
                    print(
                        f"pretrain: stopped at step {step} of {total}, saved; `dvc repro` goes on from there",
                        flush=True,
                    )
                    raise guards.Interrupted(signals.received or signal.SIGTERM)
                if row is not None and row.save:
                    save()
        log(ledger.drain())
        after_epoch(trained, config.epochs, step, history.looks, save)
    history.seconds += time.monotonic() - started
    return history


def _clock(step: int, epoch: int, total: int, seed: int, device: torch.device) -> Clock:
    """The clock of a step. Dropout and the generator are seeded by it, so a resume needs no random state.

    The generator is equal on all ranks; what is dropped is not, as each has other images.
    """
    step_seed, rank = mixed(seed, step), distributed.rank()
    own = mixed(step_seed, rank) if rank else step_seed
    # Not torch.manual_seed, which asks every kind of device there could be: that is a hundredth of a small step.
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        torch.cuda.manual_seed(own)
    return Clock(step, epoch, step / total, torch.Generator().manual_seed(step_seed))


def _resume(
    checkpoints: Checkpoints, method: Method, optimizer: torch.optim.Optimizer, history: History
) -> int:
    found = parallel.newest(checkpoints)
    if found is None:
        return 0
    step, state = found
    parallel.load(method, state["method"])
    optim.restore(optimizer, state["optimizer"])
    history.restore(state["history"])
    before, now = state["processes"], distributed.world_size()
    changed = "" if now == before else f" of {before} in {now} processes: sums are rounded in another order"
    print(f"pretrain: continuing from the checkpoint at step {step}{changed}", flush=True)
    return step
