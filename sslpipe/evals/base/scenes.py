"""Scenes for evaluations that need masks or boxes, and how they learn from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslpipe.console.progress import Progress
from sslpipe.core.device import Late
from sslpipe.evals.base.inputs import Inputs
from sslpipe.scenes import annotated, composed
from sslpipe.scenes.annotated import Need
from sslpipe.scenes.composed import Scenes
from sslpipe.scenes.config import Config


def labelled_scenes(inputs: Inputs, need: Need, config: Config) -> tuple[Scenes, Scenes, list[str]]:
    """Scenes to learn from and to be tested on, and the names of the classes; the same under every seed."""

    def make() -> tuple[Scenes, Scenes, list[str]]:
        side, seed = inputs.encoder.image_size, inputs.config("seed")
        if config.root is not None:
            return annotated.scenes(need, config.root, side, config, seed)
        train, test = inputs.train, inputs.test
        count = int(max(train.labels.max(), test.labels.max())) + 1
        return (
            composed.compose(train, "train", config.train, side, config, seed),
            composed.compose(test, "test", config.test, side, config, seed),
            list(inputs.manifest.classes or map(str, range(count))),
        )

    return inputs.once(need, make)


def descend(
    loss_of: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    batch_size: int,
    epochs: int,
    seed: int,
    bar: Progress,
    *,
    by_step: bool,
) -> None:
    """Minimise the loss of shuffled batches, int64 [n], of rows, int64 [N], the learning rate along a cosine.

    `seed` is of the order; the bar moves on with each step or each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(rows) // batch_size))
    late = Late()
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(batch_size):
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if by_step:
                bar.update(1, late.caption(loss))
        if not by_step:
            bar.update(1, f"loss {loss.item():.3f}")
