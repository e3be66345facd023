import math

import pytest
import torch

from sslpipe.networks.patches import (
    as_maps,
    patchify,
    resize_positions,
    resized,
    sincos_positions,
    take,
    unpatchify,
)


def test_patchify_is_row_by_row_with_channels_innermost() -> None:
    x = torch.randn(2, 3, 4, 6)
    patches = patchify(x, 2)
    assert patches.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            tile = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], tile.permute(0, 2, 3, 1).flatten(1))


def test_unpatchify_is_the_inverse() -> None:
    square, wide = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(square, 2), 2), square)
    assert torch.equal(unpatchify(patchify(wide, 2), 2, (2, 3)), wide)


def test_tokens_as_maps() -> None:
    images = torch.randn(2, 3, 4, 6)
    maps = as_maps(patchify(images, 2), images, 2)
    assert maps.shape == (2, 12, 2, 3)
    for i, tokens in enumerate(patchify(images, 2).unbind(1)):
        assert torch.equal(maps[:, :, i // 3, i % 3], tokens)


def test_take() -> None:
    tokens = torch.randn(2, 5, 3)
    keep = torch.tensor([[4, 0], [2, 2]])
    taken = take(tokens, keep)
    for n in range(2):
        assert torch.equal(taken[n], tokens[n, keep[n]])


def test_sincos_positions_by_the_formula() -> None:
    grid, dim = (2, 3), 16
    positions = sincos_positions(grid, dim)
    for y in range(grid[0]):
        for x in range(grid[1]):
            row = positions[0, y * grid[1] + x].tolist()
            for k in range(dim // 4):
                omega = 1 / 10000 ** (k / (dim / 4))
                expected = (
                    math.sin(x * omega),
                    math.cos(x * omega),
                    math.sin(y * omega),
                    math.cos(y * omega),
                )
                assert row[k :: dim // 4] == pytest.approx(expected, abs=1e-7)


def test_resize_positions() -> None:
    positions = sincos_positions((4, 4), 8)
    assert resize_positions(positions, (4, 4), (4, 4)) is positions
    constant = torch.ones(1, 16, 8)
    torch.testing.assert_close(resize_positions(constant, (4, 4), (3, 5)), torch.ones(1, 15, 8))


@pytest.mark.parametrize(
    "settings", [{"antialias": True}, {"align_corners": True}, {}], ids=["antialias", "corners", "plain"]
)
@pytest.mark.parametrize("size", [(2, 3), (7, 5), (4, 6)])
def test_resized_maps_and_their_gradient_are_torchs(size: tuple[int, int], settings: dict[str, bool]) -> None:
    mine, theirs = (torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    theirs.data.copy_(mine.data)
    weight = torch.randn(2, 3, *size, dtype=torch.float64)
    got = resized(mine, size, **settings)
    want = torch.nn.functional.interpolate(theirs, size, mode="bicubic", **settings)
    assert torch.equal(got, want)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
