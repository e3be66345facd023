"""Where vision transformers look."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sslpipe.networks import backbone
from sslpipe.networks.attention import last_attention

torch.manual_seed(0)
IMAGES = torch.randn(2, 3, 32, 32)


def test_small_vit_by_the_formula_in_loops() -> None:
    torch.manual_seed(0)
    network = backbone(
        "small_vit", image_size=32, width=16, depth=2, heads=2, patch_size=8, pool="cls"
    ).eval()
    seen: list[Tensor] = []
    attention = network.blocks[-1].attention  # type: ignore[index, union-attr]
    attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        network(IMAGES)
        q, k, _ = attention.qkv(seen[0]).double().split(16, dim=2)
    found = last_attention(network, IMAGES)
    assert found is not None
    assert found.shape == (2, 2, 4, 4)
    for n in range(2):
        for h in range(2):
            part = slice(8 * h, 8 * h + 8)
            logits = [float(q[n, 0, part] @ k[n, t, part]) / 8**0.5 for t in range(17)]
            expected = torch.tensor(logits, dtype=torch.float64).softmax(0)[1:]
            assert torch.allclose(found[n, h].flatten().double(), expected, atol=1e-6)


@pytest.mark.parametrize("position", ["sincos", "relative"])
def test_its_weights_are_those_that_it_uses(position: str) -> None:
    torch.manual_seed(1)
    network = backbone(
        "small_vit", image_size=32, width=16, depth=1, heads=2, patch_size=8, position=position
    )
    if position == "relative":
        torch.nn.init.normal_(network.pos_bias)  # type: ignore[arg-type]
    attention = network.blocks[0].attention  # type: ignore[index, union-attr]
    given: list[tuple[Tensor, Tensor | None]] = []
    attention.register_forward_pre_hook(lambda module, args: given.append(args))
    with torch.no_grad():
        network.eval()(IMAGES)
        x, bias = given[0]
        q, k, v = attention._heads(x)
        expected = scaled_dot_product_attention(q, k, v, bias)
        assert torch.allclose(attention.weights(x, bias) @ v, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm:vit_tiny_patch16_224", {"pool": "cls"}), ("timm:beit_base_patch16_224", {"pool": "mean"})],
)
def test_timm_gives_what_its_blocks_use(name: str, options: dict[str, str]) -> None:
    torch.manual_seed(2)
    network = backbone(name, image_size=32, patch_size=8, **options).eval()
    before = network(IMAGES)
    found = last_attention(network, IMAGES)
    assert found is not None
    assert found.shape[2:] == (4, 4)
    total = found.sum((2, 3))
    assert ((total > 0) & (total < 1)).all()  # the class token has the rest
    attention = network.model.blocks[-1].attn  # type: ignore[union-attr, index]
    assert attention.fused_attn
    assert not attention.attn_drop._forward_hooks
    assert torch.equal(network(IMAGES), before)


def test_a_cnn_has_none() -> None:
    assert last_attention(backbone("small_resnet", image_size=32).eval(), IMAGES) is None
