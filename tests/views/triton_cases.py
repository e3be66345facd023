"""The GPU renderer against the reference; run by test_triton.py in a process of its own.

Without a GPU by Triton's interpreter, whose switch is read where a kernel is decorated, Triton's own helpers
included: other tests import Triton before, so a process has to be begun for it.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from view_oracle import CHANCES

from sslpipe.views import Jitter, ViewSpec
from sslpipe.views.drawing import draw
from sslpipe.views.operations import NAMED, ORDER
from sslpipe.views.render import reference, triton
from sslpipe.views.render.triton.packing import Need
from sslpipe.views.table import Table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT, ROTATED = (2e-5, 1e-4) if DEVICE == "cuda" else (5e-6, 1e-5)
RAW: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
STRONG = Jitter(probability=1, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3)
ALWAYS: dict[str, Any] = {"jitter": STRONG, "blur": 1.0, **RAW}
EVERYTHING: dict[str, Any] = {
    "scale": (0.1, 1), "vflip": 0.5, "quarter_turns": True, "jitter": Jitter(brightness=0.8, contrast=0.8, hue=0.5),
    **CHANCES, **RAW,
}  # fmt: skip
STEPS = ("crop", "jitter", "grey", "blur", "solarize")  # others come last
ORDERS = [o for o in permutations(STEPS) if o.index("crop") < min(o.index("blur"), o.index("solarize"))]
# Canvases with padding on either side, none at all, single pixels and lines.
SIZES = np.array(
    [(40, 40), (40, 23), (17, 40), (40, 1), (1, 40), (1, 1), (3, 2), (31, 40), (40, 39), (8, 8)],
    dtype=np.int32,
)


def noise(n: int, resolution: int, seed: int = 0) -> torch.Tensor:
    """The hardest picture for a tap or a turn that lies a little off; there is some beside the images too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, resolution, resolution, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def smooth(n: int, resolution: int) -> torch.Tensor:
    """Pictures with saturated parts and grey ones."""
    y, x = torch.meshgrid(*[torch.linspace(0, 5, resolution)] * 2, indexing="ij")
    wave = torch.stack([torch.sin(x * (k + 1) + y * (n - k)) for k in range(3 * n)]).view(n, 3, *x.shape)
    wave[:, :, : resolution // 3] = wave[:, :1, : resolution // 3]
    return ((wave * 0.7 + 0.5).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous()


def table_of(spec: ViewSpec, size: np.ndarray, seed: int = 1) -> Table:
    return draw(
        spec, seed=seed, epoch=0, index=np.arange(len(size)), view=0, size=np.asarray(size, dtype=np.int32)
    )


def view(pixels: torch.Tensor, table: Table, spec: ViewSpec, out: torch.Tensor | None = None) -> torch.Tensor:
    return triton.render(pixels.to(DEVICE), table, spec, out).cpu()


def off(pixels: torch.Tensor, table: Table, spec: ViewSpec) -> float:
    return float((view(pixels, table, spec) - reference.render(pixels, table, spec)).abs().max())


# ------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("size", "interpolation"),
    [(1, "bicubic"), (7, "bilinear"), (7, "bicubic"), (28, "bilinear"), (40, "bicubic")],
)
def test_crop_resize_flips_and_turns(size: int, interpolation: str) -> None:
    spec = ViewSpec(
        size=size, interpolation=interpolation, scale=(0.05, 1), ratio=(0.4, 2.5), vflip=0.5, quarter_turns=True,
        **RAW,
    )  # fmt: skip
    sizes = SIZES if size < 40 else SIZES[:5]
    assert off(noise(len(sizes), 40), table_of(spec, sizes), spec) <= EXACT


def test_flips_and_turns_are_exact_permutations() -> None:
    spec, pixels = ViewSpec(size=36, **RAW), noise(1, 36)
    table = Table.plain(np.array([[0, 0, 36, 36]] * 16, dtype=np.int32), np.full((16, 2), 36, dtype=np.int32))
    every = np.arange(16)
    table = table.change(
        source=every * 0,
        hflip=every % 2 == 1,
        vflip=every // 2 % 2 == 1,
        turns=(every // 4).astype(np.uint8),
    )
    assert torch.equal(view(pixels, table, spec), reference.render(pixels, table, spec))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 28])
def test_every_crop_length(size: int, interpolation: str) -> None:
    # Where a tap just falls inside or outside the filter decides, on black and white.
    pixels = noise(1, 72) // 128 * 255
    length = np.arange(1 + size % 3, 73, 6)
    box = np.stack((72 - length, length * 0, length, length[::-1]), axis=1).astype(np.int32)
    table = Table.plain(box, np.full((len(box), 2), 72, dtype=np.int32)).change(source=length * 0)
    assert off(pixels, table, ViewSpec(size=size, interpolation=interpolation, **RAW)) <= EXACT


@pytest.mark.parametrize("shape", [(1500, 3), (1, 1500)])
def test_long_thin_images(shape: tuple[int, int]) -> None:
    spec = ViewSpec(size=24, interpolation="bicubic", ratio=(1e-4, 1e4), **RAW)
    assert off(noise(1, 1500), table_of(spec, np.array([shape])), spec) <= EXACT


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("degrees", [15.0, 180.0])
def test_rotation(degrees: float, early: bool) -> None:
    order = ("jitter", "crop", "grey", "blur", "solarize") if early else ORDER
    spec = ViewSpec(
        size=28,
        scale=(0.2, 1),
        rotation=degrees,
        fill=0.4,
        quarter_turns=True,
        jitter=STRONG,
        order=order,
        **RAW,
    )
    assert off(noise(len(SIZES), 40), table_of(spec, SIZES), spec) <= ROTATED


def test_rotation_of_a_large_crop() -> None:
    spec = ViewSpec(size=7, scale=(0.3, 1), rotation=30, **RAW)
    assert off(noise(2, 150), table_of(spec, np.array([(150, 120), (140, 150)])), spec) <= ROTATED


# --------------------------------------------------------------------------------------------------- colour


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_of_operations(order: tuple) -> None:
    spec = ViewSpec(size=36, scale=(0.2, 1), blur_sigma=(0.5, 1), grey=0.5, solarize=1, order=order, **ALWAYS)
    table = table_of(spec, SIZES[:1]).change(grey=np.array([ORDERS.index(order) % 2 == 0]))
    assert off(smooth(1, 40), table, spec) <= EXACT


def test_every_order_of_jitter() -> None:
    spec = ViewSpec(size=28, jitter=STRONG, **RAW)
    orders = np.array(list(permutations(range(4))), dtype=np.uint8)
    table = table_of(spec, np.tile(SIZES[:2], (12, 1))).change(order=orders)
    assert off(smooth(24, 40), table, spec) <= EXACT


@pytest.mark.parametrize("left_out", ["brightness", "contrast", "saturation", "hue"])
def test_an_adjustment_of_strength_0_is_left_out(left_out: str) -> None:
    jitter = STRONG.model_copy(update={left_out: 0.0})
    for order in (ORDER, ("jitter", "crop", "grey", "blur", "solarize")):
        spec = ViewSpec(size=36, jitter=jitter, order=order, **RAW)
        table = table_of(spec, SIZES[:3])
        table.factors[:] = (0.5, 1.5, 1.5, 0.3)  # which would be seen
        assert off(smooth(3, 40), table, spec) <= EXACT


def test_a_batch_with_and_without_each_operation() -> None:
    spec = ViewSpec(size=36, **EVERYTHING)
    table = table_of(spec, np.tile(SIZES, (2, 1)))
    chances = [table.drawn[NAMED[name].columns[0].name] != 0 for name in ("jitter", *CHANCES)]
    for flag in (*chances, table.turns % 2 == 1):
        assert 0 < flag.sum() < len(table)
    assert off(smooth(20, 40), table, spec) <= EXACT


@pytest.mark.parametrize(("size", "kernel"), [(28, 55), (36, 71), (3, 1), (3, 5)])
def test_blur(size: int, kernel: int) -> None:
    spec = ViewSpec(size=size, blur=1, blur_kernel=kernel, blur_sigma=(0.05, 9), **RAW)
    table = table_of(spec, SIZES[:4])
    table.sigma[:2] = 0.05, 1e-3
    assert off(noise(4, 40), table, spec) <= EXACT


def test_normalisation() -> None:
    spec = ViewSpec(size=12, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    assert off(noise(len(SIZES), 40), table_of(spec, SIZES), spec) <= EXACT / 0.2


@settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    height=st.integers(1, 64), width=st.integers(1, 64), size=st.integers(1, 45), seed=st.integers(0, 99),
    cubic=st.booleans(), order=st.sampled_from(ORDERS), rotation=st.sampled_from([0.0, 0.0, 10.0, 180.0]),
    ratio=st.sampled_from([(0.75, 1.33), (0.01, 0.02), (50.0, 99.0)]),
)  # fmt: skip
def test_any_size_any_operation(
    height: int, width: int, size: int, seed: int, cubic: bool, order: tuple, rotation: float, ratio: tuple
) -> None:
    spec = ViewSpec(
        size=size, interpolation="bicubic" if cubic else "bilinear", ratio=ratio, rotation=rotation, order=order,
        **EVERYTHING,
    )  # fmt: skip
    table = table_of(spec, np.array([(height, width), (1, width)]), seed)
    assert off(noise(2, max(height, width), seed), table, spec) <= (ROTATED if rotation else EXACT)


# --------------------------------------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    ("dtype", "last"),
    [
        (torch.float32, True),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
        (torch.float16, False),
        (torch.float64, True),
    ],
)
def test_types_and_memory_formats(dtype: torch.dtype, last: bool) -> None:
    spec = ViewSpec(size=36, **EVERYTHING).model_copy(
        update={"mean": (0.3, 0.5, 0.4), "std": (0.2, 0.25, 0.3)}
    )
    table, pixels = table_of(spec, SIZES[:3]), smooth(3, 40)
    table.jitter[:], table.sigma[:] = (True, True, False), (0, 1, 0)  # each kernel is the last for some row
    expected = view(pixels, table, spec)
    out = torch.full((5, 3, 36, 36), 9, dtype=dtype, device=DEVICE)
    out = out.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    view(pixels, table, spec, out[1:4])
    assert (out[[0, 4]] == 9).all()
    assert ulps(out[1:4].cpu(), expected.to(dtype)) <= 1


def ulps(a: torch.Tensor, b: torch.Tensor) -> int:
    """The most units in the last place between two tensors of one type."""
    if not a.dtype.is_floating_point or a.dtype == torch.float64:
        return int(not torch.equal(a, b)) * 2
    kind = torch.int32 if a.dtype == torch.float32 else torch.int16
    steps = [x.contiguous().view(kind).long() for x in (a, b)]
    line = [torch.where(s < 0, -(s & torch.iinfo(kind).max), s) for s in steps]  # in the order of the numbers
    return int((line[0] - line[1]).abs().max())


def test_any_memory() -> None:
    spec = ViewSpec(size=9, **EVERYTHING)
    table, pixels = table_of(spec, SIZES[:3]), noise(6, 40)[::2]
    expected = view(pixels.contiguous(), table, spec)
    out = torch.zeros(3, 9, 3, 9, device=DEVICE).transpose(1, 2)  # neither contiguous nor channels last
    assert triton.render(pixels.to(DEVICE), table, spec, out) is out
    assert torch.equal(out.cpu(), expected)
    assert torch.equal(view(pixels, table, spec), expected)


@pytest.mark.skipif(DEVICE == "cuda", reason="test_triton.py has one for a GPU's own memory")
@pytest.mark.parametrize("change", [{}, {"rotation": 9}, {"order": ("jitter", "crop")}])
def test_addresses_beyond_two_gigabytes(change: dict, tmp_path: Path) -> None:
    """Files with holes stand for memory: of canvases of 2 GB only the last is there, and views lie as far apart."""

    def hollow(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_file(str(tmp_path / str(dtype)), shared=True, size=count, dtype=dtype)

    side, apart = 1024, 1 << 30
    last = 1 + 2 * apart // (3 * side * side)
    pixels = hollow((last + 1) * 3 * side * side, torch.uint8).view(last + 1, side, side, 3)
    pixels[last, :40, :40] = noise(1, 40)[0]
    spec = ViewSpec(size=8, **ALWAYS, **change)
    table = table_of(spec, np.array([(40, 40), (40, 23), (1, 40)]))
    table.source[:] = last
    out = hollow(2 * apart + 3 * 64, torch.float32).as_strided((3, 3, 8, 8), (apart, 64, 8, 1))
    near = view(pixels[last:], table.change(source=np.zeros(3, dtype=np.int64)), spec)
    assert torch.equal(view(pixels, table, spec, out), near)


def test_a_batch_of_none_and_of_one() -> None:
    for n in (0, 1):
        spec = ViewSpec(size=36, **EVERYTHING)
        out = view(noise(n, 40), table_of(spec, SIZES[:n]), spec)
        assert out.shape == (n, 3, 36, 36)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(("size", "rotation", "early"), [(7, 0.0, True), (28, 10.0, True), (36, 0.0, False)])
def test_bits_do_not_depend_on_the_batch(
    size: int, rotation: float, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("jitter", "grey", "crop", "solarize", "blur") if early else ORDER
    spec, pixels = ViewSpec(size=size, rotation=rotation, order=order, **EVERYTHING), noise(6, 40)
    table = table_of(spec, SIZES[:6])
    whole = view(pixels, table, spec)
    rows = np.array([4, 1, 4])
    assert torch.equal(view(pixels, table[rows], spec), whole[rows])
    need = Need.of(table, spec)
    monkeypatch.setattr(triton, "_BUDGET", 4 * need.scratch(spec))  # four at a time
    assert torch.equal(view(pixels, table, spec), whole)
