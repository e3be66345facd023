"""Patches that are left out or hidden, in every kind of vision transformer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sslpipe.networks import Backbone, backbone

SMALL = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sincos": ("small_vit", SMALL),
    "relative": ("small_vit", {**SMALL, "position": "relative"}),
    "timm_vit": ("timm:vit_tiny_patch16_224", {"patch_size": 8}),
    "timm_beit": ("timm:beit_base_patch16_224", {"patch_size": 8}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def vit(request: pytest.FixtureRequest) -> Backbone:
    """Of 4 x 4 patches; no test may change it."""
    name, options = NETWORKS[request.param]
    network = backbone(name, image_size=32, **options).eval()
    if name.startswith("timm"):
        network.model.blocks = network.model.blocks[:2]  # type: ignore[union-attr, index]  # they are all alike
    for key, parameter in network.named_parameters():  # zero at the start, as if they were not there
        if "bias_table" in key or key == "pos_bias":
            torch.nn.init.normal_(parameter)
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def test_keeping_all_patches_changes_nothing(vit: Backbone, x: Tensor) -> None:
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(vit.tokens(x, keep=everything), vit.tokens(x))


def test_kept_patches_come_out_in_the_order_asked(vit: Backbone, x: Tensor) -> None:
    keep, order = torch.tensor([[0, 5, 10], [15, 1, 3]]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(vit.tokens(x, keep=keep)[:, order], vit.tokens(x, keep=keep[:, order]))


@pytest.mark.parametrize("patch", [1, 6])
def test_a_hidden_patch_is_never_seen(vit: Backbone, x: Tensor, patch: int) -> None:
    changed, (row, column) = x.clone(), divmod(patch, 4)
    changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 9.0
    keep = torch.tensor([i for i in range(16) if i != patch]).expand(2, -1)
    mask = (torch.arange(16) == patch).expand(2, -1)
    assert torch.equal(vit.tokens(x, keep=keep), vit.tokens(changed, keep=keep))
    assert torch.equal(vit.tokens(x, mask=mask), vit.tokens(changed, mask=mask))
    assert not torch.allclose(vit.tokens(x), vit.tokens(changed))


def test_class_tokens_come_first(vit: Backbone, x: Tensor) -> None:
    with_prefix = vit.tokens(x, prefix=True)
    assert with_prefix.shape == (2, 17, vit.dim)
    assert torch.equal(with_prefix[:, 1:], vit.tokens(x))
    assert vit.tokens(x, keep=torch.zeros(2, 3).long(), prefix=True).shape == (2, 4, vit.dim)


def test_hidden_patches_are_finite_under_autocast(vit: Backbone, x: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(vit.tokens(x, mask=torch.ones(2, 16).bool())).all()


def test_the_mask_token_is_trained_only_on_request(vit: Backbone, x: Tensor) -> None:
    network = copy.deepcopy(vit).requires_grad_(False)
    mask = torch.ones(2, 16).bool()
    assert not network.tokens(x, mask=mask).requires_grad
    network.learn_mask_token()
    network.tokens(x, mask=mask).square().sum().backward()
    assert network.mask_token.grad.any()  # type: ignore[union-attr, operator]
