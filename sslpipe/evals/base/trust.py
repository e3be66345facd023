"""What a number rests on: which data, encoder and settings it was measured with, and on how many images of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslpipe.core import scratch
from sslpipe.core.config import Config
from sslpipe.evals.base.features import Features
from sslpipe.shards.manifest import Manifest


def digests(data: str, encoder: str, settings: Config, seeds: int) -> dict[str, str]:
    """What tells two numbers apart: digests of data, of the encoder's weights and of the protocol's settings."""
    own = settings.model_dump(mode="json", exclude={"enabled", "device"})
    return {"data": data, "encoder": encoder, "settings": scratch.digest({**own, "seeds": seeds})}


def at_edge(setting: str, lr: float, lrs: Sequence[float]) -> dict[str, str]:
    """For the protocol, and printed: that the learning rate chosen is the first or last of those tried.

    Then a better one may lie beyond. Nothing where it lies between others, or was the only one.
    """
    if len(lrs) == 1 or min(lrs) < lr < max(lrs):
        return {}
    told = (
        f"{lr:g} was chosen, the {'lowest' if lr == min(lrs) else 'highest'} of {setting}: add further ones"
    )
    print(f"{setting.partition('.')[0]}: {told}", flush=True)
    return {"lr_at_edge": told}


def without_duplicates(manifest: Manifest, test: Features, predicted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Top-1 on the test images that, as far as the manifest tells, repeat no training image, beside that on all.

    Nothing where no test image repeats one of train, or all do. `predicted` are classes int64 [M] by prefix (see
    `features.KINDS`).
    """
    listed = manifest.duplicates.listed if manifest.duplicates else ()
    repeats = [pair.place for pair in listed if pair.split == "test"]
    others = ~torch.isin(test.index, torch.tensor(repeats, dtype=torch.int64))  # [M]
    if bool(others.all()) or not bool(others.any()):
        return {}
    found: dict[str, Any] = {
        f"{prefix}top1": (classes == test.label)[others].double().mean().item()
        for prefix, classes in predicted.items()
    }
    return {"without_duplicates": {**found, "test_images": int(others.sum())}}
