"""One training step: the loop takes it, the profiler times it, and views are compared with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslpipe.core import distributed
from sslpipe.core.device import mixed
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.training.core import accumulation, guards, optim, parallel
from sslpipe.training.core.config import Config
from sslpipe.training.core.phases import OPTIMISER, Phase, untimed
from sslpipe.views.view import View


@dataclass(frozen=True)
class Gradient:
    """What a batch came to. The gradient itself is in the parameters' `grad`."""

    clock: Clock
    lr: float  # of the first parameter group
    norm: Tensor  # of the whole gradient, before clipping
    numbers: dict[str, Tensor]  # `loss`, `gradient_norm` and what the method reports; on the device


class TrainingStep:
    """Takes the steps of a run, each in two parts: `gradient` of a batch, then `update` by it.

    Between the two the loop writes the numbers down, while the weights are still those that the numbers are of. The
    method is on its device; several processes may share its parameters out between them.

    Attributes:
        trained: the method, or what several processes train it by.
        total: steps of the whole run.
    """

    def __init__(
        self,
        method: Method,
        config: Config,
        optimizer_config: OptimizerConfig,
        *,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        self.method, self.config, self.optimizer_config = method, config, optimizer_config
        self.steps_per_epoch, self.seed = steps_per_epoch, seed
        self.total = config.epochs * steps_per_epoch
        self.trained = parallel.wrap(method, config)
        self.optimizer = optim.build(method.parameter_groups(), optimizer_config, config.batch_size)
        self._parameters = list(method.parameters())  # once: walking the modules takes as long as the norm
        self._device = self._parameters[0].device

    def gradient(self, step: int, views: Sequence[View], phase: Phase = untimed) -> Gradient:
        """Go forward and backward with this process's part of a batch, after so many steps; `phase` times phases."""
        epoch = step // self.steps_per_epoch
        clock = seeded_clock(step, epoch, self.total, self.seed, self._device)
        after = (step + 1) / self.steps_per_epoch  # epochs done with this step: a warm-up does not begin at 0
        optim.set_lrs(self.optimizer, self.optimizer_config, clock, after, self.config.epochs)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = accumulation.backward(self.trained, views, clock, self.config, phase)
        with phase(OPTIMISER):
            self.method.before_update(clock)
            norm = guards.gradient_norm(self._parameters)
        numbers = {"loss": outcome.loss, "gradient_norm": norm, **outcome.numbers}
        return Gradient(clock, self.optimizer.param_groups[0]["lr"], norm, numbers)

    def update(self, gradient: Gradient, bad: Tensor | None = None, phase: Phase = untimed) -> None:
        """Clip the gradient, update the weights by `optim.step`, then what follows them: momentum networks, queues."""
        with phase(OPTIMISER):
            optim.clip(self.optimizer, self.optimizer_config.clip, gradient.norm)
            optim.step(self.optimizer, bad)
            self.method.after_update(gradient.clock)


def seeded_clock(step: int, epoch: int, total: int, seed: int, device: torch.device) -> Clock:
    """The clock of a step. It seeds dropout and the clock's generator, so a resume needs no random state.

    The generator is equal on all ranks; what is dropped is not, as each rank has other images.
    """
    step_seed, rank = mixed(seed, step), distributed.rank()
    own = mixed(step_seed, rank) if rank else step_seed
    # Not torch.manual_seed, which asks every kind of device there could be: that is a hundredth of a small step.
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(own)
    return Clock(step, epoch, step / total, torch.Generator().manual_seed(step_seed))
