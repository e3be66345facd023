"""What a number rests on: which data, encoder and settings it was measured with, and on how many images of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslpipe.core import config, scratch
from sslpipe.evals.base.features import Features
from sslpipe.shards.manifest import Manifest


def digests(data: str, settings: config.Config, encoder: Path, seeds: int = 1) -> dict[str, str]:
    """What tells two numbers apart: digests of the shards, of the encoder's weights and of the protocol's settings.

    Args:
        data: of the shards, or of what else was read.
        settings: of the evaluation.
        encoder: the encoder's JSON file.
        seeds: how often the evaluation was repeated.
    """
    own = settings.model_dump(mode="json", exclude={"enabled", "device"})
    return {
        "data": data,
        "encoder": json.loads(encoder.read_text())["weights_sha256"],
        "settings": scratch.digest({**own, "seeds": seeds}),
    }


def repeated(manifest: Manifest) -> Tensor:
    """Places of test images that repeat a training image, as far as the manifest lists them: int64 [n]."""
    listed = manifest.duplicates.listed if manifest.duplicates else ()
    return torch.tensor([pair.place for pair in listed if pair.split == "test"], dtype=torch.int64)


def without_duplicates(manifest: Manifest, test: Features, predicted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Top-1 on the test images that repeat no training image, to stand beside that on all.

    Args:
        manifest: of the shards.
        test: those tested.
        predicted: by prefix (see `features.KINDS`), int64 [M].

    Returns:
        `without_duplicates`: `top1` by prefix, and `test_images`; nothing where no test image repeats one of train, or
        all do.
    """
    others = ~torch.isin(test.index, repeated(manifest))  # [M]
    if bool(others.all()) or not bool(others.any()):
        return {}
    found: dict[str, Any] = {
        f"{prefix}top1": (classes == test.label)[others].double().mean().item()
        for prefix, classes in predicted.items()
    }
    return {"without_duplicates": {**found, "test_images": int(others.sum())}}
