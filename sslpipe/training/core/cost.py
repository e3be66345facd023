"""What views cost beside the training step they are made for."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from sslpipe.core.device import take
from sslpipe.data.loader import Reader
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.method import Method
from sslpipe.recipes.preview import ROUNDS, measure
from sslpipe.training.core import accumulation, plan
from sslpipe.training.core.build import build_method, check_views, placed, view_engine
from sslpipe.training.core.config import Config
from sslpipe.training.core.step import seeded_clock
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.recipe import Recipe
from sslpipe.views.view import View

PATIENCE = 5.0  # seconds after which no further step is timed


def cost_of_views(
    config: Config, method_config: MethodConfig, views: ViewsConfig, recipe: Recipe, reader: Reader, seed: int
) -> dict[str, Any]:
    """What metrics/views.json holds: how fast views are made, and which fraction of a training step that is.

    Of the step only forward and backward are timed, of the untrained method on as many images as one process has of a
    batch. On a GPU the views are made while the step before them is taken, so the fraction is what they would cost if
    they were not.

    Raises:
        UserError: the method cannot be trained on such views or in such parts.
    """
    device = take(config.device)
    method = placed(build_method(config, method_config, views.size, seed), device)
    check_views(method, recipe)
    accumulation.check(method, config)
    engine = view_engine(method, recipe, device, seed=seed, renderer=views.renderer)
    images = min(config.batch_size // plan.world_size(config), len(reader))
    if images < 2 * config.accumulate:  # too few to train on, but views of them can be made and looked at
        config = config.model_copy(update={"accumulate": 1})
    batch = reader.gather(torch.arange(images - images % config.accumulate))
    metrics = measure(engine, batch)
    seconds = _step_seconds(method, engine(batch, epoch=0), config, seed)
    making = metrics["milliseconds_per_batch"] / 1000
    return {**metrics, "share_of_step": round(making / (making + seconds), 4)}


def _step_seconds(method: Method, views: list[View], config: Config, seed: int) -> float:
    """Seconds of a forward and a backward pass: the median of a few after a warm-up."""
    device = views[0].pixels.device
    method.train()
    rounds: list[float] = []
    began = time.monotonic()
    while len(rounds) <= ROUNDS and (len(rounds) < 2 or time.monotonic() - began < PATIENCE):
        start = time.perf_counter()
        clock = seeded_clock(0, 0, 1, seed, device)
        accumulation.backward(method, views, clock, config)
        method.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds[1:])
