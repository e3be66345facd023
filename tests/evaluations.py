"""Every evaluation, tiny: what it reads, and settings that make it quick."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from support import ToyReader, encoder, inputs, manifest

from sslpipe import evals
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import embed
from sslpipe.evals.base.inputs import Inputs
from sslpipe.scenes.composed import compose
from sslpipe.scenes.config import Config as ScenesConfig
from sslpipe.views.recipe import Recipe, ViewSpec

NAMES = evals.names()
CLASSES = ("red", "green", "blue", "white")
#: Settings that make an evaluation quick; one that is not here is tried with its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "attentive": {"epochs": 1, "lrs": (0.01,), "heads": 2},
    "detect": {"epochs": 1},
    "diagnostics": {"images": 8, "views": 2, "k": 3},
    "finetune": {"labels": 8, "draws": 2, "epochs": 1, "batch_size": 8},
    "linear": {"epochs": 1, "min_steps": 5, "folds": 2, "lrs": (0.1,), "few_labels": (8,), "draws": 2},
    "online": {"epochs": 1, "folds": 2, "lrs": (0.1,)},
    "robustness": {"images": 6, "severities": (3,), "k": 3},
    "segment": {"epochs": 1, "lrs": (0.01,), "k": 3, "freeze": False},
}


def config_of(name: str, device: str = "cpu") -> Any:
    """Settings of an evaluation that make it quick."""
    own = {"device": device} if "device" in evals.config_of(name).model_fields else {}
    return evals.config_of(name)(**own, **QUICK.get(name, {}))


@cache
def everything(backbone: str = "small_resnet", device: str = "cpu") -> Inputs:
    """All that an evaluation may ask for, tiny; features are made on the CPU."""
    network, train, test = encoder(backbone), ToyReader(24), ToyReader(12)
    embedding = EmbedConfig(device="cpu")
    features = tuple(embed(network, reader, embedding, seed=1) for reader in (train, test))
    scenes = tuple(
        compose(reader, split, count, 16, ScenesConfig(), seed=0)
        for reader, split, count in ((train, "train", 8), (test, "test", 4))
    )
    listed = manifest(("test", 0), train=24, test=12, classes=CLASSES)
    sections = {name: config_of(name, device) for name in NAMES}
    return inputs(
        encoder=network,
        train=train,
        test=test,
        features=features,
        manifest=listed,
        changes={},
        recipe=Recipe(views=(ViewSpec(size=16, scale=(0.5, 1.0)),)),
        sections={**sections, "embed": EmbedConfig(device=device), "seed": 0},
        made={
            "masks": (*scenes, list(CLASSES)),
            "boxes": (*scenes, list(CLASSES)),
            "transfer": (*features, listed),
        },
    )


def module(name: str) -> Any:
    """The module that evaluates."""
    return importlib.import_module(f"sslpipe.evals.{name}.evaluate")
