import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.networks import backbone
from sslpipe.networks.vit import Block, SmallViT, attend


@pytest.fixture
def vit() -> SmallViT:
    network = backbone("small_vit", image_size=12, width=32, depth=2, heads=2)
    assert isinstance(network, SmallViT)
    return network.eval()


def test_pooling() -> None:
    x = torch.randn(2, 3, 12, 12)
    options = {"width": 32, "depth": 1, "heads": 2}
    mean, cls = (
        backbone("small_vit", image_size=12, pool=pool, **options).eval() for pool in ("mean", "cls")
    )
    torch.testing.assert_close(mean(x), mean.tokens(x).mean(1))
    torch.testing.assert_close(cls(x), cls.tokens(x, prefix=True)[:, 0])


@pytest.mark.parametrize("size", [(13, 12), (12, 13)])
def test_images_that_patches_do_not_tile_are_refused(vit: SmallViT, size: tuple[int, int]) -> None:
    x = torch.zeros(1, 3, *size)
    for call in (vit, vit.tokens, vit.maps, vit.features, lambda x: vit.last_blocks(x, 2)):
        with pytest.raises(UserError, match=r"small_vit .* patches of 4 pixels, .* tile 13: .* such as 12"):
            call(x)
    with pytest.raises(UserError, match=r"do not tile 2: .* such as 4"):
        vit(torch.zeros(1, 3, 2, 2))


def test_fixed_positions_are_neither_trained_nor_saved(vit: SmallViT) -> None:
    assert "pos_embed" not in vit.state_dict()
    assert "pos_embed" not in dict(vit.named_parameters())


def test_starts_as_maes_official_code() -> None:
    network = backbone("small_vit", image_size=28, width=256, depth=1, heads=4)
    assert isinstance(network, SmallViT)
    state = network.state_dict()
    for name, fan_in, fan_out in [
        ("patch_embed.weight", 48, 256),
        ("blocks.0.attention.qkv.weight", 256, 768),
        ("blocks.0.mlp.0.weight", 256, 1024),
    ]:
        limit = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.97 * limit < state[name].abs().max() <= limit
    assert 0.015 < state["cls_token"].std() < 0.025
    assert not state["blocks.0.attention.qkv.bias"].any()


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    block = Block(16, 2, drop_path=0.4).train()
    y = block._branch(torch.ones(4000, 3, 16), None)
    values = y.flatten(1)
    assert (values == values[:, :1]).all()
    assert sorted(set(values[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.6])
    assert values.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(block.eval()._branch(torch.ones(2, 3, 16), None), torch.ones(2, 3, 16))


def test_drop_path_rises_with_depth() -> None:
    network = backbone("small_vit", image_size=12, width=32, depth=3, heads=2, drop_path=0.2)
    assert isinstance(network, SmallViT)
    assert [block.drop_path for block in network.blocks] == pytest.approx([0, 0.1, 0.2])


def test_layer_scale_starts_where_asked() -> None:
    block = Block(16, 2, layer_scale=0.0)
    x = torch.randn(1, 3, 16)
    assert torch.equal(block(x), x)
    assert sum(name.startswith("scale") for name, _ in block.named_parameters()) == 2


@pytest.mark.parametrize("biased", [False, True])
def test_attention_in_half_precision_on_a_cpu(biased: bool) -> None:
    """Computed in float32: nothing is lost but in rounding what goes in and what comes out."""
    q, k, v = torch.randn(3, 2, 4, 7, 8).bfloat16().requires_grad_().unbind()
    bias = torch.randn(1, 4, 7, 7) if biased else None
    scores = q.double() @ k.double().transpose(2, 3) / 8**0.5
    expected = (scores if bias is None else scores + bias.double()).softmax(-1) @ v.double()
    with torch.autocast("cpu", torch.bfloat16):
        result = attend(q, k, v, bias)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), expected, rtol=2**-7, atol=1e-4)
    result.sum().backward()


def test_attention_keeps_full_precision() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64).unbind()
    expected = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v), expected, rtol=1e-12, atol=1e-12)


def test_attention_is_torchs_own() -> None:
    block = Block(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": block.attention.qkv.weight,
            "in_proj_bias": torch.randn(48),
            "out_proj.weight": block.attention.out.weight,
            "out_proj.bias": block.attention.out.bias,
        }
    )
    block.attention.qkv.bias.data.copy_(theirs.in_proj_bias)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(block.attention(x), theirs(x, x, x, need_weights=False)[0])
