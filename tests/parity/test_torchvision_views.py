"""Given the table, a view equals torchvision's functional operations applied to its image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from view_oracle import CHANCES, image_of

from sslpipe.data.batch import Batch
from sslpipe.views import Jitter, ViewSpec, centre
from sslpipe.views.drawing import draw
from sslpipe.views.render.choice import choose
from sslpipe.views.render.reference import render
from sslpipe.views.table import Table

functional = pytest.importorskip("torchvision.transforms.v2.functional")

EXACT, ROTATED = 5e-6, 1e-4
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
JITTER = Jitter(probability=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def renderer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is of `render`, whichever it is."""
    monkeypatch.setitem(globals(), "render", choose(request.param, torch.device("cpu"))[1])


def natural(height: int, width: int, seed: int) -> np.ndarray:
    """A picture with smooth parts, edges, saturated and grey pixels: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    picture = (
        np.stack(
            [np.sin(np.tensordot(rng.uniform(2, 12, 3), (x, y, x * y), 1) + c) for c in range(3)], axis=-1
        )
        * 0.6
        + 0.5
    )
    picture[x > rng.uniform(0.2, 0.8)] *= rng.uniform(0, 1.2, 3)
    picture += rng.normal(0, 0.1, picture.shape)
    grey = (y > 0.8)[..., None]
    picture = np.where(grey, picture.mean(axis=-1, keepdims=True), picture)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def batch_of(sizes: list[tuple[int, int]], resolution: int) -> Batch:
    """Canvases with images of these sizes; what lies beside an image is not zero, since nobody may look."""
    pixels = np.random.default_rng(7).integers(
        0, 256, (len(sizes), resolution, resolution, 3), dtype=np.uint8
    )
    for n, (height, width) in enumerate(sizes):
        pixels[n, :height, :width] = natural(height, width, seed=n)
    return Batch(
        pixels=torch.from_numpy(pixels),
        size=torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2),
        index=torch.arange(len(sizes)) + 100,
        label=torch.full((len(sizes),), -1),
    )


def table_of(batch: Batch, spec: ViewSpec, epoch: int = 0) -> Table:
    return draw(spec, seed=3, epoch=epoch, index=batch.index.numpy(), view=0, size=batch.size.numpy())


def one_by_one(batch: Batch, table: Table, spec: ViewSpec) -> torch.Tensor:
    """The same views by torchvision, a sample at a time, up to normalisation."""
    images = [
        image_of(batch.pixels[source], table, n, spec) for n, source in enumerate(table.source.tolist())
    ]
    return torch.stack([functional.normalize(image, list(spec.mean), list(spec.std)) for image in images])


def worst(batch: Batch, spec: ViewSpec, epoch: int = 0) -> float:
    table = table_of(batch, spec, epoch)
    return float((render(batch.pixels, table, spec) - one_by_one(batch, table, spec)).abs().max())


# Canvases with padding on either side, none at all, single pixels and lines.
SIZES = [(40, 40), (40, 23), (17, 40), (40, 1), (1, 40), (1, 1), (3, 2), (31, 40), (40, 39), (8, 8)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 7, 28, 40, 96])
def test_crop_resize_and_flips(size: int, interpolation: str) -> None:
    spec = ViewSpec(
        size=size,
        interpolation=interpolation,
        scale=(0.05, 1),
        ratio=(0.4, 2.5),
        vflip=0.5,
        quarter_turns=True,
        **RAW,
    )
    batch = batch_of(SIZES, 40)
    assert max(worst(batch, spec, epoch) for epoch in range(8)) <= EXACT


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_every_crop_length_to_every_size(interpolation: str) -> None:
    # Where a tap just falls inside or outside the filter decides: no length may be an exception.
    batch = batch_of([(256, 256)], 256)
    for size in (3, 32, 96, 224, 255):
        spec = ViewSpec(size=size, interpolation=interpolation, hflip=0, **RAW)
        lengths = np.arange(1 + size % 5, 257, 5)
        box = np.stack((256 - lengths, lengths * 0, lengths, np.full_like(lengths, 64)), axis=1).astype(
            np.int32
        )
        table = Table.plain(box, np.full((len(lengths), 2), 256, dtype=np.int32))
        table = table.change(source=np.zeros(len(lengths), dtype=np.int64))
        if size > 100:
            table = table[:: len(table) // 12]
        assert (render(batch.pixels, table, spec) - one_by_one(batch, table, spec)).abs().max() <= EXACT, size


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_black_and_white_noise(interpolation: str) -> None:
    # The hardest picture there is for a tap that lies a little off: weights rounded otherwise show here.
    pixels = np.random.default_rng(0).integers(0, 2, (1, 384, 384, 1), dtype=np.uint8).repeat(3, axis=3) * 255
    lengths = np.arange(225, 385, 13)
    box = np.stack((384 - lengths, lengths * 0, lengths, np.full_like(lengths, 32)), axis=1).astype(np.int32)
    table = Table.plain(box, np.full((len(box), 2), 384, dtype=np.int32))
    table = table.change(source=np.zeros(len(box), dtype=np.int64))
    batch = batch_of([(384, 384)], 384)
    batch = Batch(pixels=torch.from_numpy(pixels), size=batch.size, index=batch.index, label=batch.label)
    spec = ViewSpec(size=224, interpolation=interpolation, hflip=0, **RAW)
    assert (render(batch.pixels, table, spec) - one_by_one(batch, table, spec)).abs().max() <= EXACT


@pytest.mark.parametrize("fill", [0.0, 0.4])
@pytest.mark.parametrize("degrees", [15.0, 180.0])
def test_rotation(degrees: float, fill: float) -> None:
    spec = ViewSpec(size=28, scale=(0.2, 1), rotation=degrees, fill=fill, quarter_turns=True, **RAW)
    batch = batch_of(SIZES, 40)
    assert max(worst(batch, spec, epoch) for epoch in range(8)) <= ROTATED


def test_rotation_of_a_large_image() -> None:
    spec = ViewSpec(size=96, scale=(0.1, 1), rotation=30, **RAW)
    assert worst(batch_of([(256, 200), (180, 256), (256, 256)], 256), spec) <= ROTATED


@pytest.mark.parametrize(
    "change",
    [
        {"jitter": JITTER.model_copy(update={"contrast": 0.0, "saturation": 0.0, "hue": 0.0})},
        {"jitter": JITTER.model_copy(update={"brightness": 0.0, "saturation": 0.0, "hue": 0.0})},
        {"jitter": JITTER.model_copy(update={"brightness": 0.0, "contrast": 0.0, "hue": 0.0})},
        {"jitter": JITTER.model_copy(update={"brightness": 0.0, "contrast": 0.0, "saturation": 0.0})},
        {
            "jitter": JITTER.model_copy(
                update={"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.5}
            )
        },
        {"jitter": JITTER},
        *({name: 0.5} for name in CHANCES),
        {"blur": 0.7},
        {"blur": 0.7, "blur_kernel": 23, "blur_sigma": (0.05, 8.0)},
        {"blur": 0.7, "blur_kernel": 55},
        {"jitter": JITTER, **CHANCES},
        {"jitter": JITTER, "grey": 0.5, "order": ("crop", "grey", "jitter", "blur", "solarize")},
        {"jitter": JITTER, "grey": 0.5, "order": ("jitter", "crop", "grey", "blur", "solarize")},
        {"jitter": JITTER, "grey": 0.5, "order": ("grey", "jitter", "crop", "solarize", "blur")},
    ],
    ids=lambda change: "-".join(change) if isinstance(change, dict) else str(change),
)
def test_colour(change: dict) -> None:
    spec = ViewSpec(size=28, scale=(0.2, 1), **change, **RAW)
    batch = batch_of(SIZES * 2, 40)
    assert max(worst(batch, spec, epoch) for epoch in range(4)) <= EXACT


def test_everything_at_once() -> None:
    spec = ViewSpec(
        size=32,
        interpolation="bicubic",
        rotation=20,
        fill=0.3,
        quarter_turns=True,
        jitter=JITTER,
        **CHANCES,
        order=("jitter", "crop", "grey", "blur", "solarize"),
        **RAW,
    )
    table = table_of(batch_of(SIZES, 40), spec)
    batch = batch_of(SIZES, 40)
    # A pixel within the tolerance of .5 may be solarized on one side only.
    view, same = render(batch.pixels, table, spec), one_by_one(batch, table, spec)
    wrong = (view - same).abs() > ROTATED
    assert not (wrong & ((same - 0.5).abs() > ROTATED)).any()
    assert wrong.float().mean() < 1e-3


def test_normalisation() -> None:
    spec = ViewSpec(size=24, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    assert worst(batch_of(SIZES, 40), spec) <= EXACT / 0.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop"), [(28, 1.0), (20, 0.875), (64, 0.5)])
def test_centre(size: int, crop: float, interpolation: str) -> None:
    batch = batch_of(SIZES, 40)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    ours = centre(batch, size=size, crop=crop, interpolation=interpolation, mean=mean, std=std)
    for n, (height, width) in enumerate(SIZES):
        image = functional.to_dtype(
            batch.pixels[n, :height, :width].permute(2, 0, 1), torch.float32, scale=True
        )
        image = functional.center_crop(image, [max(1, round(crop * min(height, width)))] * 2)
        image = functional.resize(image, [size, size], interpolation=interpolation, antialias=True).clamp(
            0, 1
        )
        assert (ours[n] - functional.normalize(image, list(mean), list(std))).abs().max() <= EXACT / 0.2
