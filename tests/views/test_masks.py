from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sslpipe.views import PatchMask, philox
from sslpipe.views.masks import draw, hidden

RANDOM = PatchMask(patch_size=4)
BLOCK = PatchMask(kind="block", patch_size=16, ratio=0.383)
MULTI = PatchMask(kind="multi_block", patch_size=16)


def masks(mask: PatchMask, n: int = 300, view_size: int = 224, **change: int) -> np.ndarray:
    named = {"seed": 2, "epoch": 0, "view": 0} | change
    return draw(mask, view_size=view_size, index=np.arange(n), **named)


@pytest.mark.parametrize("patches", [1, 4, 5, 36, 49, 196, 256])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.6, 0.75, 0.9])
def test_the_number_hidden(ratio: float, patches: int) -> None:
    # MAE keeps ⌊L (1 - ratio)⌋, SimMIM hides ⌈L · ratio⌉: the same number, were it not for binary fractions.
    exact = -(-patches * round(ratio * 100) // 100)
    assert hidden(ratio, patches) == exact


@pytest.mark.parametrize(
    ("ratio", "size", "count"), [(0.75, 28, 37), (0.5, 32, 32), (0.01, 4, 1), (0.6, 20, 15)]
)
def test_random_hides_exactly_so_many(ratio: float, size: int, count: int) -> None:
    drawn = masks(RANDOM.model_copy(update={"ratio": ratio}), view_size=size)
    assert drawn.dtype == bool
    assert drawn.shape == (300, (size // 4) ** 2)
    assert (drawn.sum(axis=1) == count).all()


def test_random_hides_every_patch_as_often_and_independently() -> None:
    drawn = masks(RANDOM, 4000, 28)
    # A patch of 49 is hidden in 37 of 49 samples; given one hidden, another is in 36 of 48.
    counts = drawn.sum(axis=0)
    variance = 4000 * (37 / 49) * (12 / 49)
    statistic = ((counts - 4000 * 37 / 49) ** 2).sum() / variance * 48 / 49
    assert stats.chi2.sf(statistic, 48) > 1e-3
    assert (
        stats.binomtest(int((drawn[:, 0] & drawn[:, 1]).sum()), int(drawn[:, 0].sum()), 36 / 48).pvalue > 1e-3
    )


def test_random_in_units() -> None:
    drawn = masks(PatchMask(patch_size=4, unit=8, ratio=0.6), 20, 192).reshape(20, 48, 48)
    cells = drawn.reshape(20, 6, 8, 6, 8)
    assert (cells.all(axis=(2, 4)) == cells.any(axis=(2, 4))).all()
    assert (cells.all(axis=(2, 4)).sum(axis=(1, 2)) == 22).all()  # ⌈.6 · 36⌉, as SimMIM at 192 px


@pytest.mark.parametrize("mask", [RANDOM, BLOCK, MULTI], ids=lambda mask: mask.kind)
def test_a_mask_does_not_depend_on_its_batch(mask: PatchMask) -> None:
    whole = masks(mask, 40)
    index = np.array([31, 4, 17])
    named = {"view_size": 224, "seed": 2, "epoch": 0, "view": 0}
    assert (draw(mask, index=index, **named) == whole[index]).all()
    assert (draw(mask, index=index[1:2], **named) == whole[4:5]).all()
    assert draw(mask, index=index[:0], **named).shape == (0, *whole.shape[1:])
    for change in ({"seed": 3}, {"epoch": 1}, {"view": 1}):
        assert (masks(mask, 40, **change) != whole).any()


def beit_in_plain_loops(tries: np.ndarray, side: int, budget: int, smallest: int) -> list[list[bool]]:
    """BEiT's blockwise masking (Bao et al., Algorithm 1, with the official code's limits), patch by patch.

    Each try reads four words of its own: area, aspect, top, left.
    """
    grid = [[False] * side for _ in range(side)]
    left, failures = budget, 0
    for area_word, aspect_word, top_word, left_word in tries.tolist():
        if left == 0 or failures == 10:
            break
        failures += 1
        area = smallest + (left - smallest) * area_word * 2.0**-32
        aspect = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect_word * 2.0**-32)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h >= side or w >= side:
            continue
        top, start = top_word * (side - h + 1) >> 32, left_word * (side - w + 1) >> 32
        cells = [(r, c) for r in range(top, top + h) for c in range(start, start + w) if not grid[r][c]]
        if 0 < len(cells) <= left:
            for r, c in cells:
                grid[r][c] = True
            left, failures = left - len(cells), 0
    return grid


def test_blocks_are_beits() -> None:
    ours = masks(BLOCK, 1500)
    named = {"seed": 2, "epoch": 0, "view": 0}
    words = philox.words(np.arange(400), first=philox.MASK, count=200, **named).reshape(400, 200, 4)
    theirs = [beit_in_plain_loops(tries, 14, 75, 16) for tries in words]
    assert (ours[:400] == np.array(theirs).reshape(400, 196)).all()
    counts = ours.sum(axis=1)
    assert counts.max() == 75
    assert counts.mean() == pytest.approx(74.5, abs=0.25)  # as the official code makes on average


@pytest.mark.parametrize("view_size", [16, 32, 64, 112])
def test_blocks_on_small_grids_keep_to_the_budget(view_size: int) -> None:
    drawn = masks(BLOCK.model_copy(update={"ratio": 0.4}), 100, view_size)
    assert drawn.sum(axis=1).max() <= 0.4 * drawn.shape[1]


def test_multi_block() -> None:
    drawn = masks(MULTI)
    assert drawn.shape == (300, 5, 196)
    hidden_from_context, targets = drawn[:, 0], drawn[:, 1:]
    # A target is a full rectangle; a sample's four are of one size, 15 to 20 % of the patches.
    for sample in targets.reshape(300, 4, 14, 14)[:50]:
        shapes = {(int(t.any(axis=1).sum()), int(t.any(axis=0).sum())) for t in sample}
        assert len(shapes) == 1
        h, w = shapes.pop()
        assert all(t.sum() == h * w for t in sample)
        assert 0.11 * 196 < h * w < 0.24 * 196
    # The context never shows a target, and always shows something.
    assert (hidden_from_context | ~targets.any(axis=1)).all()
    assert (~hidden_from_context).sum(axis=1).min() >= 4
    assert 0.2 < (~hidden_from_context).mean() < 0.6


def test_multi_block_context_is_never_empty() -> None:
    crowded = PatchMask(kind="multi_block", patch_size=4, targets=8, target_scale=(0.5, 0.9), min_context=6)
    drawn = masks(crowded, 300, 28)
    shown = (~drawn[:, 0]).sum(axis=1)
    assert shown.min() >= 6
    # Only as many targets as needed are left in: most samples still lose their first.
    assert (drawn[:, 0] | ~drawn[:, 1])[shown < 36].all(axis=1).any()
