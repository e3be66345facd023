"""Patch masks, drawn from counters: random (MAE, SimMIM), blockwise (BEiT), multi-block (I-JEPA)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sslpipe.core.config import Config
from sslpipe.views import philox
from sslpipe.views.philox import below, uniform
from sslpipe.views.values import IncreasingRange, PartOfView, Range

_ATTEMPTS = 10  # placements tried for one block before the mask is left as it is


class PatchMask(Config):
    """Which patches of a view are hidden.

    Kinds:
        random: exactly ⌈ratio · patches⌉ (MAE, SimMIM), as squares of `unit` x `unit` patches.
        block: blocks of `min_block` patches or more, aspect within `aspect`, until at most ⌊ratio · patches⌋
            are hidden (BEiT's blockwise masking: 75 of 196 is ratio .383).
        multi_block: `targets` blocks that cover `target_scale` of the patches each, aspect within
            `target_aspect`, and one square context of `context_scale` without the targets but of
            `min_context` patches at least (I-JEPA). A sample's block sizes are its own, where the official
            code has one for the batch, since a view depends on nothing else in its batch.
    """

    kind: Literal["random", "block", "multi_block"] = "random"
    patch_size: int = Field(ge=1)
    ratio: float = Field(0.75, gt=0, lt=1)
    unit: int = Field(1, ge=1)
    min_block: int = Field(16, ge=1)
    aspect: IncreasingRange = (0.3, 1 / 0.3)
    targets: int = Field(4, ge=1)
    target_scale: PartOfView = (0.15, 0.2)
    target_aspect: IncreasingRange = (0.75, 1.5)
    context_scale: PartOfView = (0.85, 1.0)
    min_context: int = Field(4, ge=1)


def draw(
    mask: PatchMask, *, view_size: int, seed: int, epoch: int, index: NDArray[np.int64],
    view: int | NDArray[np.int64],
) -> NDArray[np.bool_]:  # fmt: skip
    """Draw the mask of one view of each sample, true where hidden.

    Args:
        mask: which kind and how much.
        view_size: side of the view in pixels, a multiple of the patch size.
        seed, epoch, index, view: as in `philox.words`.

    Returns:
        bool [N, P], patches row by row; [N, 1 + targets, P] for multi_block: what the context does not show,
        then each target. A row depends on (seed, epoch, sample's index, view) and the mask's settings alone.
    """
    side = view_size // mask.patch_size

    def words(first: int, count: int) -> NDArray[np.uint64]:
        return philox.words(index, seed=seed, epoch=epoch, view=view, first=philox.MASK + first, count=count)

    if mask.kind == "random":
        cells = side // mask.unit
        chosen = _random(words(0, -(-(cells**2) // 4))[:, : cells**2], mask.ratio)
        grid = chosen.reshape(-1, cells, cells)
        return grid.repeat(mask.unit, axis=1).repeat(mask.unit, axis=2).reshape(len(index), side**2)
    if mask.kind == "block":
        return _block(words, len(index), side, mask).reshape(len(index), side**2)
    return _multi_block(words(0, 2 + mask.targets), side, mask).reshape(len(index), 1 + mask.targets, side**2)


def _random(word: NDArray[np.uint64], ratio: float) -> NDArray[np.bool_]:
    """[N, P] with exactly ⌈ratio · P⌉ true: those with the smallest words."""
    count = hidden(ratio, word.shape[1])
    chosen = np.zeros(word.shape, dtype=bool)
    if count:
        smallest = np.argpartition(word, count - 1, axis=1)[:, :count]
        np.put_along_axis(chosen, smallest, True, axis=1)
    return chosen


def hidden(ratio: float, patches: int) -> int:
    """How many patches a random mask hides: all but ⌊(1 - ratio) · patches⌋, as MAE; the same as SimMIM's."""
    return math.ceil(ratio * patches - 1e-9)  # .6 · 5 is a little above 3 in binary


def _block(
    words: Callable[[int, int], NDArray[np.uint64]], n: int, side: int, mask: PatchMask
) -> NDArray[np.bool_]:
    """[N, side, side] BEiT's blocks: placed one after another until no more than the budget is hidden.

    A block is tried up to ten times: area uniform between `min_block` and what is left, log-aspect uniform;
    it is kept if it lies inside and hides between one patch and what is left. Every try reads words of its
    own, so samples go through their tries side by side without touching one another.
    """
    budget = math.floor(mask.ratio * side**2 + 1e-9)
    grid = np.zeros((n, side, side), dtype=bool)
    left = np.full(n, budget)
    failures = np.zeros(n, dtype=np.int64)
    step = 0
    while (active := (left > 0) & (failures < _ATTEMPTS)).any():
        word = words(step, 1)
        u = uniform(word)
        area = mask.min_block + (left - mask.min_block) * u[:, 0]
        sides = _sides(area, mask.aspect, u[:, 1])
        fits = (sides < side).all(axis=1)
        corner = below(word[:, 2:], np.maximum(side - sides + 1, 1))
        block = _rectangles(corner, sides, side)
        new = (block & ~grid).sum(axis=(1, 2))
        kept = active & fits & (new > 0) & (new <= left)
        grid |= block & kept[:, None, None]
        left = left - new * kept
        failures = np.where(kept, 0, failures + 1)
        step += 1
    return grid


def _multi_block(word: NDArray[np.uint64], side: int, mask: PatchMask) -> NDArray[np.bool_]:
    """[N, 1 + T, side, side] I-JEPA's context and targets.

    The targets of a sample have one size; the context is a square without what the targets cover. Where
    that leaves fewer than `min_context` patches, the last targets are not taken out, as in its official code.
    """
    n, u = len(word), uniform(word)
    low, high = mask.target_scale
    target = np.clip(_sides((low + (high - low) * u[:, 0]) * side**2, mask.target_aspect, u[:, 1]), 1, side)
    low, high = mask.context_scale
    context = np.clip(_sides((low + (high - low) * u[:, 2]) * side**2, (1.0, 1.0), u[:, 3]), 1, side)
    shown = _rectangles(below(word[:, 4:6], side - context + 1), context, side)
    masks = np.empty((n, 1 + mask.targets, side, side), dtype=bool)
    for k in range(mask.targets):
        corner = below(word[:, 8 + 4 * k : 10 + 4 * k], side - target + 1)
        masks[:, 1 + k] = _rectangles(corner, target, side)
    covered = np.logical_or.accumulate(masks[:, 1:], axis=1)  # [N, T, side, side] by the first k + 1
    visible = shown[:, None] & ~covered
    enough = (visible.sum(axis=(2, 3)) >= mask.min_context).sum(axis=1)  # how many can be taken out
    context_only = np.concatenate((shown[:, None], visible), axis=1)[np.arange(n), enough]
    masks[:, 0] = ~context_only
    return masks


def _sides(area: NDArray[np.float64], aspect: Range, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N, 2] height and width of blocks with these areas, their log-aspect uniform."""
    low, high = np.log(aspect)
    ratio = np.exp(low + (high - low) * u)
    return np.rint(np.sqrt(np.stack((area * ratio, area / ratio), axis=1))).astype(np.int64)


def _rectangles(corner: NDArray[np.int64], sides: NDArray[np.int64], side: int) -> NDArray[np.bool_]:
    """[N, side, side], true from each corner on over its sides."""
    line = np.arange(side)
    inside = (line >= corner[..., None]) & (line < (corner + sides)[..., None])  # [N, 2, side]
    return inside[:, 0, :, None] & inside[:, 1, None, :]
