from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from view_oracle import CHANCES
from view_oracle import drawn as plainly_drawn

from sslpipe.views import Jitter, ViewSpec, drawing, philox
from sslpipe.views.drawing import draw
from sslpipe.views.table import Table

SEED = 11


def table(spec: ViewSpec, n: int = 4000, size: tuple[int, int] = (240, 320), **change: int) -> Table:
    named = {"seed": SEED, "epoch": 0, "view": 0} | change
    return draw(spec, index=np.arange(n), size=np.tile(np.int32(size), (n, 1)), **named)


def same(a: Table, b: Table) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Table) if f.name != "source"
    )


FULL = ViewSpec(size=32, vflip=0.5, rotation=10, quarter_turns=True, jitter=Jitter(), **CHANCES)


def test_a_row_does_not_depend_on_its_batch() -> None:
    size = np.random.default_rng(0).integers(1, 300, (64, 2)).astype(np.int32)
    index = np.random.default_rng(1).permutation(1_000_000)[:64]
    whole = draw(FULL, seed=SEED, epoch=3, index=index, view=1, size=size)
    order = np.random.default_rng(2).permutation(64)
    shuffled = draw(FULL, seed=SEED, epoch=3, index=index[order], view=1, size=size[order])
    assert same(shuffled, whole[order])
    for n in (0, 17, 63):
        alone = draw(FULL, seed=SEED, epoch=3, index=index[n : n + 1], view=1, size=size[n : n + 1])
        assert same(alone, whole[n : n + 1])


def test_seed_epoch_and_view_matter() -> None:
    base = table(FULL, 8)
    assert same(base, table(FULL, 8))
    assert not any(
        same(base, table(FULL, 8, **change)) for change in ({"seed": 1}, {"epoch": 1}, {"view": 1})
    )


def test_switching_one_thing_on_moves_nothing_else() -> None:
    plain, full = table(ViewSpec(size=32), 50), table(FULL, 50)
    assert (plain.box == full.box).all()
    assert (plain.hflip == full.hflip).all()
    assert (table(FULL.model_copy(update={"grey": 0.9}), 50).sigma == full.sigma).all()


def test_no_samples() -> None:
    empty = table(FULL, 0)
    assert len(empty) == 0
    assert empty.box.shape == (0, 4)
    assert empty.order.shape == (0, 4)


def test_rows() -> None:
    whole = table(FULL, 10)
    assert same(whole[:5], table(FULL, 5))
    assert whole[5:].source.tolist() == [5, 6, 7, 8, 9]
    assert whole[np.array([3, 1])].source.tolist() == [3, 1]


class Script:
    """Stands in for torch inside torchvision's RandomResizedCrop: plays the words of one sample."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = iter(words)

    def empty(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(
            uniform_=lambda low, high: number(low + (high - low) * next(self.words) * 2.0**-32)
        )

    def exp(self, value: SimpleNamespace) -> SimpleNamespace:
        return number(math.exp(value.item()))

    def randint(self, low: int, high: int, size: tuple[int]) -> SimpleNamespace:
        return number((int(next(self.words)) * (high - low) >> 32) + low)


def number(value: float) -> SimpleNamespace:
    return SimpleNamespace(item=lambda: value)


SIZES = [(240, 320), (28, 28), (1, 1), (1, 50), (50, 1), (3, 2), (7, 400), (400, 7), (33, 31)]


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1), (3 / 4, 4 / 3)), ((0.9, 1), (0.5, 2)), ((0.3, 0.3), (1, 1))]
)
def test_boxes_are_torchvisions(
    scale: tuple[float, float], ratio: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = pytest.importorskip("torchvision.transforms.v2._geometry")
    crop = geometry.RandomResizedCrop(8, scale=scale, ratio=ratio)
    crop._log_ratio = [math.log(value) for value in ratio]
    fallbacks = 0
    for size in SIZES:
        ours = table(ViewSpec(size=8, scale=scale, ratio=ratio), 40, size).box
        tries = philox.words(np.arange(40), seed=SEED, epoch=0, view=0, first=0, count=10).reshape(40, 10, 4)
        for n in range(40):
            # A failed try reads two numbers in torchvision and skips its place in ours.
            words = _as_read(tries[n], size, scale, ratio)
            fallbacks += len(words) == 20
            with monkeypatch.context() as patch:
                patch.setattr(geometry, "torch", Script(words))
                box = crop.make_params([torch.empty(3, *size)])
            assert ours[n].tolist() == [box["top"], box["left"], box["height"], box["width"]], size
    assert fallbacks > 0


def _as_read(
    tries: np.ndarray, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
    read: list[int] = []
    for area_word, aspect_word, top, left in tries.tolist():
        read += [area_word, aspect_word]
        area = size[0] * size[1] * (scale[0] + (scale[1] - scale[0]) * area_word * 2.0**-32)
        low, high = (math.log(value) for value in ratio)
        aspect = math.exp(low + (high - low) * aspect_word * 2.0**-32)
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= size[1] and 0 < height <= size[0]:
            return np.array([*read, top, left])
    return np.array(read)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.01, 0.02), (40, 90), (0.01, 90)])
def test_boxes_lie_inside(ratio: tuple[float, float]) -> None:
    size = np.random.default_rng(3).integers(1, 60, (3000, 2)).astype(np.int32)
    spec = ViewSpec(size=8, scale=(0.01, 1), ratio=ratio)
    top, left, height, width = draw(spec, seed=0, epoch=0, index=np.arange(3000), view=0, size=size).box.T
    assert (np.stack((top, left)) >= 0).all()
    assert (np.stack((height, width)) >= 1).all()
    assert (top + height <= size[:, 0]).all()
    assert (left + width <= size[:, 1]).all()


def test_boxes_have_torchvisions_distribution() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    torch.manual_seed(0)
    crop = transforms.RandomResizedCrop(8, scale=(0.2, 1))
    theirs = [crop.make_params([torch.empty(3, 240, 320)]) for _ in range(2000)]
    theirs = np.array([[box["top"], box["left"], box["height"], box["width"]] for box in theirs])
    ours = table(ViewSpec(size=8, scale=(0.2, 1)), 4000).box
    for of in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] / np.maximum(240 - box[:, 2], 1),
        lambda box: box[:, 1] / np.maximum(320 - box[:, 3], 1),
    ):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3


def test_jitter_has_torchvisions_distribution() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    torch.manual_seed(0)
    theirs = [transforms.ColorJitter(0.4, 1.3, 0.2, 0.1).make_params([]) for _ in range(2000)]
    ours = table(ViewSpec(size=8, jitter=Jitter(brightness=0.4, contrast=1.3, saturation=0.2, hue=0.1)))
    for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        assert (
            stats.ks_2samp(ours.factors[:, column], [draw[f"{name}_factor"] for draw in theirs]).pvalue > 1e-3
        )
    assert ours.factors[:, 1].min() >= 0  # strength above 1 is cut at 0


def test_other_distributions() -> None:
    spec = ViewSpec(
        size=64, hflip=0.3, vflip=0.7, rotation=15, quarter_turns=True, jitter=Jitter(), grey=0.2, blur=0.5,
        solarize=0.1,
    )  # fmt: skip
    drawn = table(spec)
    for flags, chance in (
        (drawn.hflip, 0.3),
        (drawn.vflip, 0.7),
        (drawn.jitter, 0.8),
        (drawn.grey, 0.2),
        (drawn.sigma > 0, 0.5),
        (drawn.solarize, 0.1),
    ):
        assert stats.binomtest(int(flags.sum()), len(flags), chance).pvalue > 1e-3
    assert stats.kstest(drawn.angle, stats.uniform(-15, 30).cdf).pvalue > 1e-3
    assert stats.kstest(drawn.sigma[drawn.sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(drawn.turns, minlength=4)).pvalue > 1e-3
    assert (np.sort(drawn.order, axis=1) == np.arange(4)).all()
    orders = drawn.order @ np.array([64, 16, 4, 1])
    assert len(set(orders.tolist())) == 24
    assert stats.chisquare(np.unique(orders, return_counts=True)[1]).pvalue > 1e-3
    # Things drawn from neighbouring words go their own ways.
    flags = (drawn.hflip, drawn.vflip, drawn.jitter, drawn.grey, drawn.sigma > 0, drawn.solarize)
    area = drawn.box[:, 2] * drawn.box[:, 3]
    columns = np.stack((*flags, drawn.angle, drawn.turns, *drawn.factors.T, orders, area))
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.07


def test_what_is_off_stays_off() -> None:
    drawn = table(ViewSpec(size=8, hflip=0), 500)
    assert not (drawn.hflip | drawn.vflip | drawn.jitter | drawn.grey | drawn.solarize).any()
    assert not any(values.any() for values in (drawn.turns, drawn.sigma, drawn.angle))
    certain = table(ViewSpec(size=8, hflip=1, grey=1, blur=1, solarize=1, jitter=Jitter(probability=1)), 500)
    assert (certain.hflip & certain.grey & (certain.sigma > 0) & certain.solarize & certain.jitter).all()


@pytest.mark.parametrize("seed", range(12))
def test_every_number_is_the_one_that_is_meant(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    low, narrow = rng.uniform(0.01, 0.9), rng.uniform(0.01, 2)
    jitter = Jitter(probability=0.7, brightness=1.4, contrast=0.4, saturation=0.2, hue=0.3)
    spec = ViewSpec(
        size=32, scale=(low, 1.0), ratio=(narrow, narrow * rng.uniform(1, 4)), hflip=0.5, vflip=0.3,
        rotation=rng.uniform(0, 180), quarter_turns=bool(seed % 2), jitter=jitter if seed % 3 else None,
        **CHANCES,
    )  # fmt: skip
    named: dict[str, Any] = {
        "seed": int(rng.integers(0, 2**63)),
        "epoch": int(rng.integers(0, 1000)),
        "index": rng.integers(0, 2**40, 500),
        "view": rng.integers(0, 4000, 500) if seed % 4 else 7,
        "size": rng.integers(1, 5000, (500, 2)).astype(np.int32),
    }
    expected = plainly_drawn(spec, **named)
    compiled = draw(spec, **named)
    monkeypatch.setattr(drawing, "_compiles", lambda: False)
    plain = draw(spec, **named)
    assert set(expected) == {"box", *(compiled.drawn.dtype.names or ())}
    for name, values in expected.items():
        for table in (compiled, plain):
            assert getattr(table, name).dtype == values.dtype, name
            assert np.array_equal(getattr(table, name), values), name


def test_columns_are_attributes_and_others_are_not() -> None:
    plain = table(FULL, 5)
    changed = plain.change(grey=True, source=np.zeros(5, dtype=np.int64))
    assert changed.grey.all()
    assert not changed.source.any()
    assert same(changed.change(grey=plain.grey), plain)  # which did not change with it
    with pytest.raises(AttributeError, match="no column gray"):
        _ = plain.gray
