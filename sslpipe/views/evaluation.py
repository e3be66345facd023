"""The view an encoder is evaluated on: the image's central square, with nothing drawn at random."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sslpipe.data.batch import Batch
from sslpipe.views.operations import ViewSpec
from sslpipe.views.render import reference
from sslpipe.views.table import Table
from sslpipe.views.values import Colour


def centre(
    batch: Batch, *, size: int, mean: Colour, std: Colour, crop: float = 1.0,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> torch.Tensor:  # fmt: skip
    """The central square of each image, resized with antialiasing and normalised.

    Args:
        batch: canvases; their padding is never seen.
        size: side of the result in pixels.
        mean, std: of the normalisation.
        crop: side of the square as a fraction of the image's shorter side (.875 is ImageNet's 224 of 256).
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 [N, 3, size, size] on the batch's device.
    """
    limit = batch.size.cpu().numpy()  # [N, 2]
    box = central_box(limit, crop)
    spec = ViewSpec(size=size, interpolation=interpolation, mean=mean, std=std)
    return reference.render(batch.pixels, Table.plain(box, limit), spec)


def central_box(limit: NDArray[np.int32], crop: float) -> NDArray[np.int32]:
    """Top, left, height and width, [N, 4], of the square that evaluation sees; see `centre`.

    Args:
        limit: [N, 2], true height and width of each image.
        crop: side of the square as a fraction of the shorter side.
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, not {crop}")
    side = np.maximum(np.rint(crop * limit.min(axis=1, keepdims=True)), 1)
    corner = np.rint((limit - side) / 2)  # as torchvision's center_crop
    return np.concatenate((corner, side, side), axis=1).astype(np.int32)
