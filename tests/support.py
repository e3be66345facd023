"""Small things to test with: a toy data set, and every method at toy size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.core import distributed, scratch
from sslpipe.data import Batch
from sslpipe.evals.base.inputs import Inputs
from sslpipe.methods.base.method import Clock, Method
from sslpipe.networks.protocol import Backbone
from sslpipe.settings import Settings
from sslpipe.shards.manifest import Duplicates, Manifest, Origin, Rejects, Splits, Statistics, shards_digest
from sslpipe.training.core.build import placed, view_engine
from sslpipe.views import View, ViewEngine
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe


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

    @property
    def blocks(self) -> np.ndarray:
        return np.array([0, len(self)])

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
    "timm:test_efficientnet": {},
    "timm:test_vit": {"patch_size": 16},
}
#: One of each kind; and vision transformers of both families, with what a method may stumble over.
KINDS = ("small_resnet", "small_vit", "timm:test_efficientnet")
TRANSFORMERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("small_vit", {**BACKBONES["small_vit"], "position": "relative", "layer_scale": 0.1, "drop_path": 0.1}),
    ("timm:test_vit", {"patch_size": 4}),
)


def small_method(name: str, seed: int = 0, **changes: Any) -> Method:
    torch.manual_seed(seed)
    kind = methods.find(name).default_backbone
    backbone = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind])
    return methods.build(name, backbone, {**SMALL.get(name, {}), **changes})


def small_engine(name: str, seed: int = 0, backbone: str = "", **changes: Any) -> ViewEngine:
    return ViewEngine(small_recipe(name, backbone, **changes), seed=seed)


def small_recipe(name: str, backbone: str = "", **changes: Any) -> Recipe:
    kind = backbone or methods.find(name).default_backbone
    patch = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind]).patch_size
    return methods.recipe(name, SIZE, patch_size=patch, config={**SMALL.get(name, {}), **changes})


def small_pair(name: str, device: str, renderer: str = "auto") -> tuple[Method, ViewEngine]:
    """A method on a device and what makes its views there, in the layout that a run gives them."""
    place = torch.device(device)
    method = placed(small_method(name), place)
    return method, view_engine(method, small_recipe(name), place, seed=0, renderer=renderer)


def check_it_trains(name: str, backbone: str, image_size: int = 32, **options: Any) -> Method:
    """One step of a method by its own views on a backbone: a finite loss, and gradients for all that is trained."""
    network = networks.backbone(backbone, image_size=image_size, **(options or BACKBONES[backbone]))
    config = SMALL.get(name, {})
    method = methods.build(name, network, config).train()
    recipe = methods.recipe(name, image_size, patch_size=network.patch_size, config=config)
    views = ViewEngine(recipe, seed=0)(ToyReader(resolution=image_size).gather(range(8)), 0)
    loss = method.step(views, Clock(0, 0, 0.0, torch.Generator().manual_seed(0))).loss
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    return method


def view_of(pixels: Tensor, name: str = "view") -> View:
    """Pixels, already normalised, as a view that shows its whole canvas."""
    n = len(pixels)
    return View(
        pixels, torch.arange(n), None, torch.eye(2, 3).expand(n, 2, 3), IMAGENET_MEAN, IMAGENET_STD, name
    )


def noise_views(
    n: int, seed: int = 0, crops: Iterable[tuple[str, int]] = (("view", SIZE),) * 2
) -> list[View]:
    """Views of noise in float64, by name and side: two of n images unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    return [
        view_of(torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64), name)
        for name, side in crops
    ]


def descend(parameters: Iterable[nn.Parameter], lr: float = 0.05) -> None:
    """A plain step, with the mean gradient of all ranks as DDP gives it."""
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= lr * distributed.mean(p.grad)
                p.grad = None


def preprocess(size: int = SIZE, **changes: Any) -> Preprocess:
    return Preprocess(**{"size": size, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), **changes})


def encoder(name: str = "small_resnet", image_size: int = SIZE, **options: Any) -> Backbone:
    """A small backbone with random weights that depend on nothing, in eval mode, as `load_encoder` gives one."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 8} if name == "small_resnet" else {"width": 16, "depth": 1, "heads": 2}
    network = networks.backbone(name, image_size=image_size, **{**small, **options}).eval()
    network.preprocess, network.info = preprocess(image_size), {}
    return network


def inputs(
    *, sections: Mapping[str, Any] | None = None, made: Mapping[str, Any] | None = None, **known: Any
) -> Inputs:
    """What evaluations read, of what a test has.

    Args:
        sections: of the settings; the others are the defaults.
        made: what `Inputs.once` gives, by name, such as scenes.
        known: by the names of properties of `Inputs`, such as encoder, train, test, features, changes.
    """
    settings, given = Settings({}), dict(sections or {})
    found = Inputs(section=lambda name: given[name] if name in given else getattr(settings, name))
    found.__dict__.update(known)
    for name, value in (made or {}).items():
        found.once(name, lambda value=value: value)
    return found


def manifest(
    *repeats: tuple[str, int], train: int = 9, test: int = 6, classes: tuple[str, ...] | None = None
) -> Manifest:
    """Of shards that do not exist; those pairs of a split and a place repeat a training image."""
    split = {"labelled": False, "class_counts": None, "index": scratch.digest("index")}
    shard = {"sha256": scratch.digest("shard"), "bytes": 10240}
    splits = Splits.parse(
        {
            name: {
                **split,
                "count": count,
                "shards": [{**shard, "path": f"{name}/{name}-000000.tar", "count": count}],
            }
            for name, count in (("train", train), ("test", test))
        }
    )
    found = {"key": "a", "of": 0, "of_key": "b", "difference": 0.0, "exact": True}
    listed = [{"split": name, "place": place, **found} for name, place in repeats]
    counts = {f"{name}_{kind}": 0 for name in ("train", "test") for kind in ("exact", "near")}
    return Manifest(
        source=Origin(name="folder", digest=scratch.digest("source")),
        resolution=28,
        seed=0,
        classes=classes,
        splits=splits,
        statistics=Statistics(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        recipe={},
        rejects=Rejects(count=0, by_reason={}, listed=()),
        duplicates=Duplicates.parse({**counts, "unseen": 0, "listed": listed}) if repeats else None,
        digest=shards_digest(splits),
    )
