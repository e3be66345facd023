"""Rendering on CPUs: the reference's arithmetic as compiled loops, all cores, nothing in Python per view.

The loops (view.py and what it calls) are compiled by numba, once for a machine: no C++ compiler is needed. `make setup`
does it, `python -m sslpipe.views.render.cpu` too.

Memory beside the result: for each thread 12 · (2 · S² + 24 · S) bytes and a little for views of S pixels a side
(1.3 MB at 224), and where the recipe turns pictures or colours them before the crop, 24 · R² for canvases of R
pixels a side (1.6 MB at 256). It is kept from call to call and does not grow.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslpipe.views.operations import ViewSpec
from sslpipe.views.render.cpu import view
from sslpipe.views.render.cpu.colour import STEPS
from sslpipe.views.render.cpu.vectors import LANES
from sslpipe.views.table import Table

_TURNS = 8  # a thread comes back for more about so often, since some views cost more than others

_kept = threading.local()
_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def render(pixels: Tensor, table: Table, spec: ViewSpec, out: Tensor | None = None) -> Tensor:
    """Render one view for each row of a table; as `reference.render`, to within 5e-6 before normalising."""
    if out is None:
        out = torch.empty(len(table), 3, spec.size, spec.size)
    if out.dtype == torch.float32 and out.is_contiguous():
        _render(np.ascontiguousarray(pixels.numpy()), table, spec, out.numpy())
        return out
    return out.copy_(render(pixels, table, spec))


def _render(canvases: NDArray[np.uint8], table: Table, spec: ViewSpec, out: NDArray[np.float32]) -> None:
    n = len(table)
    if n == 0:
        return
    rows = view.Rows(table.source, table.size, table.box, table.drawn)
    settings, lengths = _settings(spec), _lengths(table, spec, extent=canvases.shape[1])
    floats, threads = int(lengths.sum()), min(torch.get_num_threads(), n)
    counter, at_a_time = np.zeros(1, dtype=np.intp), max(1, n // (threads * _TURNS))

    def work() -> None:
        view.render_rows(canvases, rows, settings, _scratch(floats), lengths, out, counter, at_a_time)

    others = [_workers(threads - 1).submit(work) for _ in range(threads - 1)]
    work()  # in this thread too
    for other in others:
        other.result()


@lru_cache(maxsize=256)
def _settings(spec: ViewSpec) -> view.Settings:
    return view.Settings(
        steps=np.array([STEPS[step] for step in spec.order]),
        strengths=np.array(spec.jitter.strengths if spec.jitter else (0, 0, 0, 0), dtype=np.float32),
        half=spec.kernel // 2 if spec.blur else 0,
        cubic=spec.interpolation == "bicubic",
        rotates=spec.rotation > 0,
        fill=np.float32(spec.fill),
        mean=np.array(spec.mean, dtype=np.float32),
        inverse=1 / np.array(spec.std, dtype=np.float32),
    )


def _lengths(table: Table, spec: ViewSpec, extent: int) -> NDArray[np.intp]:
    """Of the pieces of `view.Scratch`, in its order; `extent` is the side of the canvases."""
    size, half, rotates = spec.size, spec.kernel // 2 if spec.blur else 0, spec.rotation > 0
    pitch = -(-size // LANES) * LANES
    height, width = (int(length) for length in table.box[:, 2:].max(axis=0))
    support = 2 if spec.interpolation == "bicubic" else 1
    # The most rows that one output row is made of, and the most inputs that a block of outputs reads.
    slots = min(height, int(2 * support * max(height / size, 1)) + 3)
    scale = width / size
    reaches = min(width, int((LANES - 1) * scale + 2 * support * max(scale, 1)) + 4)
    row, line = 3 * (extent + LANES), extent + pitch + 2 * half + 2 * LANES
    # Where nothing but rotation needs the image, it is one pixel wide.
    image = 3 * extent**2 if spec.order[0] != "crop" else 3 * extent if rotates else 0
    turned = image if rotates else 0
    y = 3 * (size + 2 * half) * pitch
    return np.array(
        [3 * size * pitch, y, slots * 3 * pitch, reaches * pitch, row, line, half + 1, image, turned], dtype=np.intp
    )  # fmt: skip


def _scratch(floats: int) -> NDArray[np.float32]:
    """This thread's working memory, zero at first."""
    kept: NDArray[np.float32] | None = getattr(_kept, "scratch", None)
    if kept is None or kept.size < floats:
        kept = _kept.scratch = np.zeros(floats, dtype=np.float32)
    return kept


def _workers(count: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked child has none of its parent's."""
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < count:
        _pool = (os.getpid(), count, ThreadPoolExecutor(count, thread_name_prefix="view-renderer"))
    return _pool[2]


def warm_up() -> None:
    """Compile the loops, or load them from the cache."""
    spec = ViewSpec(size=16, scale=(0.5, 1.0))
    box = np.array([[0, 0, 8, 8]], dtype=np.int32)
    render(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), Table.plain(box, box[:, 2:]), spec)
