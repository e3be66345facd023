"""Learning rates and weight decay as functions of progress: no state, so a resumed run needs none restored."""

from __future__ import annotations

import math

from sslpipe.methods.base.config import OptimizerConfig


def longest_warmup(epochs: float) -> float:
    """Epochs that a warm-up may take of so many: a fifth."""
    return epochs / 5


def lr_factor(config: OptimizerConfig, epoch: float, epochs: float) -> float:
    """The learning rate as a fraction of its peak, after `epoch` of all `epochs`, perhaps within one.

    A warm-up longer than a fifth of all is cut to that.
    """
    warmup = min(config.warmup_epochs, longest_warmup(epochs))
    if epoch < warmup:
        return epoch / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "steps":
        return config.step_factor ** sum(epoch / epochs >= milestone for milestone in config.milestones)
    progress = (epoch - warmup) / max(epochs - warmup, 1e-9)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def weight_decay(config: OptimizerConfig, progress: float) -> float:
    """The weight decay at this fraction of training: constant, or a cosine from start to end (DINO)."""
    if config.weight_decay_end is None:
        return config.weight_decay
    start, end = config.weight_decay, config.weight_decay_end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
