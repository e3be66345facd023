"""What parity with torchvision (tests/parity) does not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslpipe.views import ViewSpec
from sslpipe.views.drawing import draw
from sslpipe.views.render import reference
from sslpipe.views.render.reference import along_axes, blur, render, resize_taps
from sslpipe.views.table import Table

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ViewSpec(size=12, rotation=10, blur=0.5, **RAW)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), dtype=np.uint8))
    table = draw(spec, seed=0, epoch=0, index=np.arange(9), view=0, size=np.full((9, 2), 20, dtype=np.int32))
    whole = render(pixels, table, spec)
    monkeypatch.setitem(reference._CHUNK_BYTES, "cpu", 2 * 12 * 20 * 20)
    torch.testing.assert_close(render(pixels, table, spec), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_taps(interpolation: str) -> None:
    start, length = torch.tensor([0, 3, 7, 0]), torch.tensor([20, 5, 1, 8])
    taps = resize_taps(start, length, 8, 20, interpolation)
    torch.testing.assert_close(taps.sum(dim=-1), torch.ones(4, 8))
    line = torch.arange(20)
    outside = (line < start[:, None]) | (line >= (start + length)[:, None])
    assert not taps[outside[:, None].expand_as(taps)].any()  # never beyond the crop
    assert torch.equal(taps[3, :, :8], torch.eye(8))  # nothing to resize: the very same pixels
    assert torch.equal(taps[2, :, 7], torch.ones(8))  # one pixel, stretched


def test_along_axes_is_the_plain_sum() -> None:
    g = torch.Generator().manual_seed(0)
    x, rows, columns = (torch.rand(s, generator=g) for s in ((2, 3, 5, 6), (2, 4, 5), (2, 7, 6)))
    torch.testing.assert_close(
        along_axes(x, rows, columns), torch.einsum("nchw,nsh,ntw->ncst", x, rows, columns)
    )


def test_blur_keeps_a_flat_picture_and_a_sharp_one() -> None:
    flat = torch.full((2, 3, 9, 9), 0.3)
    torch.testing.assert_close(blur(flat, torch.tensor([0.1, 4.0]), 17), flat)
    sharp = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blur(sharp, torch.tensor([0.05]), 5), sharp)


def test_flips_and_turns_are_exact_permutations() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8))
    spec = ViewSpec(size=16, **RAW)
    plain = Table.plain(np.array([[0, 0, 16, 16]], dtype=np.int32), np.array([[16, 16]], dtype=np.int32))

    def view(**change: np.ndarray) -> torch.Tensor:
        return render(pixels, plain.change(**change), spec)[0]

    image = view()
    assert torch.equal(image, pixels[0].permute(2, 0, 1).float() * (1 / 255))
    yes = np.array([True])
    assert torch.equal(view(hflip=yes), image.flip(2))
    assert torch.equal(view(vflip=yes), image.flip(1))
    for turns in range(4):
        expected = torch.rot90(image.flip(2), turns, dims=(1, 2))  # flipped first, then turned
        assert torch.equal(view(hflip=yes, turns=np.array([turns], dtype=np.uint8)), expected)
