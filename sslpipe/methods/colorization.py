"""Colorization: from the lightness of an image to its colours.

Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016, arXiv:1603.08511. ImageNet, linear: AlexNet 32.6 on conv4
(31.5 in Gidaris et al. 2018), ResNet-50 39.6 (Goyal et al. 2019).

Settings are those of Sec. 2 and the official code's (train/solver.prototxt, models/colorization_train_val_v2.prototxt,
resources/caffe_traininglayers.py): Adam at 3e-5 with (.9, .99), weight decay .001, a tenth of the rate after 225 and
450 of 500 thousand iterations (in the paper about a third after 200 and 375 of 450); λ .5, σ 5, T .38; colours of every
fourth pixel. As in the code, and unlike in the paper, images without colour do not count. Where the code differs:

- It makes targets of 10 neighbours, the paper, as here, of 5; the further five have 5 % of the share.
- Its weight decay is Adam's own, here it is AdamW's.
- Its VGG-like network keeps an eighth of the resolution. Here the backbone's maps, as coarse as they are, go through a
  light decoder (`sslpipe.networks.decoders.MapDecoder`), which is thrown away.
- The distribution of colours that rare ones are weighed by is the data's own, not ImageNet's.

The backbone is shown lightness alone, as three equal channels, and so is the encoder that comes out: it takes colours,
as every encoder does, and looks at their lightness (`sslpipe.networks.lab.Lightness`).

`target: regression` predicts a and b themselves by least squares, the baseline that the paper argues against (eq. 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sslpipe.data.loader import Reader
from sslpipe.losses import rebalanced_cross_entropy
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Preparation, Scale, Step, View
from sslpipe.methods.base.pictures import IMAGES, plain, sheet
from sslpipe.networks.decoders import MapDecoder
from sslpipe.networks.lab import Lightness, as_input, in_gamut, lab_to_rgb, lightness, rgb_to_lab
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD

GRID = 10  # of a and b
# The authors' list has four points more than the colours of sRGB need, at the rim. With them Q is the paper's 313.
RIM = ((40, 90), (100, -90), (100, -10), (100, 0))
COLOURED = 5.0  # an image none of whose a and b is farther from 0 is grey
SCALE = 110.0  # of a and b, in regression
SAMPLE, SAMPLE_SIDE = 2000, 32  # the colours of so many images are counted, at so many pixels a side


class Colorization(Method):
    """L = −(1/hw) Σ_hw v(Z_hw) Σ_q Z_hwq log Ẑ_hwq, the mean over images; v weighs by rarity (eq. 2–4)."""

    class Config(MethodConfig):
        target: Literal["classes", "regression"] = Field(
            "classes", description="what is predicted of a and b"
        )
        neighbours: int = Field(5, ge=1, le=25, description="colours that a cell's soft target is made of")
        sigma: float = Field(
            5.0, gt=0, description="σ of targets, and of smoothing the distribution of colours"
        )
        uniform: float = Field(0.5, ge=0, le=1, description="λ: 1 gives all colours the same weight")
        temperature: float = Field(0.38, gt=0, description="T of the annealed mean; for pictures only")
        resolution: int | None = Field(
            None, ge=1, description="side of the predicted colours; null: a quarter of the image's"
        )
        decoder_width: int = Field(256, ge=1, description="width of the decoder")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="adamw", lr=3e-5, rule="absolute", weight_decay=1e-3, betas=(0.9, 0.99),
            schedule="steps", milestones=(0.45, 0.9), warmup_epochs=0,
        )  # fmt: skip

    paper = "Zhang et al., ECCV 2016, arXiv:1603.08511"
    small = {"decoder_width": 64, "optimizer": SMALL_ADAMW}
    needs = "coloured images"
    scales = (Scale(batch=40, epochs=16, source="500 000 iterations of 40 images, train/solver.prototxt"),)

    colours: Tensor
    number: Tensor
    rarity: Tensor

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.config = config
        self.statistics = IMAGENET_MEAN, IMAGENET_STD  # of the views, as soon as they are known
        colours = torch.tensor(palette(), dtype=torch.float32)  # [Q, 2]
        self.register_buffer("colours", colours, persistent=False)
        self.register_buffer("number", _numbers(), persistent=False)
        self.register_buffer("rarity", torch.ones(len(colours)))  # [Q], w; the data's from `prepare` on
        side = config.resolution or max(1, backbone.image_size // 4)
        out = len(colours) if config.target == "classes" else 2
        self.decoder = MapDecoder(backbone.dim, out, side=side, width=config.decoder_width)

    @property
    def encoder(self) -> Backbone:
        """The backbone, shown the lightness of what comes in."""
        return Lightness(self.backbone, *self.statistics).to(self.colours.device)

    def prepare(self, preparation: Preparation) -> None:
        """Gather the distribution of the data's colours, and weigh each colour by its rarity."""
        (spec,) = preparation.recipe.views
        self.statistics = spec.mean, spec.std
        ab = _sample(preparation.reader)  # [n, 2, s, s]
        coloured = _coloured(ab)  # [n]
        if not coloured.any():
            print(
                "pretrain: all images are grey, so colorization has nothing to learn from and its loss is 0: "
                "set pretrain.method to another",
                flush=True,
            )
        elif coloured.float().mean() < 0.5:
            grey = 1 - float(coloured.float().mean())
            print(f"pretrain: {grey:.0%} of the images are grey and teach colorization nothing", flush=True)
        used = ab[coloured].transpose(0, 1).flatten(1).T  # [M, 2]
        a, b = (used / GRID).round().long().unbind(1)
        counts = self.number.cpu()[a, b].bincount(minlength=len(self.colours))
        self.rarity.copy_(weights(counts, self.colours.cpu(), self.config.sigma, self.config.uniform))

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: the backbone is shown L, the decoder predicts a and b."""
        view = views[0]
        self.statistics = view.mean, view.std
        lab = rgb_to_lab(plain(view.pixels, view))  # [N, 3, S, S]
        prediction = self._predict(lab[:, :1])  # [N, Q or 2, h, w]
        ab = F.interpolate(lab[:, 1:], size=prediction.shape[2:], mode="nearest")  # [N, 2, h, w]
        coloured = _coloured(ab)  # [N]
        numbers = {"coloured": coloured.float().mean()}
        if self.config.target == "regression":
            error = (prediction.to(ab.dtype) - ab / SCALE).square().sum(dim=1)  # [N, h, w]
            return Step(0.5 * (error * coloured[:, None, None]).mean(), numbers)
        classes, shares = self._soft(ab)  # [N, K, h, w] each, nearest first
        v = self.rarity[classes[:, 0]] * coloured[:, None, None]  # [N, h, w]
        right = (prediction.detach().argmax(1) == classes[:, 0]) & coloured[:, None, None]
        cells = coloured.sum() * right[0].numel()
        numbers["accuracy"] = right.sum() / cells.clamp(min=1)
        return Step(rebalanced_cross_entropy(prediction, classes, shares, v), numbers)

    def _predict(self, lightness_: Tensor) -> Tensor:
        return self.decoder(self.backbone.maps(as_input(lightness_)))

    def _soft(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Z: the nearest colours of each cell and their shares, by a Gaussian of their distance (Sec. 2.1).

        They are looked for among the 5 x 5 points around: what is farther has no share worth the name.
        """
        step = torch.arange(-2, 3, device=ab.device)
        window = torch.cartesian_prod(step, step)[:, :, None, None]  # [25, 2, 1, 1]
        around = (ab / GRID).round().long()[:, None] + window  # [N, 25, 2, h, w]
        squares = (ab[:, None] - GRID * around).square().sum(2)  # [N, 25, h, w]
        classes = self.number[around[:, :, 0], around[:, :, 1]]  # [N, 25, h, w]
        squares = squares.masked_fill(classes < 0, torch.inf)
        squares, nearest = squares.topk(self.config.neighbours, dim=1, largest=False)  # [N, K, h, w]
        shares = (-squares / (2 * self.config.sigma**2)).softmax(dim=1)
        return classes.gather(1, nearest).clamp(min=0), shares

    def _annealed_mean(self, prediction: Tensor) -> Tensor:
        """a and b of a prediction: the mean of a distribution sharpened by T (eq. 5): [N, 2, h, w]."""
        if self.config.target == "regression":
            return prediction * SCALE
        p = (prediction / self.config.temperature).softmax(dim=1)
        return torch.einsum("nqhw,qc->nchw", p, self.colours)

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Rows of what the backbone is shown, the predicted colours on it, and the image."""
        rgb = plain(views[0].pixels[:IMAGES], views[0])
        seen = lightness(rgb)  # [n, 1, S, S]
        ab = self._annealed_mean(self._predict(seen).float())
        ab = F.interpolate(ab, size=rgb.shape[2:], mode="bilinear", align_corners=False)
        rows = [lab_to_rgb(torch.cat([seen, colour], dim=1)) for colour in (torch.zeros_like(ab), ab)]
        yield "colorizations", sheet([*rows, rgb])


def palette() -> list[tuple[int, int]]:
    """The Q colours (a, b) there are, in order: the 313 points of the paper's grid."""
    return sorted({*in_gamut(GRID), *RIM})


def weights(counts: Tensor, colours: Tensor, sigma: float, uniform: float) -> Tensor:
    """w ∝ ((1 − λ) p̃ + λ/Q)⁻¹, scaled so that its mean over the data is 1 (eq. 4): float64 [Q].

    `counts` [Q] is how often each colour, its a and b in `colours` [Q, 2], is seen; where none is, all weights are
    equal. `sigma` is of the Gaussian that makes p̃ of the counted p, `uniform` is λ.
    """
    p = counts.double() / counts.sum().clamp(min=1)
    if not counts.any():
        return torch.ones_like(p)
    kernel = (-torch.cdist(colours.double(), colours.double()).square() / (2 * sigma**2)).exp()  # [Q, Q]
    p = (kernel / kernel.sum(dim=0)) @ p  # p̃: what is seen of a colour is shared with those around it
    w = 1 / ((1 - uniform) * p + uniform / len(p))
    return w / (p * w).sum()


def _sample(reader: Reader) -> Tensor:
    """a and b of images all over the split, at pixels all over each: [n, 2, s, s]."""
    n = min(SAMPLE, len(reader))
    at = (torch.arange(SAMPLE_SIDE) + 0.5) / SAMPLE_SIDE
    found = []
    for part in (torch.arange(n) * len(reader) // n).split(100):
        batch = reader.gather(part)
        rows, columns = ((side[:, None] * at).long() for side in batch.size.unbind(1))  # [n, s]
        image = torch.arange(len(part))[:, None, None]
        pixels = batch.pixels.cpu()[image, rows[:, :, None], columns[:, None]]  # [n, s, s, 3]
        found.append(rgb_to_lab(pixels.permute(0, 3, 1, 2) / 255)[:, 1:])
    return torch.cat(found)


def _numbers() -> Tensor:
    """The number in the palette of the point (a, b) at [a / 10, b / 10], from the end where below 0; −1 for none.

    The point that rounding a colour gives always has one.
    """
    table = torch.full((64, 64), -1)
    for number, (a, b) in enumerate(palette()):
        table[a // GRID, b // GRID] = number
    return table


def _coloured(ab: Tensor) -> Tensor:
    """Which images have colour: [N, 2, h, w] → bool [N]."""
    return (ab.abs() > COLOURED).flatten(1).any(dim=1)
