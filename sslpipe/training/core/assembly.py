"""What the loop trains with, put together from settings and data/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sslpipe.core import distributed
from sslpipe.data.loader import Loader, open_split
from sslpipe.methods.base.method import Method
from sslpipe.training.core import worker
from sslpipe.training.core.build import build_method, check_batch, check_views, placed, view_engine
from sslpipe.training.core.config import Setup
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


def assemble(setup: Setup, device: torch.device) -> Assembly:
    """Read data/ and build what these settings ask for; a UserError if something in them cannot be."""
    recipe = Recipe.from_json(RECIPE.read_bytes())
    with worker.first():  # a cache of the images is made by one process of a machine
        reader = open_split(SHARDS, "train", setup.loader.reader, device)
    processes = distributed.world_size()
    parts = setup.pretrain.accumulate if processes > 1 else 1
    loader = Loader(
        reader, batch_size=setup.pretrain.batch_size, seed=setup.seed, shuffle_shards=setup.loader.shuffle_shards,
        rank=distributed.rank(), world_size=processes, parts=parts,
    )  # fmt: skip
    method = build_on(device, setup)
    check_views(method, recipe)
    for warning in check_batch(method, setup.pretrain, len(reader)):
        print(f"pretrain: {warning}", flush=True)
    engine = view_engine(method, recipe, device, seed=setup.seed, renderer=setup.views.renderer)
    return Assembly(method, loader, engine)


def build_on(device: torch.device, setup: Setup) -> Method:
    """The method with weights drawn from the seed, laid out as it is fastest on this device."""
    return placed(build_method(setup.pretrain, setup.method, setup.views.size, setup.seed), device)
