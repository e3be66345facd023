from __future__ import annotations

import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.networks import backbone
from sslpipe.networks.pyramid import hypercolumns, pyramid, tiled


def test_a_cnns_last_resolutions_come_from_its_own_blocks() -> None:
    net = backbone("small_resnet", image_size=32, width=8).eval()
    x = torch.randn(2, 3, 64, 64)
    found = pyramid(net, x, levels=3)
    assert [tuple(m.shape[1:]) for m in found] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    y = net.stem(x)  # type: ignore[operator]
    for block, expected in zip(net.blocks, [None, *found], strict=True):  # type: ignore[arg-type]
        y = block(y)
        assert expected is None or torch.equal(y, expected)
    assert torch.equal(found[-1], net.maps(x))
    assert len(pyramid(net, x, levels=1)) == 1


def test_gradients_go_through_and_no_hook_stays() -> None:
    net = backbone("small_resnet", image_size=32, width=8)
    sum(m.sum() for m in pyramid(net, torch.randn(2, 3, 32, 32), 2)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "timm:convnext_atto"])
def test_other_cnns_have_resolutions_too(name: str) -> None:
    net = backbone(name, image_size=64).eval()
    found = pyramid(net, torch.randn(1, 3, 64, 64), levels=3)
    assert [m.shape[2] for m in found] == [8, 4, 2]
    assert found[-1].shape[1] == net.dim


def test_a_transformer_sees_tiles_each_as_an_image_of_its_own() -> None:
    net = backbone("small_vit", image_size=16, patch_size=4, width=16, depth=2, heads=2).eval()
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        (found,) = pyramid(net, x, levels=3)
        assert found.shape == (2, 16, 8, 12)
        for row in range(2):
            for column in range(3):
                tile = x[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                expected = net.maps(tile)
                part = found[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="cannot be cut into such tiles"):
        tiled(net, torch.randn(1, 3, 20, 16))


def test_hypercolumns_lay_resolutions_side_by_side() -> None:
    found = hypercolumns([torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 2, 2)])
    assert found.shape == (1, 5, 4, 4)
    assert (found[:, :2] == 0).all()
    assert (found[:, 2:] == 1).all()
