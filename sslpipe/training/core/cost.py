"""What views cost beside the training step they are made for."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from sslpipe.core.device import autocast, resolve
from sslpipe.data.loader import Reader
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.recipes.preview import ROUNDS, measure
from sslpipe.training.core import plan
from sslpipe.training.core.build import build_method, check_views, memory_format
from sslpipe.training.core.config import Config
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe
from sslpipe.views.view import View

PATIENCE = 5.0  # seconds after which no further step is timed


def cost_of_views(
    config: Config, method_config: MethodConfig, views: ViewsConfig, recipe: Recipe, reader: Reader, seed: int
) -> dict[str, Any]:
    """What metrics/views.json holds: how fast views are made, and which share of a training step that is.

    The step is a forward and a backward pass of the untrained method on the first batch (where several processes will
    train, on one's share of it), timed apart from the views. On a GPU the two overlap in training, so the share is what
    views would cost if they did not.

    Args:
        config: the `pretrain` settings.
        method_config: the method's.
        views: the `views` settings.
        recipe: what is trained on.
        reader: the training split.
        seed: the run's.
    """
    device = resolve(config.device)
    method = build_method(config, method_config, views.size, seed).to(device)
    check_views(method, recipe)
    layout = memory_format(method.backbone, device)
    engine = ViewEngine(recipe, seed=seed, device=device, renderer=views.renderer, memory_format=layout)
    batch = reader.gather(torch.arange(min(config.batch_size // plan.world_size(config), len(reader))))
    metrics = measure(engine, batch)
    seconds = _step_seconds(method, engine(batch, epoch=0), config.precision)
    making = metrics["milliseconds_per_batch"] / 1000
    return {**metrics, "share_of_step": round(making / (making + seconds), 4)}


def _step_seconds(method: Method, views: list[View], precision: str) -> float:
    """Seconds of a forward and a backward pass: the median of a few after a warm-up."""
    device = views[0].pixels.device
    clock = Clock(0, 0, 0.0, torch.Generator().manual_seed(0))
    method.train()
    rounds: list[float] = []
    began = time.monotonic()
    while len(rounds) <= ROUNDS and (len(rounds) < 2 or time.monotonic() - began < PATIENCE):
        start = time.perf_counter()
        with autocast(device, precision):
            loss = method.step(views, clock).loss
        loss.backward()
        method.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds[1:])
