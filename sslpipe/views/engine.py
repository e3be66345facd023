"""A batch of canvases → the views a method trains on."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sslpipe.data.batch import Batch
from sslpipe.errors import UserError
from sslpipe.views import geometry, masks, reference
from sslpipe.views import table as tables
from sslpipe.views.recipe import Colour, Recipe, ViewSpec
from sslpipe.views.table import Table

Renderer = Callable[[torch.Tensor, Table, ViewSpec], torch.Tensor]
"""(canvases uint8 [M, R, R, 3], table of N rows, spec) → float32 [N, 3, S, S], normalised."""

RENDERERS: dict[str, Renderer] = {"reference": reference.render}


@dataclass(frozen=True, eq=False)
class View:
    """One view of each image of a batch.

    Attributes:
        pixels: float32 [N, 3, S, S], normalised: `pixels * std + mean` is in [0, 1].
        index: int64 [N], the images' places in the split.
        masks: bool, true where hidden, or None. [N, P] with the patches row by row; [N, 1 + T, P] for
            multi-block masks: first what the context does not show, then each of the T targets.
        to_canvas: float32 [N, 2, 3]: pixel (x, y) of the view lies at `to_canvas @ (x, y, 1)` on its canvas.
            Whole numbers are centres of pixels on both sides, x to the right and y down.
        mean: of the normalisation.
        std: of the normalisation.
        name: of the ViewSpec.
    """

    pixels: torch.Tensor
    index: torch.Tensor
    masks: torch.Tensor | None
    to_canvas: torch.Tensor
    mean: Colour
    std: Colour
    name: str


class ViewEngine:
    """Makes the views of a recipe; a view depends on (seed, epoch, sample's index, number of the view) alone.

    Args:
        recipe: what to make.
        seed: of the run.
        device: where the views are made and stay.
        renderer: "auto" or a name of `RENDERERS`.

    Raises:
        UserError: no such renderer.
    """

    def __init__(
        self, recipe: Recipe, *, seed: int, device: str | torch.device = "cpu", renderer: str = "auto"
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.device = torch.device(device)
        self.render = _renderer(renderer)
        self._numbers = _numbers(recipe)

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        """The views of a batch: the first spec's `count`, then the second's, …

        The views of one spec are consecutive slices of one buffer: a network that takes them together can
        join them again without a copy.

        Args:
            batch: canvases, on any device.
            epoch: counted from 0; another epoch has other views.
        """
        index, size = batch.index.cpu().numpy(), batch.size.cpu().numpy()
        pixels = batch.pixels.to(self.device, non_blocking=True)
        place = batch.index.to(self.device, non_blocking=True)
        views = []
        for spec in self.recipe.views:
            views.extend(self._views(spec, pixels, place, index, size, epoch))
        return views

    def tables(
        self, spec: ViewSpec, index: NDArray[np.int64], size: NDArray[np.int32], epoch: int
    ) -> list[Table]:
        """The parameters of a spec's views, a table each."""
        return [
            tables.draw(spec, seed=self.seed, epoch=epoch, index=index, view=number, size=size)
            for number in self._numbers[spec.name]
        ]

    def _views(
        self,
        spec: ViewSpec,
        pixels: torch.Tensor,
        place: torch.Tensor,
        index: NDArray[np.int64],
        size: NDArray[np.int32],
        epoch: int,
    ) -> list[View]:
        n = len(index)
        table = Table.concatenate(self.tables(spec, index, size, epoch))
        buffer = self.render(pixels, table, spec)  # [count · N, 3, S, S]
        maps = (
            torch.from_numpy(geometry.to_canvas(table, spec.size)).float().to(self.device, non_blocking=True)
        )
        return [
            View(
                pixels=buffer[k * n : (k + 1) * n],
                index=place,
                masks=self._mask(spec, index, number, epoch),
                to_canvas=maps[k * n : (k + 1) * n],
                mean=spec.mean,
                std=spec.std,
                name=spec.name,
            )
            for k, number in enumerate(self._numbers[spec.name])
        ]

    def _mask(self, spec: ViewSpec, index: NDArray[np.int64], number: int, epoch: int) -> torch.Tensor | None:
        if spec.mask is None:
            return None
        mask = masks.draw(
            spec.mask, view_size=spec.size, seed=self.seed, epoch=epoch, index=index, view=number
        )
        return torch.from_numpy(mask).to(self.device, non_blocking=True)


def _numbers(recipe: Recipe) -> dict[str, range]:
    """The numbers of each spec's views, which name their random numbers: a sharing spec has the other's."""
    numbers: dict[str, range] = {}
    first = 0
    for spec in recipe.views:
        if spec.share is None:
            numbers[spec.name] = range(first, first + spec.count)
            first += spec.count
    return {spec.name: numbers[spec.share or spec.name] for spec in recipe.views}


def _renderer(name: str) -> Renderer:
    if name == "auto":
        return reference.render
    if name not in RENDERERS:
        known = ["auto", *RENDERERS]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
        raise UserError(f"views.renderer: there is no renderer {name}; {hint}")
    return RENDERERS[name]
