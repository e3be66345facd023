"""CIE Lab: colours as lightness and two colour axes, and an encoder that sees lightness alone (colorization)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sslpipe.networks.protocol import Backbone, below

# Linear sRGB (ITU-R BT.709 primaries, white point D65) to XYZ, and its white: the numbers of skimage and OpenCV.
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE, _SLOPE, _SHIFT = 0.008856, 7.787, 16 / 116  # where CIE's cube root turns into a straight line


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB [N, 3, …] in [0, 1] → Lab: L in [0, 100], a and b within about ±110; in float32 at least."""
    xyz = _mix(_TO_XYZ, _linear(rgb))
    x, y, z = (_root(channel / white) for channel, white in zip(xyz.unbind(1), _WHITE, strict=True))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lightness(rgb: Tensor) -> Tensor:
    """The L of `rgb_to_lab` alone: sRGB [N, 3, …] in [0, 1] → [N, 1, …] in [0, 100]."""
    return 116 * _root(_mix(_TO_XYZ[1:2], _linear(rgb))) - 16


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours that sRGB cannot show are clamped to [0, 1]."""
    lightness_, a, b = lab.unbind(1)
    y = (lightness_ + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    t = torch.where(f > _KNEE ** (1 / 3), f**3, (f - _SHIFT) / _SLOPE)
    xyz = torch.stack([channel * white for channel, white in zip(t.unbind(1), _WHITE, strict=True)], dim=1)
    inverse = torch.tensor(_TO_XYZ, dtype=torch.float64).inverse().tolist()
    linear = _mix(inverse, xyz).clamp(0, 1)
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp(0, 1)


@cache
def in_gamut(step: int = 10) -> tuple[tuple[int, int], ...]:
    """Points (a, b) of a grid that the colours of sRGB need: the four around each of them; in order.

    Looked at along the lightness, all colours hide behind the surface of sRGB's cube: its six faces in 8 bits
    will do.
    """
    with torch.device("cpu"):  # whatever device a network is built on: points are numbers
        level = torch.arange(256, dtype=torch.float64) / 255
        face = torch.cartesian_prod(level, level)  # [65536, 2]
        ends = [torch.full_like(face[:, :1], end) for end in (0, 1)]
        faces = [torch.cat([face[:, :i], end, face[:, i:]], dim=1) for i in range(3) for end in ends]
        ab = rgb_to_lab(torch.cat(faces))[:, 1:]  # [6 · 65536, 2]
        cells = (ab / step).floor().to(torch.int64).unique(dim=0)
        corners = torch.cat([cells + torch.tensor(corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))])
        return tuple((a * step, b * step) for a, b in corners.unique(dim=0).tolist())


def as_input(lightness_: Tensor) -> Tensor:
    """L [N, 1, H, W] as what a network sees of it: three equal channels in [-1, 1], [N, 3, H, W]."""
    return (lightness_ / 50 - 1).expand(-1, 3, -1, -1)


class Lightness(Backbone):
    """A backbone that is shown the lightness of images only; what comes in are colours, as everywhere.

    Its options carry the normalisation, so that `backbone(name, image_size=…, **options)` rebuilds it as any
    other, and every use of it, with trained weights or random ones, sees lightness alone.
    `mean` and `std` are those of the normalisation of the images that come in, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Backbone, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.name, self.image_size, self.dim = network.name, network.image_size, network.dim
        self.patch_size, self.kind, self.class_token = network.patch_size, network.kind, network.class_token
        self.options = {**network.options, "lightness": {"mean": list(mean), "std": list(std)}}
        for key, values in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(list(values)).view(1, 3, 1, 1), persistent=False)

    def tokens(
        self, x: Tensor, keep: Tensor | None = None, mask: Tensor | None = None, prefix: bool = False
    ) -> Tensor:
        """See `Backbone.tokens`."""
        return self.network.tokens(self._seen(x), keep=keep, mask=mask, prefix=prefix)

    def maps(self, x: Tensor) -> Tensor:
        """See `Backbone.maps`."""
        return self.network.maps(self._seen(x))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone.features`."""
        return self.network.features(self._seen(x))

    def last_blocks(self, x: Tensor, count: int, pool: str = "encoder") -> Tensor:
        """See `Backbone.last_blocks`."""
        return self.network.last_blocks(self._seen(x), count, pool)

    def blocks_and_norm(self) -> tuple[Sequence[nn.Module], nn.Module] | None:
        """The network's."""
        return self.network.blocks_and_norm()

    def learn_mask_token(self) -> None:
        """See `Backbone.learn_mask_token`."""
        self.network.learn_mask_token()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The network's layers; its parameters are called `network.…` here."""
        return {key: below("network", each) for key, each in self.network.group_matcher(coarse).items()}

    def no_weight_decay(self) -> set[str]:
        """The network's."""
        return {f"network.{name}" for name in self.network.no_weight_decay()}

    def _seen(self, x: Tensor) -> Tensor:
        return as_input(lightness((x * self.std + self.mean).clamp(0, 1)))


def _linear(rgb: Tensor) -> Tensor:
    """Undo sRGB's curve."""
    rgb = rgb if rgb.dtype == torch.float64 else rgb.float()
    curved = ((rgb + 0.055) / 1.055) ** 2.4
    return torch.where(rgb > 0.04045, curved, rgb / 12.92)


def _root(t: Tensor) -> Tensor:
    return torch.where(t > _KNEE, t.clamp(min=_KNEE) ** (1 / 3), _SLOPE * t + _SHIFT)


def _mix(matrix: Sequence[Sequence[float]], x: Tensor) -> Tensor:
    """A matrix times the channels, by sums: autocast would make a product of matrices in half precision."""
    red, green, blue = x.unbind(1)
    return torch.stack([r * red + g * green + b * blue for r, g, b in matrix], dim=1)
