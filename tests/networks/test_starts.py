"""How vision transformers start, against the rules of the official codes written down again."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch import nn

from sslpipe.console.errors import UserError
from sslpipe.methods import find
from sslpipe.networks import backbone
from sslpipe.training.core.build import backbone_options
from sslpipe.training.core.config import Config

TIMM = "timm:vit_tiny_patch16_224"
BEIT = "timm:beit_base_patch16_224"


def build(name: str, start: str) -> nn.Module:
    torch.manual_seed(0)
    size: dict[str, Any] = {"image_size": 32, "patch_size": 8}
    return (
        backbone(name, start=start, width=96, **size)
        if name == "small_vit"
        else backbone(name, start=start, **size)
    )


def matrices(network: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: module.weight.detach()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def biases_are_zero(network: nn.Module) -> bool:
    found = [m.bias for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None]
    return len(found) > 10 and not any(bias.any() for bias in found)


def is_uniform(weight: torch.Tensor, bound: float) -> bool:
    """Within the bound, near it somewhere, and of a uniform's deviation."""
    largest, deviation = weight.abs().max().item(), weight.std().item()
    return 0.95 * bound < largest <= bound * (1 + 1e-6) and abs(deviation * sqrt(3) / bound - 1) < 0.05


@pytest.mark.parametrize("name", ["small_vit", TIMM])
def test_maes_start_is_xavier_and_the_patch_embedding_is_a_linear_layer(name: str) -> None:
    network = build(name, "mae")
    for weight in matrices(network).values():
        out, into = weight.shape[0], weight[0].numel()
        assert is_uniform(weight, sqrt(6 / (out + into)))
    assert biases_are_zero(network)


@pytest.mark.parametrize("name", ["small_vit", TIMM])
def test_mocos_start_sees_queries_keys_and_values_apart(name: str) -> None:
    network = build(name, "moco")
    for layer, weight in matrices(network).items():
        parts = weight.chunk(3) if layer.endswith("qkv") else (weight,)
        for part in parts:
            assert is_uniform(part, sqrt(6 / (part.shape[0] + part[0].numel()))), layer
    assert biases_are_zero(network)
    (token,) = [p for key, p in network.named_parameters() if key.endswith("cls_token")]
    assert 0 < token.abs().max() < 1e-5


def test_mocos_frozen_patch_embedding_of_a_vit_b_is_within_a_sixteenth() -> None:
    network = backbone("timm:vit_base_patch16_224", image_size=32, start="moco")
    weight = matrices(network)["model.patch_embed.proj"]
    assert is_uniform(weight, 0.0625)
    # So that tokens of images of variance 1 have variance 1: 768 inputs of variance .0625² / 3.
    tokens = nn.functional.conv2d(torch.randn(8, 3, 32, 32), weight, stride=16)
    assert tokens.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["small_vit", TIMM, BEIT])
def test_beits_start_is_cut_off_and_shrinks_what_deep_blocks_add(name: str) -> None:
    network = build(name, "beit")
    for layer, weight in matrices(network).items():
        bound, parts = 0.02, layer.split(".")
        if layer.endswith((".attention.out", ".attn.proj", ".mlp.2", ".mlp.fc2")):
            bound /= sqrt(2 * (int(parts[parts.index("blocks") + 1]) + 1))
        assert 0.95 * bound < weight.abs().max() <= bound * (1 + 1e-6), layer
        # A normal cut off at one deviation has .54 of its deviation.
        assert weight.std().item() / bound == pytest.approx(0.5396, rel=0.05), layer
    assert biases_are_zero(network)


def test_positions_that_are_fixed_stay_so() -> None:
    fixed = backbone(TIMM, image_size=32, position="sincos").model.pos_embed  # type: ignore[union-attr]
    started = backbone(TIMM, image_size=32, position="sincos", start="mae").model.pos_embed  # type: ignore[union-attr]
    assert torch.equal(fixed, started)  # type: ignore[arg-type]


def test_another_start_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of mae, moco, beit"):
        build("small_vit", "xavier")


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("mae", TIMM, {"start": "mae"}),
        ("mocov3", TIMM, {"start": "moco"}),
        ("mocov3", "torchvision:resnet50", {"zero_init_residual": True}),
        ("beit", "small_vit", {"start": "beit"}),
        ("simmim", "small_vit", {"start": "beit"}),
        ("beit", "timm:beit_base_patch16_224", {"start": "beit"}),
        ("simclr", "torchvision:resnet50", {"zero_init_residual": True}),
        ("byol", "torchvision:resnet50", {"zero_init_residual": True}),
        ("simsiam", "torchvision:resnet50", {"zero_init_residual": True}),
        ("simclr", "torchvision:efficientnet_b0", {}),
        ("moco", "torchvision:resnet50", {}),
        ("swav", "torchvision:resnet50", {}),
        ("byol", "small_resnet", {}),
    ],
)
def test_a_method_gives_the_backbone_what_its_official_code_has(
    method: str, name: str, expected: dict[str, Any]
) -> None:
    assert find(method).backbone_options.items() >= expected.items()
    assert backbone_options(Config(method=method, backbone=name)) == expected
    own = dict.fromkeys(expected, "another")
    assert backbone_options(Config(method=method, backbone=name, backbone_options=own)) == own


@pytest.mark.parametrize("method", ["beit", "simmim"])
def test_small_data_starts_wider(method: str) -> None:
    assert backbone_options(Config(method=method, defaults="small")) == {"start": "mae"}
    own = Config(method=method, defaults="small", backbone_options={"start": "beit"})
    assert backbone_options(own) == {"start": "beit"}


@pytest.mark.parametrize("zero", [True, False])
def test_zero_initialised_residuals_make_each_block_its_shortcut(zero: bool) -> None:
    network = backbone("torchvision:resnet50", image_size=32, zero_init_residual=zero)
    last = [m.bn3.weight for m in network.modules() if hasattr(m, "bn3")]
    assert len(last) == 16
    assert all(weight.any() != zero for weight in last)
