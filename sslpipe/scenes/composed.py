"""Scenes with true masks and boxes, composed of a split's own images: segmentation and detection without a download.

A scene is a textured background with a few objects: labelled images, scaled and laid where they overlap little.
Drawings on a dark ground (digits) are cut out along their ink, which gets a shade of its own; other images are laid
down in an ellipse. Where all images are grey, so are scenes. What a scene holds depends on the seed, the split and its
number alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.core.device import to_device
from sslpipe.data.loader import Reader
from sslpipe.data.subset import labelled
from sslpipe.scenes.config import Config
from sslpipe.views.preprocess import Preprocess

IGNORED = 255  # in masks, a pixel of no class
OPAQUE = 0.3  # from this opacity on a pixel is the object's
_TRIES = 20  # places tried for an object
_STREAM = {"train": 11, "test": 12}
#: A scene: pixels [S, S, 3], mask [S, S], boxes [n, 4] and labels [n].
_Scene = tuple[np.ndarray, np.ndarray, Tensor, Tensor]


@dataclass(frozen=True)
class Scenes:
    """Images with what is in them.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        masks: int64 [N, S, S], 0 for the background, c + 1 for class c, `IGNORED`; [N, 0, 0] where not wanted.
        boxes: for each scene float32 [n, 4], x1, y1, x2, y2 in pixels around what is visible.
        labels: for each scene int64 [n], classes.
        crowd: for each scene int64 [n], 1 for what need not be found (COCO's crowds, VOC's difficult objects); None
            where there is nothing of the kind.
    """

    pixels: Tensor
    masks: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    crowd: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pixels)


def compose(reader: Reader, split: str, count: int, side: int, settings: Config, seed: int) -> Scenes:
    """So many scenes of the labelled images of a split, `train` or `test`: their scenes are drawn apart.

    `side` is of what the encoder sees, in pixels.

    Raises:
        UserError: the split has no labelled image.
    """
    images = labelled(reader)
    if not len(images):
        raise UserError(f"scenes are composed of labelled images, and the {split} split has none")
    look, made = _Look.of(images), []
    for number in range(count):
        key = np.array([seed, _STREAM[split]], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, number]))
        made.append(_scene(images, look, side, settings, random))
    pixels, masks, boxes, labels = map(list, zip(*made, strict=True))
    return Scenes(torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(masks)), boxes, labels)


def normalised(pixels: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Scenes as the encoder takes them: uint8 [N, S, S, 3] → float32 [N, 3, S, S]."""
    mean, std = (
        to_device(torch.tensor(v), device).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std)
    )
    return (to_device(pixels, device).permute(0, 3, 1, 2).float() / 255 - mean) / std


@dataclass(frozen=True)
class _Look:
    """What a split's images are like, as far as a sample tells."""

    drawn: bool  # light ink on a dark ground
    grey: bool

    @classmethod
    def of(cls, reader: Reader) -> _Look:
        images = _images(reader, np.linspace(0, len(reader) - 1, min(64, len(reader))).astype(int))
        edges = [np.concatenate([*image[[0, -1]], *image[:, [0, -1]].swapaxes(0, 1)]) for image in images]
        return cls(
            drawn=bool(np.median([np.median(edge) for edge in edges]) < 16),
            grey=all((image == image[..., :1]).all() for image in images),
        )


def _images(reader: Reader, indices: np.ndarray) -> list[np.ndarray]:
    """Images [h, w, 3] without their canvases."""
    batch = reader.gather(indices)
    return [canvas[:h, :w] for canvas, (h, w) in zip(batch.pixels.numpy(), batch.size.numpy(), strict=True)]


def _scene(reader: Reader, look: _Look, side: int, settings: Config, random: np.random.Generator) -> _Scene:
    whole = side * settings.size
    scene = _texture(whole, look.grey, random)
    owner = np.full((whole, whole), -1)  # the number of the object that is seen
    areas: list[int] = []
    chosen = random.choice(len(reader), random.integers(settings.objects[0], settings.objects[1] + 1))
    for number, image in enumerate(_images(reader, chosen)):
        longest = round(side * random.uniform(*settings.scale))
        pixels, alpha = _object(image, look, longest, random)
        corner = _place(owner, areas, alpha > OPAQUE, settings.overlap, random)
        areas.append(0)
        if corner is None:
            continue
        here = tuple(slice(start, start + length) for start, length in zip(corner, alpha.shape, strict=True))
        scene[here] = scene[here] * (1 - alpha[..., None]) + pixels * alpha[..., None]
        owner[here][alpha > OPAQUE] = number
        areas[number] = int((alpha > OPAQUE).sum())
    return _marked(scene, owner, reader.labels[torch.from_numpy(chosen)])


def _marked(scene: np.ndarray, owner: np.ndarray, labels: Tensor) -> _Scene:
    """A scene with the marks of the objects that are seen in it."""
    mask, boxes, classes = np.zeros(owner.shape, np.int64), [], []
    for number, label in enumerate(labels.tolist()):
        y, x = np.nonzero(owner == number)
        if not len(y):
            continue
        mask[y, x] = label + 1
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        classes.append(label)
    return (
        scene.round().clip(0, 255).astype(np.uint8),
        mask,
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
    )


def _object(
    image: np.ndarray, look: _Look, longest: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float [h, w, 3] and opacity [h, w] of an object whose longer side is so many pixels."""
    scale = longest / max(image.shape[:2])
    size = tuple(max(2, round(scale * s)) for s in image.shape[1::-1])
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float64)
    if look.drawn:
        ink = pixels.max(axis=2) / 255
        tint = random.uniform(160, 255, 1 if look.grey else 3)
        return np.broadcast_to(tint, (*ink.shape, 3)), ink
    y, x = ((2 * np.arange(s) + 1) / s - 1 for s in pixels.shape[:2])  # of the pixels' centres
    return pixels, ((x[None] ** 2 + y[:, None] ** 2) <= 1).astype(np.float64)


def _place(
    owner: np.ndarray, areas: list[int], mask: np.ndarray, overlap: float, random: np.random.Generator
) -> tuple[int, int] | None:
    """The corner of a place where an object hides no more than is allowed of any earlier one; None if none is found."""
    room = np.array(owner.shape) - mask.shape
    if room.min() < 0 or not mask.any():
        return None
    for _ in range(_TRIES):
        y, x = (int(random.integers(0, most + 1)) for most in room)
        under = owner[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
        hidden = np.bincount(under[under >= 0], minlength=len(areas))
        lost = [
            1 - ((owner == number).sum() - hidden[number]) / areas[number]
            for number in np.flatnonzero(hidden)
        ]
        if all(fraction <= overlap for fraction in lost):
            return y, x
    return None


def _texture(side: int, grey: bool, random: np.random.Generator) -> np.ndarray:
    """A background of smooth and fine patches, float [side, side, 3], darker than most objects."""
    field = np.zeros((side, side, 3))
    for cells, weight in ((2, 0.6), (5, 0.3), (max(side // 3, 1), 0.25)):
        coarse = random.integers(0, 160, (cells, cells, 1 if grey else 3), dtype=np.uint8)
        coarse = np.repeat(coarse, 3, axis=2) if grey else coarse
        patches = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        field += weight * np.asarray(patches, np.float64)
    return field
