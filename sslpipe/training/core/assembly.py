"""What the loop trains with, put together from settings and data/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sslpipe.core import distributed
from sslpipe.data.loader import Config as LoaderConfig
from sslpipe.data.loader import Loader, open_split
from sslpipe.methods.base.config import MethodConfig
from sslpipe.methods.base.method import Method
from sslpipe.training.core import worker
from sslpipe.training.core.build import build_method, check_batch, check_views, memory_format
from sslpipe.training.core.config import Config
from sslpipe.views.config import Config as ViewsConfig
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe

SHARDS = Path("data/shards")
RECIPE = Path("data/views/recipe.json")


@dataclass(frozen=True)
class Assembly:
    """A method on its device, this process's part of the training split's batches, and what makes their views."""

    method: Method
    loader: Loader
    engine: ViewEngine
    recipe: Recipe
    device: torch.device


def assemble(
    config: Config,
    method_config: MethodConfig,
    *,
    seed: int,
    views: ViewsConfig,
    loading: LoaderConfig,
    device: torch.device,
) -> Assembly:
    """Read data/ and build what these settings ask for.

    Args:
        config: the `pretrain` settings.
        method_config: the method's.
        seed: of weights, order and views.
        views: the `views` settings: the renderer and the encoder's size.
        loading: the `loader` settings.
        device: of this process.

    Raises:
        UserError: something in the settings cannot be.
    """
    recipe = Recipe.from_json(RECIPE.read_bytes())
    with worker.first():  # a cache of the images is made by one process of a machine
        reader = open_split(SHARDS, "train", loading.reader, device)
    processes = distributed.world_size()
    loader = Loader(
        reader,
        batch_size=config.batch_size,
        seed=seed,
        shuffle_shards=loading.shuffle_shards,
        rank=distributed.rank(),
        world_size=processes,
        parts=config.accumulate if processes > 1 else 1,
    )
    method = build_on(device, config, method_config, views.size, seed)
    check_views(method, recipe)
    for warning in check_batch(method, config, len(reader)):
        print(f"pretrain: {warning}", flush=True)
    layout = memory_format(method.backbone, device)
    engine = ViewEngine(recipe, seed=seed, device=device, renderer=views.renderer, memory_format=layout)
    return Assembly(method, loader, engine, recipe, device)


def build_on(
    device: torch.device, config: Config, method_config: MethodConfig, image_size: int, seed: int
) -> Method:
    """The method with weights drawn from the seed, laid out as it is fastest on this device."""
    method = build_method(config, method_config, image_size, seed).to(device)
    method.to(memory_format=memory_format(method.backbone, device))
    return method
