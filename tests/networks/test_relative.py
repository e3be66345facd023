import pytest
import torch

from sslpipe.networks import backbone
from sslpipe.networks.relative import entries, relative_bias
from sslpipe.networks.vit import SmallViT


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_each_offset_has_a_bias_of_its_own() -> None:
    h, w, heads = 2, 3, 2
    table = torch.randn(entries((h, w)), heads)
    assert len(table) == 3 * 5 + 3
    bias = relative_bias(table, (h, w), (h, w))[0]  # [heads, 7, 7]
    found: dict[object, torch.Tensor] = {}
    for query in range(7):
        for key in range(7):
            offset: object = "class to class"
            if query and key:
                offset = ((query - 1) // w - (key - 1) // w, (query - 1) % w - (key - 1) % w)
            elif query or key:
                offset = "patch to class" if query else "class to patch"
            value = found.setdefault(offset, bias[:, query, key])
            assert torch.equal(bias[:, query, key], value), (query, key)
    assert len(found) == len(table)
    assert len({tuple(value.tolist()) for value in found.values()}) == len(table)  # and no two share one


def test_the_table_is_laid_out_as_beits() -> None:
    timm_beit = pytest.importorskip("timm.models.beit")
    theirs = timm_beit.RelativePositionBias((3, 4), 2)
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    ours = relative_bias(theirs.relative_position_bias_table, (3, 4), (3, 4))
    assert torch.equal(ours[0], theirs())


def test_kept_patches_keep_their_biases() -> None:
    table = torch.randn(entries((3, 3)), 2)
    whole = relative_bias(table, (3, 3), (3, 3))[0]
    keep = torch.tensor([[8, 0, 4], [1, 2, 3]])
    kept = relative_bias(table, (3, 3), (3, 3), keep=keep)
    assert kept.shape == (2, 2, 4, 4)
    for n, row in enumerate(keep.tolist()):
        places = torch.tensor([0, *(place + 1 for place in row)])
        assert torch.equal(kept[n], whole[:, places][:, :, places])
    without = relative_bias(table, (3, 3), (3, 3), keep=keep, class_token=False)
    assert torch.equal(without, kept[:, :, 1:, 1:])


def test_another_grid_keeps_the_middle_and_the_outermost() -> None:
    table = torch.randn(entries((3, 3)), 1)
    bias = relative_bias(table, (3, 3), (5, 5))[0, 0]
    small = relative_bias(table, (3, 3), (3, 3))[0, 0]
    torch.testing.assert_close(bias[1, 1], small[1, 1])  # offset 0
    torch.testing.assert_close(bias[1, 25], small[1, 9])  # from corner to corner
    assert torch.equal(bias[0, 0], small[0, 0])


def build() -> SmallViT:
    network = backbone("small_vit", image_size=12, width=32, depth=2, heads=2, position="relative")
    assert isinstance(network, SmallViT)
    assert network.pos_bias is not None
    torch.nn.init.normal_(network.pos_bias)
    return network.eval()


def test_a_transformer_without_absolute_positions_sees_where_patches_are_to_one_another() -> None:
    network = build()
    x = torch.randn(1, 3, 12, 12)
    rolled = torch.roll(x, 4, dims=3)  # the same patches in other places
    tokens, others = network.tokens(x), network.tokens(rolled)
    assert not torch.allclose(tokens.mean(1), others.mean(1), atol=1e-3)
    assert network.pos_bias is not None
    network.pos_bias.data.zero_()
    torch.testing.assert_close(network.tokens(x).mean(1), network.tokens(rolled).mean(1))


def test_keeping_hiding_and_positions_agree() -> None:
    network = build()
    x = torch.randn(2, 3, 12, 12)
    everything = torch.arange(9).expand(2, -1)
    torch.testing.assert_close(network.tokens(x, keep=everything), network.tokens(x))
    keep, order = torch.tensor([[0, 4, 7], [8, 1, 3]]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(network.tokens(x, keep=keep)[:, order], network.tokens(x, keep=keep[:, order]))


def test_it_runs_under_bf16_autocast() -> None:
    network = build()
    x = torch.randn(2, 3, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = network.tokens(x, keep=torch.tensor([[0, 4], [8, 1]]))
    tokens.float().sum().backward()
    assert network.pos_bias is not None
    assert network.pos_bias.grad is not None


def test_what_all_blocks_share_is_in_the_last_layer_and_is_decayed() -> None:
    from timm.models import group_parameters

    layers = group_parameters(build(), build().group_matcher(), reverse=True)
    assert layers["pos_bias"] == layers["norm.weight"] == 3
    assert "pos_bias" not in build().no_weight_decay()
