"""Small things to test with: a toy data set, and every method at toy size."""

from __future__ import annotations

from typing import Any

import torch

from sslpipe import methods, networks
from sslpipe.data import Batch
from sslpipe.methods.base import Method
from sslpipe.views import ViewEngine


class ToyReader:
    """Images of a few classes held in memory: each class a colour and a bright corner, plus noise."""

    def __init__(self, count: int = 32, resolution: int = 16, classes: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.resolution = resolution
        self.labels = torch.arange(count) % classes
        self.keys = [f"image{i}" for i in range(count)]
        colours = torch.randint(40, 200, (classes, 3), generator=generator)
        pixels = colours[self.labels][:, None, None, :].repeat(1, resolution, resolution, 1)
        half = resolution // 2
        for corner in range(min(classes, 4)):
            y, x = half * (corner // 2), half * (corner % 2)
            pixels[self.labels == corner, y : y + half, x : x + half] += 50
        noise = torch.randint(-30, 31, pixels.shape, generator=generator)
        self.pixels = (pixels + noise).clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: Any) -> Batch:
        index = torch.as_tensor(index, dtype=torch.int64)
        size = torch.full((len(index), 2), self.resolution, dtype=torch.int32)
        return Batch(pixels=self.pixels[index], size=size, index=index, label=self.labels[index])


#: A method without an entry here uses its defaults.
SIZE = 16
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"projector_hidden": 32, "projector_out": 16},
    "byol": {"projector_hidden": 32, "projector_out": 16, "predictor_hidden": 32, "projector_norm": "plain"},
    "colorization": {"decoder_width": 16},
    "jigsaw": {"permutations": 4, "tile_features": 16, "hidden": 32},
    "moco": {"projector_hidden": 32, "projector_out": 16, "queue": 16, "momentum": 0.9, "temperature": 0.07},
    "mocov3": {"projector_hidden": 32, "projector_out": 16, "predictor_hidden": 32, "momentum": 0.9},
    "simsiam": {"projector_hidden": 32, "projector_out": 32, "predictor_hidden": 8},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "patch_contrast": {
        "projector_hidden": 32,
        "projector_out": 16,
        "patch_hidden": 32,
        "patch_out": 16,
        "anchors": 24,
    },
    "beit": {"tokenizer": {"words": 16, "dim": 8, "width": 8, "epochs": 2, "batch_size": 16}},
    "swav": {
        "projector_hidden": 32,
        "projector_out": 16,
        "prototypes": 8,
        "freeze_prototypes": 2,
        "local_crops": 2,
        "queue": 32,
        "queue_epoch": 0,
    },
}
BACKBONES: dict[str, dict[str, Any]] = {
    "small_resnet": {"width": 8, "stages": 3},
    "small_vit": {"width": 32, "depth": 2, "heads": 2},
}


def small_method(name: str, seed: int = 0, **changes: Any) -> Method:
    torch.manual_seed(seed)
    kind = methods.find(name).default_backbone
    backbone = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind])
    return methods.build(name, backbone, {**SMALL.get(name, {}), **changes})


def small_engine(name: str, seed: int = 0, **changes: Any) -> ViewEngine:
    kind = methods.find(name).default_backbone
    patch = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind]).patch_size
    return ViewEngine(
        methods.recipe(name, SIZE, patch_size=patch, config={**SMALL.get(name, {}), **changes}), seed=seed
    )
