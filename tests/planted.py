"""A signal that cannot be missed, and an encoder that sees it: what is learned from it is exact on every machine."""

from __future__ import annotations

from typing import Any

import torch
from support import SIZE, ToyReader, preprocess
from torch import Tensor, nn

from sslpipe.evals.base.features import Features
from sslpipe.networks.protocol import ConvBackbone

#: Of the planted classes.
PALETTE = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)


class ColourReader(ToyReader):
    """Images of four classes, evenly many where `count` is a multiple of four, each wholly of its class's colour."""

    def __init__(self, count: int = 32, resolution: int = SIZE) -> None:
        super().__init__(count, resolution)
        self.pixels = PALETTE[self.labels][:, None, None, :].repeat(1, resolution, resolution, 1)


class Colours(ConvBackbone):
    """An encoder that gives each patch's mean red, green, blue and lightness, times `sight`.

    `sight` is no parameter, and 0 in a network with random weights: whatever is trained on that one's features, all
    images are the same to it.
    """

    kind, dim = "cnn", 4
    sight: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.name, self.options, self.image_size = "colours", {}, image_size
        self.register_buffer("sight", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(4))

    @classmethod
    def seeing(cls) -> Colours:
        """With `sight` 1, and a `preprocess`."""
        found = cls(SIZE).eval()
        found.sight.fill_(1)
        found.preprocess, found.info = preprocess(), {}
        return found

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, 4, S / 4, S / 4]."""
        means = nn.functional.avg_pool2d(x, 4)
        return torch.cat([means, means.mean(1, keepdim=True)], 1) * self.scale[:, None, None] * self.sight

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """All of it is the stem."""
        return {"stem": r"^scale|^sight", "blocks": [(r"^none", (1,))]}


def planted_features(count: int) -> Features:
    """Of four classes, evenly many: the encoder's tell each, raw pixels tell pairs of classes, random weights none."""
    label = torch.arange(count) % 4
    eye = torch.eye(4)
    return Features(eye[label], torch.ones(count, 4), eye[label // 2], label, torch.arange(count))
