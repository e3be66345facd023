from __future__ import annotations

import importlib.util
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.data.batch import Batch
from sslpipe.views import Jitter, PatchMask, Recipe, View, ViewEngine, ViewSpec

SWAV = Recipe(
    views=(
        ViewSpec(name="large", size=24, count=2, scale=(0.14, 1), jitter=Jitter(), grey=0.2, blur=0.5),
        ViewSpec(name="small", size=12, count=3, scale=(0.05, 0.14), rotation=10, solarize=0.3),
    )
)
MASKED = Recipe(
    views=(
        ViewSpec(
            name="image", size=24, jitter=Jitter(probability=1), mask=PatchMask(kind="block", patch_size=4)
        ),
        ViewSpec(name="tokenizer", size=12, share="image", jitter=Jitter(probability=1)),
        ViewSpec(name="other", size=12),
    )
)


def batch_of(n: int, resolution: int = 40, first: int = 0) -> Batch:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (200, resolution, resolution, 3), dtype=np.uint8)
    size = rng.integers(1, resolution + 1, (200, 2)).astype(np.int32)
    rows = slice(first, first + n)
    return Batch(
        pixels=torch.from_numpy(pixels[rows]),
        size=torch.from_numpy(size[rows]),
        index=torch.arange(200)[rows],
        label=torch.full((n,), -1),
    )


def select(batch: Batch, rows: list[int]) -> Batch:
    return Batch(
        pixels=batch.pixels[rows], size=batch.size[rows], index=batch.index[rows], label=batch.label[rows]
    )


def assert_same(a: View, b: View) -> None:
    # Matrix products of other shapes add in another order: equal parameters, pixels equal but for that.
    torch.testing.assert_close(a.pixels, b.pixels, rtol=0, atol=1e-5)
    assert torch.equal(a.to_canvas, b.to_canvas)
    assert torch.equal(a.index, b.index)
    assert (a.masks is None) == (b.masks is None)
    if a.masks is not None and b.masks is not None:
        assert torch.equal(a.masks, b.masks)


def rows_of(view: View, rows: list[int]) -> View:
    masks = None if view.masks is None else view.masks[rows]
    return View(
        view.pixels[rows], view.index[rows], masks, view.to_canvas[rows], view.mean, view.std, view.name
    )


def test_views_in_the_recipes_order() -> None:
    views = ViewEngine(SWAV, seed=0)(batch_of(5), epoch=0)
    assert [(view.name, tuple(view.pixels.shape)) for view in views] == [("large", (5, 3, 24, 24))] * 2 + [
        ("small", (5, 3, 12, 12))
    ] * 3
    for view in views:
        assert view.pixels.dtype == torch.float32
        assert view.to_canvas.shape == (5, 2, 3)
        assert view.to_canvas.dtype == torch.float32
        assert view.index.tolist() == [0, 1, 2, 3, 4]
        assert view.masks is None
        raw = view.pixels * torch.tensor(view.std)[:, None, None] + torch.tensor(view.mean)[:, None, None]
        assert raw.min() > -1e-5
        assert raw.max() < 1 + 1e-5
    assert len({view.pixels.double().sum().item() for view in views}) == 5


def test_views_of_a_spec_are_slices_of_one_buffer() -> None:
    views = ViewEngine(SWAV, seed=0)(batch_of(5), epoch=0)
    for first, second in [(0, 1), (2, 3), (3, 4)]:
        a, b = views[first].pixels, views[second].pixels
        assert b.data_ptr() == a.data_ptr() + a.numel() * a.element_size()
        assert a.is_contiguous()
    joined = views[0].pixels.as_strided((10, 3, 24, 24), views[0].pixels.stride())
    assert torch.equal(joined, torch.cat([views[0].pixels, views[1].pixels]))


@pytest.mark.parametrize("recipe", [SWAV, MASKED], ids=["multi-crop", "masked"])
def test_a_view_does_not_depend_on_its_batch(recipe: Recipe) -> None:
    batch = batch_of(130)  # more than one chunk of work
    engine = ViewEngine(recipe, seed=9)
    whole = engine(batch, epoch=2)
    for rows in ([7], [0, 1], [129, 3, 64, 8]):
        for a, b in zip(engine(select(batch, rows), epoch=2), whole, strict=True):
            assert_same(a, rows_of(b, rows))
    for a, b in zip(ViewEngine(recipe, seed=9)(batch, epoch=2), whole, strict=True):
        assert torch.equal(a.pixels, b.pixels)  # and the same call gives the same bits


def test_seed_and_epoch_change_the_views() -> None:
    batch = batch_of(4)
    base = ViewEngine(SWAV, seed=0)(batch, epoch=0)
    for other in (ViewEngine(SWAV, seed=1)(batch, epoch=0), ViewEngine(SWAV, seed=0)(batch, epoch=1)):
        assert not any(torch.equal(a.pixels, b.pixels) for a, b in zip(base, other, strict=True))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("recipe", [SWAV, MASKED], ids=["multi-crop", "masked"])
def test_tiny_batches(recipe: Recipe, n: int) -> None:
    for view in ViewEngine(recipe, seed=0)(batch_of(n), epoch=0):
        assert view.pixels.shape[:2] == (n, 3)
        assert view.to_canvas.shape == (n, 2, 3)
        assert torch.isfinite(view.pixels).all()


def test_masks() -> None:
    image, tokenizer, _ = ViewEngine(MASKED, seed=0)(batch_of(6), epoch=0)
    assert image.masks is not None
    assert image.masks.shape == (6, 36)
    assert image.masks.dtype == torch.bool
    assert tokenizer.masks is None


def test_sharing_views_see_the_same_part_in_the_same_colours() -> None:
    engine, batch = ViewEngine(MASKED, seed=4), batch_of(50)
    image, tokenizer, other = engine(batch, epoch=0)
    for view, same in ((tokenizer, True), (other, False)):
        corners = [
            v.to_canvas @ torch.tensor([-0.5, -0.5, 1.0]) for v in (image, view)
        ]  # the crop's corner lies half a pixel outside the first centre
        assert torch.allclose(*corners, atol=1e-4) is same
    a, b = (engine.tables(spec, batch.index.numpy(), batch.size.numpy(), 0)[0] for spec in MASKED.views[:2])
    assert (a.factors == b.factors).all()
    assert (a.order == b.order).all()
    # A pixel of the smaller is about the mean of four of the larger.
    pooled = torch.nn.functional.avg_pool2d(image.pixels, 2)
    assert torch.corrcoef(torch.stack((pooled.ravel(), tokenizer.pixels.ravel())))[0, 1] > 0.8


def test_padding_is_never_seen() -> None:
    batch = batch_of(60)
    line = torch.arange(40)
    inside = (line[:, None] < batch.size[:, 0, None, None]) & (line < batch.size[:, 1, None, None])
    clean = Batch(
        pixels=batch.pixels * inside[..., None], size=batch.size, index=batch.index, label=batch.label
    )
    early = SWAV.views[1].model_copy(
        update={"name": "early", "jitter": Jitter(), "order": ("jitter", "crop", "grey", "blur", "solarize")}
    )
    engine = ViewEngine(Recipe(views=(*SWAV.views, early)), seed=0)
    for a, b in zip(engine(batch, epoch=0), engine(clean, epoch=0), strict=True):
        torch.testing.assert_close(a.pixels, b.pixels, rtol=0, atol=1e-5)


def test_views_are_exact_whatever_training_uses() -> None:
    batch, engine = batch_of(8), ViewEngine(SWAV, seed=0)
    expected = engine(batch, epoch=0)
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        backends[0].fp32_precision, backends[1].fp32_precision = "tf32", "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            views = engine(batch, epoch=0)
        assert [backend.fp32_precision for backend in backends] == ["tf32", "bf16"]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
    for a, b in zip(views, expected, strict=True):
        assert a.pixels.dtype == torch.float32
        assert torch.equal(a.pixels, b.pixels)
        assert not a.pixels.requires_grad


def test_renderers() -> None:
    batch = batch_of(3)
    engines = {name: ViewEngine(SWAV, seed=0, renderer=name) for name in ("auto", "cpu", "reference")}
    assert {name: engine.renderer for name, engine in engines.items()} == {
        "auto": "cpu",
        "cpu": "cpu",
        "reference": "reference",
    }
    auto, cpu, reference = (engine(batch, 0) for engine in engines.values())
    assert torch.equal(auto[0].pixels, cpu[0].pixels)
    torch.testing.assert_close(cpu[0].pixels, reference[0].pixels, rtol=0, atol=3e-5)
    with pytest.raises(
        UserError, match=r"views\.renderer: there is no renderer refrence; did you mean reference\?"
    ):
        ViewEngine(SWAV, seed=0, renderer="refrence")
    with pytest.raises(UserError, match="choose one of auto, reference, cpu, triton"):
        ViewEngine(SWAV, seed=0, renderer="opengl")
    with pytest.raises(UserError, match=r"makes views on a GPU, not on cpu: set pretrain\.device to cuda"):
        ViewEngine(SWAV, seed=0, renderer="triton")


def test_without_numba_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "numba" else found(name, *a)
    )
    assert ViewEngine(SWAV, seed=0).renderer == "reference"
    with pytest.raises(UserError, match="cpu needs the package numba"):
        ViewEngine(SWAV, seed=0, renderer="cpu")


@pytest.mark.parametrize("renderer", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_the_rounded_float32(renderer: str, dtype: torch.dtype) -> None:
    batch = batch_of(4)
    exact = ViewEngine(SWAV, seed=0, renderer=renderer)(batch, 0)
    for last in (torch.contiguous_format, torch.channels_last):
        engine = ViewEngine(SWAV, seed=0, renderer=renderer, dtype=dtype, memory_format=last)
        for view, full in zip(engine(batch, 0), exact, strict=True):
            assert view.pixels.dtype == dtype
            assert view.pixels.is_contiguous(memory_format=last)
            assert torch.equal(view.pixels, full.pixels.to(dtype))


def test_neighbouring_views_of_one_size_share_a_buffer_and_keep_their_table() -> None:
    pair = Recipe(views=(ViewSpec(name="first", size=12), ViewSpec(name="second", size=12, blur=0.5)))
    first, second = ViewEngine(pair, seed=0)(batch_of(5), 0)
    assert second.pixels.data_ptr() == first.pixels.data_ptr() + first.pixels.numel() * 4
    for view, spec in zip((first, second), pair.views, strict=True):
        (table,) = ViewEngine(pair, seed=0).tables(
            spec, batch_of(5).index.numpy(), batch_of(5).size.numpy(), 0
        )
        assert view.table is not None
        for field in ("box", "hflip", "sigma", "source"):
            assert (getattr(view.table, field) == getattr(table, field)).all()


def test_views_made_ahead_are_the_same_views() -> None:
    engine = ViewEngine(SWAV, seed=0)
    batches = [batch_of(4, first=4 * k) for k in range(3)]
    made = list(engine.ahead(iter(batches), epoch=2))
    assert [batch.index.tolist() for batch, _ in made] == [batch.index.tolist() for batch in batches]
    for batch, views in made:
        for view, same in zip(views, ViewEngine(SWAV, seed=0)(batch, 2), strict=True):
            assert torch.equal(view.pixels, same.pixels)


def test_held_views_are_never_written_over_and_dropped_ones_make_room() -> None:
    engine = ViewEngine(SWAV, seed=0)
    held = engine(batch_of(6), 0)
    before = [view.pixels.clone() for view in held]
    places = {engine(batch_of(6), epoch)[0].pixels.data_ptr() for epoch in range(1, 20)}
    assert len(places) <= 2
    assert held[0].pixels.data_ptr() not in places
    for view, pixels in zip(held, before, strict=True):
        assert torch.equal(view.pixels, pixels)


def test_memory_does_not_grow_over_ten_thousand_batches() -> None:
    engine = ViewEngine(Recipe(views=(ViewSpec(size=8, jitter=Jitter(), blur=0.5),)), seed=0)
    batch = batch_of(2, resolution=8)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for epoch in range(500):
        engine(batch, epoch)
    before = resident()
    for epoch in range(10_000):
        engine(batch, epoch)
    assert resident() - before < 8 << 20
