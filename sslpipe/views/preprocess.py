"""How images become an encoder's input: their central squares, with nothing drawn at random.

The pipeline does so with images that sharding has scaled down to its resolution. What it cuts from a photograph that is
not square may then be smaller than the input, and is enlarged: the encoder knows such pictures, and its figures are of
them. So images from elsewhere are first scaled down alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from sslpipe.console.errors import UserError, explained
from sslpipe.core.config import Config
from sslpipe.core.device import to_device
from sslpipe.data.batch import Batch
from sslpipe.shards.images import (
    TOO_LARGE,
    BadImage,
    decode,
    decode_stored,
    normalise,
    store,
    to_canvas_image,
)
from sslpipe.views.operations import ViewSpec
from sslpipe.views.render import reference
from sslpipe.views.table import Table
from sslpipe.views.values import Colour

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


class Preprocess(Config):
    """What turns images into the encoder's input; call it.

    Attributes:
        size: side of the input, pixels.
        crop: side of the central square that is kept, as a fraction of the image's shorter side.
        interpolation: of the resize, antialiased.
        mean: subtracted from each channel, in [0, 1].
        std: each channel is divided by it.
        resolution: longest side, in pixels, to which larger images are scaled down before, as sharding did with those
            that the encoder was trained on; None: images are taken as they are.
    """

    size: int = Field(ge=1)
    crop: float = Field(1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Colour
    std: Colour
    resolution: int | None = Field(None, ge=1)

    def __call__(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Images in, float32 [N, 3, size, size] out.

        Args:
            images: one or a list of: the path of an image file, a PIL image, or uint8 pixels (array or tensor)
                [H, W], [H, W, 3], [3, H, W] or [1, H, W]; or uint8 of four dimensions, N such images.

        Raises:
            UserError: something else, or a file that is missing, cannot be read or is no image.
        """
        return self.view(_as_batch([_as_pixels(image, self.resolution) for image in _as_list(images)]))

    def view(self, batch: Batch) -> Tensor:
        """The central view of each image of a batch: float32 [N, 3, size, size], on the batch's device.

        The images are as they come from shards, so of no higher resolution.
        """
        return centre(batch, **{key: value for key, value in self if key != "resolution"})

    def plain(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, S, S] as they were before the normalisation."""
        mean, std = self._levels(pixels)
        return pixels * std + mean

    def normalised(self, pixels: Tensor) -> Tensor:
        """What `plain` gave, in [0, 1], normalised again."""
        mean, std = self._levels(pixels)
        return (pixels - mean) / std

    def _levels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (to_device(torch.tensor(v), pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return mean, std


def centre(
    batch: Batch, *, size: int, mean: Colour, std: Colour, crop: float = 1.0,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:  # fmt: skip
    """The central square of each image, resized with antialiasing and normalised; the padding is never seen.

    The settings are those of `Preprocess`; for ImageNet's 224 of 256 pixels `crop` is .875.

    Returns:
        float32 [N, 3, size, size] on the batch's device.
    """
    limit = batch.size.numpy()  # [N, 2]
    box = central_box(limit, crop)
    spec = ViewSpec(size=size, interpolation=interpolation, mean=mean, std=std)
    return reference.render(batch.pixels, Table.plain(box, limit), spec)


def central_box(limit: NDArray[np.int32], crop: float) -> NDArray[np.int32]:
    """Top, left, height and width, [N, 4], of the square that evaluation sees; its side is `crop` of the shorter one.

    The true height and width of each image are `limit`, [N, 2].
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, not {crop}")
    side = np.maximum(np.rint(crop * limit.min(axis=1, keepdims=True)), 1)
    corner = np.rint((limit - side) / 2)  # as torchvision's center_crop
    return np.concatenate((corner, side, side), axis=1).astype(np.int32)


def _as_list(images: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.ndim != 4:
        return [images]
    return list(images)


def _as_pixels(image: Picture, resolution: int | None) -> Tensor:
    """One image as uint8 [H, W, 3], scaled down to the resolution if it is larger."""
    if isinstance(image, str | os.PathLike | Image.Image):
        image = _decoded(image, resolution)
    pixels = _as_rgb(image)
    if resolution is None or max(pixels.shape[:2]) <= resolution:
        return pixels
    return torch.from_numpy(np.array(to_canvas_image(pixels.cpu().numpy(), resolution)))


def _as_rgb(given: np.ndarray | Tensor) -> Tensor:
    """Pixels of one of the shapes that `Preprocess` takes as uint8 [H, W, 3]."""
    pixels = torch.as_tensor(given)
    shape = list(pixels.shape)
    if pixels.dtype != torch.uint8:
        kind = str(pixels.dtype).removeprefix("torch.")
        raise UserError(f"preprocess takes paths, PIL images or uint8 pixels from 0 to 255, not {kind}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        pixels = pixels.permute(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(f"preprocess takes images of 1 or 3 channels, not pixels of shape {shape}")
    return pixels.expand(-1, -1, 3)


def _decoded(image: str | os.PathLike[str] | Image.Image, resolution: int | None) -> NDArray[np.uint8]:
    """A file or a PIL image as sharding reads it: uint8 [H, W] or [H, W, 3]; a file's as it would be stored, too.

    How many pixels a file may have is Pillow's own limit, which guards against pictures made to fill the memory.
    """
    try:
        if isinstance(image, Image.Image):
            return np.array(normalise(image))
        data = _content(Path(image))
        if resolution is None:
            return np.array(decode(data, max_pixels=sys.maxsize))
        # What is stored is decoded again: of a photograph that was scaled down it is a JPEG.
        stored = store(data, resolution=resolution, max_pixels=sys.maxsize)
        return np.array(decode_stored(stored.data, resolution))
    except BadImage as error:
        what = "this image" if isinstance(image, Image.Image) else os.fspath(image)
        reason = "more pixels than PIL.Image.MAX_IMAGE_PIXELS" if error.reason == TOO_LARGE else error.reason
        raise UserError(f"preprocess cannot read {what}: {reason}") from error


def _content(path: Path) -> bytes:
    with explained(f"reading {path}"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} is missing: give preprocess the path of an image file") from None


def _as_batch(images: list[Tensor]) -> Batch:
    if not images:
        raise UserError("preprocess was given no image")
    side = max(max(image.shape[:2]) for image in images)
    canvases = torch.zeros(len(images), side, side, 3, dtype=torch.uint8)
    for canvas, image in zip(canvases, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    none = torch.full((len(images),), -1)
    size = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
    return Batch(pixels=canvases, size=size, index=torch.arange(len(images)), label=none)
