"""A batch of canvases → the views a method trains on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslpipe.core.device import to_device
from sslpipe.data.batch import Batch
from sslpipe.data.buffers import Buffers
from sslpipe.views import drawing, geometry, masks
from sslpipe.views.recipe import Recipe, ViewSpec
from sslpipe.views.render.choice import choose
from sslpipe.views.table import Table
from sslpipe.views.view import View


class ViewEngine:
    """Makes the views of a recipe; a view depends on (seed, epoch, sample's index, number of the view) alone.

    Args:
        recipe: what to make.
        seed: of the run.
        device: where the views are made and stay.
        renderer: "auto" or a name; see `render.choice.choose`.
        dtype: of the pixels: float32, bfloat16 or float16. Rounded to the nearest from float32.
        memory_format: of the pixels: `torch.contiguous_format` or `torch.channels_last`.

    Attributes:
        renderer: the name of the renderer in use.

    Raises:
        UserError: no such renderer, or it cannot work here.
    """

    def __init__(
        self, recipe: Recipe, *, seed: int, device: str | torch.device = "cpu", renderer: str = "auto",
        dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:  # fmt: skip
        self.recipe = recipe
        self.seed = seed
        self.device = torch.device(device)
        self.dtype, self.memory_format = dtype, memory_format
        self.renderer, self.render = choose(renderer, self.device)
        self._numbers = _numbers(recipe)
        self._buffers = Buffers()
        # One for all epochs: torch's allocator keeps memory for each stream there was.
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __call__(self, batch: Batch, epoch: int) -> list[View]:
        """The views of a batch: the first spec's `count`, then the second's, …

        The views of neighbouring specs of one size are consecutive slices of one buffer: a network that takes
        them together can join them again without a copy.

        The batch may be on any device; epochs are counted from 0, and each has other views.
        """
        pixels, index = batch.pixels_on(self.device), to_device(batch.index, self.device)
        indices, size = batch.index.numpy(), batch.size.numpy()
        views: list[View] = []
        for side, group in groupby(self.recipe.views, lambda spec: spec.size):
            specs = list(group)
            buffer = self._buffer((len(batch) * sum(spec.count for spec in specs), 3, side, side))
            for spec in specs:
                out, buffer = buffer.tensor_split([len(batch) * spec.count])
                named = self._named(spec, indices, epoch)
                table = self._table(spec, named, size)
                self.render(pixels, table, spec, out)
                views.extend(self._views(spec, table, out, index, named))
        return views

    def ahead(self, batches: Iterable[Batch], epoch: int) -> Iterator[tuple[Batch, list[View]]]:
        """Each batch with its views; on a GPU the next one's are made on a stream of their own meanwhile.

        Nothing waits on the host: the caller's stream waits for the views' stream, on the device.
        """
        if self._stream is None:
            for batch in batches:
                yield batch, self(batch, epoch)
            return
        waiting = None
        for batch in batches:
            with torch.cuda.stream(self._stream):
                made = (batch, self(batch, epoch), self._stream.record_event())
            if waiting is not None:
                yield _hand_over(*waiting)
            waiting = made
        if waiting is not None:
            yield _hand_over(*waiting)

    def tables(
        self, spec: ViewSpec, index: NDArray[np.int64], size: NDArray[np.int32], epoch: int
    ) -> list[Table]:
        """The parameters of a spec's views, a table each."""
        table, n = self._table(spec, self._named(spec, index, epoch), size), len(index)
        return [table[k * n : (k + 1) * n] for k in range(spec.count)]

    def _named(self, spec: ViewSpec, indices: NDArray[np.int64], epoch: int) -> dict[str, Any]:
        """What names the random numbers of all views of a spec, the first view's rows first."""
        numbers = np.array(self._numbers[spec.name])
        view, index = np.repeat(numbers, len(indices)), np.tile(indices, spec.count)
        return {"seed": self.seed, "epoch": epoch, "index": index, "view": view}

    def _table(self, spec: ViewSpec, named: dict[str, Any], size: NDArray[np.int32]) -> Table:
        """The parameters of all views of a spec, the first view's rows first."""
        table = drawing.draw(spec, **named, size=np.tile(size, (spec.count, 1)))
        return replace(table, source=np.tile(np.arange(len(size)), spec.count))

    def _views(
        self, spec: ViewSpec, table: Table, pixels: Tensor, index: Tensor, named: dict[str, Any]
    ) -> Iterator[View]:
        """The views of a spec from the rows of all of them; the `index` is that of one."""
        mask = None if spec.mask is None else masks.draw(spec.mask, view_size=spec.size, **named)
        maps = self._upload(geometry.to_canvas(table, spec.size).astype(np.float32))
        uploaded = None if mask is None else self._upload(mask)
        for k in range(spec.count):
            rows = slice(k * len(index), (k + 1) * len(index))
            most = None if mask is None or mask.ndim != 2 else int(mask[rows].sum(axis=1).max(initial=0))
            yield View(
                pixels=pixels[rows], index=index, masks=None if uploaded is None else uploaded[rows],
                to_canvas=maps[rows], mean=spec.mean, std=spec.std, name=spec.name, table=table[rows], hidden=most,
            )  # fmt: skip

    def _buffer(self, shape: tuple[int, int, int, int]) -> Tensor:
        if self.device.type == "cpu":
            return self._buffers.take(shape, self.dtype, self.memory_format)
        return torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=self.memory_format)

    def _upload(self, array: NDArray[Any]) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)


def _hand_over(batch: Batch, views: list[View], made: torch.cuda.Event) -> tuple[Batch, list[View]]:
    """Views made on another stream, safe to use and to free on this one."""
    here = torch.cuda.current_stream(views[0].pixels.device)
    here.wait_event(made)
    for view in views:
        for tensor in (view.pixels, view.index, view.to_canvas, view.masks):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(here)
    return batch, views


def _numbers(recipe: Recipe) -> dict[str, range]:
    """The numbers of each spec's views, which name their random numbers: a sharing spec has the other's."""
    numbers: dict[str, range] = {}
    first = 0
    for spec in recipe.views:
        if spec.share is None:
            numbers[spec.name] = range(first, first + spec.count)
            first += spec.count
    return {spec.name: numbers[spec.share or spec.name] for spec in recipe.views}
