"""Jigsaw puzzles: nine tiles of an image are shuffled; which of a set of permutations was it?

Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV 2016,
arXiv:1603.09246. ImageNet, linear, as others measured: AlexNet 34.0 on conv3 (Gidaris et al. 2018), ResNet-50 45.7
(Goyal et al. 2019).

Settings are the official code's (solver_cfn_jps.prototxt, train_val_cfn_jps.prototxt): SGD at .01 with a batch of 256,
weight decay 5e-4, a tenth of the rate at 100, 200 and 300 of 350 thousand iterations; cells of 85 px with a tile of
64 px anywhere within; fc6 of 1024 for each tile, fc7 of 4096 for the nine together. Where it differs:

- The permutations. Algorithm 1 adds the one whose mean distance to those chosen is largest. The published set of 100
  has a mean of 8.08 and two that differ in 2 places only. Here the smallest distance comes first, the mean second:
  the mean is the same, the smallest distance 6. The paper takes 1000 (here the mean is 8.01, the smallest distance 5).
- Tiles are normalised by mean and deviation of each channel, as the paper says; the code subtracts the mean only, its
  successor (caffe-master-jps++) divides by a deviation for all channels.
- Channels are shifted by up to 2 px, as in the paper and the successor, but not those of grey images.
- Batch norm stands for dropout in the head, as in VISSL.
- conv1 has stride 2 in the paper while puzzles are solved and 4 afterwards: tiles are seen enlarged. Here `tile_size`
  says how large. As they are cut, tiles of small images would be too small for any network.
- `grid: 2` makes puzzles of four tiles: a ninth of a small image, such as a digit, shows hardly a stroke.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core.device import to_device
from sslpipe.core.distributed import rank, world_size
from sslpipe.losses import label_cross_entropy
from sslpipe.methods.base.config import SMALL_ADAMW, MethodConfig, OptimizerConfig
from sslpipe.methods.base.method import Backbone, Clock, Method, Preparation, Scale, Step, View
from sslpipe.methods.base.pictures import GREY, IMAGES, plain, sheet
from sslpipe.networks.heads import mlp

CELL, TILE, SHIFT = 85, 64, 2  # the paper's pixels; at other sizes all keep their proportions
SMALLEST = 16  # pixels at which tiles are shown to the backbone at least


class Jigsaw(Method):
    """L = −log p(S | A_σ(1), …, A_σ(9)): from the tiles A in the order of σ to which permutation it was (Sec. 3.2).

    In shapes, G is the number of tiles: nine, or four.
    """

    class Config(MethodConfig):
        grid: Literal[2, 3] = Field(3, description="tiles across and down; 2 for small images")
        permutations: int = Field(1000, ge=2, le=5000, description="of four tiles there are 24")
        permutation_seed: int = Field(0, ge=0, description="another seed, another set of permutations")
        tile_size: int | None = Field(
            None, ge=4, description="side at which tiles are shown to the backbone; null: as cut, 16 at least"
        )
        tile_features: int = Field(1024, ge=1, description="fc6")
        hidden: int = Field(4096, ge=1, description="fc7")
        optimizer: OptimizerConfig = OptimizerConfig(
            name="sgd", lr=0.01, rule="linear", weight_decay=5e-4, momentum=0.9,
            schedule="steps", milestones=(2 / 7, 4 / 7, 6 / 7), warmup_epochs=0,
        )  # fmt: skip

        @model_validator(mode="after")
        def _enough(self) -> Self:
            tiles = self.grid**2
            if self.permutations > (most := math.factorial(tiles)):
                raise ValueError(f"permutations is {self.permutations}, but {tiles} tiles have only {most}")
            return self

    paper = "Noroozi and Favaro, ECCV 2016, arXiv:1603.09246"
    small = {
        "grid": 2,  # the paper's 3 makes tiles of a digit that show hardly a stroke
        "permutations": 24,  # all of four tiles
        "tile_features": 128, "hidden": 512,
        # Cut out as it is: interpolation gives puzzles away.
        "views": {"size": 26, "scale": [0.87, 0.87], "rotation": 0.0},
        "optimizer": SMALL_ADAMW,
    }  # fmt: skip
    # No transformer: its positions are those of the whole image.
    takes = ("resnet", "cnn")
    needs = "images larger than the puzzle"
    scales = (
        Scale(batch=256, epochs=70, source="350 000 iterations of 256 images, solver_cfn_jps.prototxt"),
    )

    permutations: Tensor

    def __init__(self, backbone: Backbone, config: Config) -> None:
        super().__init__(backbone, config)
        self.tile_size, self.grid = config.tile_size, config.grid
        shown = config.tile_size or max(SMALLEST, backbone.image_size * TILE // (self.grid * CELL))
        self.check_parts(shown, "tiles", "tile_size to what it can, or pretrain.backbone to a ResNet")
        chosen = distant_permutations(config.permutations, config.permutation_seed, self.grid**2)
        self.register_buffer("permutations", torch.from_numpy(chosen.copy()))  # [S, G]
        d = config.tile_features
        self.fc6 = nn.Sequential(mlp(backbone.dim, d, d, layers=1, last_norm="affine"), nn.ReLU(inplace=True))
        self.fc78 = mlp(self.grid**2 * d, config.hidden, config.permutations)

    def prepare(self, preparation: Preparation) -> None:
        """Say so where views are enlarged: the traces of interpolation tell where a tile was."""
        (spec,) = preparation.recipe.views
        crop = int(preparation.reader.resolution * spec.scale[0] ** 0.5)
        if crop < spec.size:
            print(
                f"pretrain: crops of {crop} pixels are enlarged to puzzles of {spec.size}, which leaves traces of "
                "where a tile was: a smaller views.size or a larger views.recipe.scale makes the puzzle honest",
                flush=True,
            )

    def step(self, views: list[View], clock: Clock) -> Step:
        """One batch: one permutation for each image; all tiles go through the backbone together."""
        tiles, label = self._puzzle(views[0], clock.generator)  # [N, G, 3, t, t], [N]
        scores = self._solve(tiles)  # [N, S]
        accuracy = (scores.detach().argmax(1) == label).float().mean()
        return Step(label_cross_entropy(scores, label), {"accuracy": accuracy})

    def _puzzle(self, view: View, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, tiles = view.pixels, self.grid**2
        cell, tile, shift = _sizes(x.shape[2], self.grid)
        draw = partial(_draw, x, generator)
        label = draw(len(self.permutations))  # [N]
        offset = draw(cell - tile - shift + 1, tiles, 2)  # [N, G, 2], in its cell: so gaps differ
        shifts = draw(shift + 1, tiles, 3, 2)  # [N, G, 3, 2], a channel's own: against chromatic aberration
        if shift:
            shifts = shifts * _coloured(view)[:, None, None, None]
        return cut(x, self.permutations[label], offset, shifts, tile), label

    def _solve(self, tiles: Tensor) -> Tensor:
        """Logits of the permutations: [N, G, 3, t, t] → [N, S]."""
        x = normalised(tiles).flatten(0, 1)  # [GN, 3, t, t]
        size = self.tile_size or max(SMALLEST, x.shape[2])
        if size != x.shape[2]:
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        h = self.fc6(self.backbone(x))  # [GN, d], the same weights for each tile
        return self.fc78(h.view(len(tiles), -1))

    @torch.no_grad()
    def pictures(self, views: list[View]) -> Iterator[tuple[str, Tensor]]:
        """Rows of the image, its tiles as they were shown, and as the prediction puts them."""
        view = views[0]
        tiles, _ = self._puzzle(view, torch.Generator().manual_seed(0))
        order = self.permutations[self._solve(tiles).argmax(1)].tolist()
        x = plain(view.pixels[:IMAGES], view).cpu()
        tiles = plain(tiles[:IMAGES].flatten(0, 1), view).cpu().unflatten(0, (-1, self.grid**2))
        shown, arranged = torch.full_like(x, GREY), torch.full_like(x, GREY)
        cell, tile, _ = _sizes(x.shape[2], self.grid)
        for i, k in itertools.product(range(len(x)), range(self.grid**2)):
            for canvas, at in ((shown, k), (arranged, order[i][k])):
                top, left = (cell * number + (cell - tile) // 2 for number in divmod(at, self.grid))
                canvas[i, :, top : top + tile, left : left + tile] = tiles[i, k]
        yield "puzzles", sheet([x, shown, arranged])


@cache
def distant_permutations(count: int, seed: int, tiles: int = 9) -> np.ndarray:
    """Permutations of G tiles that differ in many places: int64 [count, G].

    Greedy (Algorithm 1): the first of all G! in an order drawn by the seed, then again and again the one whose
    smallest distance to those chosen is largest, and of these the one whose mean distance is.
    """
    every = np.array(list(itertools.permutations(range(tiles))), dtype=np.uint8)
    # Sorting raw words: numpy promises never to change these.
    every = every[np.argsort(np.random.Philox(key=seed).random_raw(len(every)), kind="stable")]
    columns = np.ascontiguousarray(every.T)  # [G, G!]
    nearest, total = np.full(len(every), tiles, dtype=np.uint8), np.zeros(len(every), dtype=np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = np.zeros_like(nearest)  # Hamming's, [G!]
        for column in columns:
            distance += column != column[chosen[-1]]
        total += distance
        np.minimum(nearest, distance, out=nearest)
        chosen.append(int(np.argmax(nearest * np.int32(tiles * count) + total)))
    return every[chosen].astype(np.int64)


def cut(x: Tensor, order: Tensor, offset: Tensor, shifts: Tensor, tile: int) -> Tensor:
    """The tiles of each image in the order of its permutation: [N, 3, S, S], of G square cells → [N, G, 3, tile, tile].

    Args:
        x: images.
        order: int64 [N, G], the cell that each tile comes from.
        offset: int64 [N, G, 2], where in its cell a tile begins, down and across.
        shifts: int64 [N, G, 3, 2], what is added for each channel.
        tile: side of a tile.
    """
    side = math.isqrt(order.shape[1])  # cells across and down
    corner = torch.stack([order // side, order % side], dim=-1) * (x.shape[2] // side)  # [N, G, 2]
    start = (corner + offset)[:, :, None] + shifts  # [N, G, 3, 2]
    span = start[..., None] + torch.arange(tile, device=x.device)  # [N, G, 3, 2, t]
    rows, columns = span[..., 0, :, None], span[..., 1, None, :]  # [N, G, 3, t, 1], [N, G, 3, 1, t]
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(3, device=x.device).view(3, 1, 1)
    return x[image, channel, rows, columns]


def normalised(tiles: Tensor) -> Tensor:
    """Each tile's channels to mean 0 and deviation 1, that no brightness or contrast tells where it was.

    A hundredth of the data's deviation is added to a tile's own: flat tiles stay flat.
    """
    tiles = tiles if tiles.dtype == torch.float64 else tiles.float()
    variance, mean = torch.var_mean(tiles, dim=(3, 4), keepdim=True, correction=0)
    return (tiles - mean) / (variance + 1e-4).sqrt()


def _draw(x: Tensor, generator: torch.Generator, bound: int, *shape: int) -> Tensor:
    """Whole numbers below `bound` for this rank's images x, int64 [N, …]: one process draws what several do."""
    n = len(x)
    drawn = torch.randint(bound, (world_size() * n, *shape), generator=generator, device="cpu")
    return to_device(drawn[rank() * n : (rank() + 1) * n], x.device)


def _sizes(side: int, grid: int) -> tuple[int, int, int]:
    """Sides of cell and tile, and the largest shift of a channel, for views of `side` pixels, `grid` cells across."""
    cell = side // grid
    tile, shift = round(cell * TILE / CELL), round(cell * SHIFT / CELL)
    if cell < 4:
        raise UserError(
            f"jigsaw cannot cut views of {side} pixels into tiles with gaps: set views.size to {4 * grid} or more"
        )
    return cell, tile, shift


def _coloured(view: View) -> Tensor:
    """Which images have colours: bool [N]."""
    red, green, blue = plain(view.pixels, view).unbind(1)
    spread = torch.maximum((red - green).abs(), (green - blue).abs())  # [N, S, S]
    return spread.amax(dim=(1, 2)) > 0.5 / 255
