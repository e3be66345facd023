"""A batch of canvases: what every reader yields and every view starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sslpipe.core.device import to_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """N images, each in the top-left corner of an R x R canvas, zeros elsewhere.

    Raises:
        ValueError: a tensor has another shape or type.
    """

    pixels: Tensor  # uint8 [N, R, R, 3], RGB
    size: Tensor  # int32 [N, 2], the true height and width of each image, at least 1 and at most R
    index: Tensor  # int64 [N], the image's index in its split
    label: Tensor  # int64 [N], the class, -1 where there is none
    ready: torch.cuda.Event | None = None  # happens when pixels that another stream writes on a GPU are there

    def __post_init__(self) -> None:
        n = self.pixels.shape[0]
        side = self.pixels.shape[1] if self.pixels.ndim == 4 else 0
        for name, tensor, shape, dtype in (
            ("pixels", self.pixels, (n, side, side, 3), torch.uint8),
            ("size", self.size, (n, 2), torch.int32),
            ("index", self.index, (n,), torch.int64),
            ("label", self.label, (n,), torch.int64),
        ):
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                found = f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"{name} must be {dtype} {list(shape)}, not {found}")

    def __len__(self) -> int:
        """The number of images, N."""
        return self.pixels.shape[0]

    def pixels_on(self, device: torch.device) -> Tensor:
        """The pixels on a device, for its current stream; the host does not wait for them."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.pixels.device)
            stream.wait_event(self.ready)
            self.pixels.record_stream(stream)
        return to_device(self.pixels, device)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with pixels and labels on a device, for its current stream; the pixels travel as one slab.

        Sizes and indices stay on the host: there it is decided what is seen of each image.
        """
        device = torch.device(device)
        return replace(self, pixels=self.pixels_on(device), label=to_device(self.label, device), ready=None)
