from typing import Any

import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.networks import Backbone, backbone
from sslpipe.networks.patches import sincos_positions

timm = pytest.importorskip("timm")

VIT = "timm:vit_tiny_patch16_224"


def _check_features(network: Backbone, x: torch.Tensor) -> None:
    """Both from one pass: vectors and maps."""
    vector, maps = network.features(x)
    assert torch.equal(vector, network(x))
    assert torch.equal(maps, network.maps(x))


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224"]
)
def test_feature_maps(name: str) -> None:
    network = backbone(name, image_size=64).eval()
    x = torch.randn(1, 3, 64, 64)
    maps = network.maps(x)
    assert network.patch_size is None
    assert network.kind == ("resnet" if "resnet" in name else "cnn")
    assert maps.shape[:2] == (1, network.dim)
    torch.testing.assert_close(network.tokens(x), maps.flatten(2).transpose(1, 2))
    torch.testing.assert_close(network(x), network.model(x))  # type: ignore[operator]
    _check_features(network, x)


def test_small_stem_keeps_small_images_large() -> None:
    network = backbone("timm:resnet18", image_size=32, stem="small")
    assert network.maps(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert network.options == {"stem": "small", "drop_path": 0.0}


def test_a_vit_is_timms() -> None:
    network = backbone(VIT, image_size=32).eval()
    assert (network.patch_size, network.dim, network.grid) == (16, 192, (2, 2))
    x = torch.randn(2, 3, 32, 32)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    theirs.load_state_dict(network.model.state_dict())  # type: ignore[union-attr]
    expected = theirs.forward_features(x)
    torch.testing.assert_close(network.tokens(x, prefix=True), expected)
    torch.testing.assert_close(network(x), expected[:, 1:].mean(1))
    _check_features(network, x)
    cls = backbone(VIT, image_size=32, pool="cls").eval()
    cls.load_state_dict(network.state_dict())
    torch.testing.assert_close(cls(x), theirs(x))
    _check_features(cls, x)


@pytest.mark.parametrize("member", ["test_vit", "vit_dpwee_patch16_reg1_gap_256"])
def test_images_of_another_size_are_encoded_as_by_timm(member: str) -> None:
    if member not in timm.list_models():
        pytest.skip(f"this timm has no {member}")
    network = backbone(f"timm:{member}", image_size=32, patch_size=16).eval()
    x = torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(network.encode(x), network.model.forward_features(x))


def test_vit_positions_can_be_maes() -> None:
    network = backbone(VIT, image_size=32, patch_size=8, position="sincos")
    position = network.model.pos_embed  # type: ignore[union-attr]
    assert not position.requires_grad  # type: ignore[union-attr]
    assert not position[:, 0].any()  # type: ignore[index]
    assert torch.equal(position[:, 1:], sincos_positions((4, 4), 192))  # type: ignore[index]


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:convnext_atto", VIT])
def test_layers_for_layer_decay(name: str) -> None:
    from timm.models import group_parameters

    network = backbone(name, image_size=32)
    layers = group_parameters(network, network.group_matcher(), reverse=True)
    assert set(layers) == {parameter for parameter, _ in network.named_parameters()}
    if name == VIT:  # as MAE's get_layer_id_for_vit: all before the blocks 0, block i is i + 1, the rest last
        for parameter, layer in layers.items():
            parts = parameter.removeprefix("model.").split(".")
            expected = {"blocks": int(parts[1]) + 1 if parts[0] == "blocks" else 0, "norm": 13}
            assert layer == expected.get(parts[0], 0), parameter
        assert {"mask_token", "model.cls_token", "model.pos_embed"} <= network.no_weight_decay()
    else:
        original = timm.create_model(name.removeprefix("timm:"), num_classes=0)
        expected = group_parameters(original, original.group_matcher(coarse=False), reverse=True)
        assert layers == {f"model.{parameter}": layer for parameter, layer in expected.items()}


@pytest.fixture(scope="module")
def beit() -> Backbone:
    network = backbone("timm:beit_base_patch16_224", image_size=32, patch_size=8).eval()
    torch.nn.init.normal_(network.model.rel_pos_bias.relative_position_bias_table)  # type: ignore[union-attr]
    return network


def test_a_beit_is_timms_with_shared_positions(beit: Backbone) -> None:
    theirs = timm.create_model(
        "beit_base_patch16_224",
        num_classes=0,
        img_size=32,
        patch_size=8,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        use_fc_norm=False,
    ).eval()
    theirs.load_state_dict(beit.model.state_dict())  # type: ignore[union-attr]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(beit.tokens(x, prefix=True), theirs.forward_features(x))
        torch.testing.assert_close(beit(x), theirs(x))
        _check_features(beit, x)
        assert beit.maps(torch.randn(1, 3, 16, 24)).shape == (1, 768, 2, 3)
    assert (beit.kind, beit.patch_size, beit.dim, beit.grid) == ("vit", 8, 768, (4, 4))
    assert beit.model.blocks[0].gamma_1[0].item() == pytest.approx(0.1)  # type: ignore[union-attr, index]


def test_images_that_patches_do_not_tile_are_refused(beit: Backbone) -> None:
    for network in (beit, backbone(VIT, image_size=32, patch_size=8)):
        with pytest.raises(UserError, match=r"patches of 8 pixels, which do not tile 35: .* such as 32"):
            network(torch.zeros(1, 3, 35, 32))


def test_a_beits_layers_are_its_papers(beit: Backbone) -> None:
    from timm.models import group_parameters

    layers = group_parameters(beit, beit.group_matcher(), reverse=True)
    assert set(layers) == {parameter for parameter, _ in beit.named_parameters()}
    expected = {"mask_token": 0, "model.patch_embed.proj.weight": 0, "model.blocks.3.gamma_1": 4}
    expected |= {"model.norm.weight": 13, "model.rel_pos_bias.relative_position_bias_table": 13}
    assert {name: layers[name] for name in expected} == expected
    assert beit.no_weight_decay() == {"mask_token", "model.cls_token"}


def test_can_be_laid_out_without_memory() -> None:
    for name in ("timm:resnet18", VIT, "timm:beit_base_patch16_224"):
        with torch.device("meta"):
            network = backbone(name, image_size=32)
        assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnt18", {}, "did you mean 'resnet18'"),
        ("timm:hf-hub:someone/something", {}, "timm has no network"),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}, "no option 'checkpoint_path'"),
        ("timm:resnet18", {"pretrained": True}, "no option 'pretrained'"),
        ("timm:resnet18", {"stem": "tiny"}, "cannot have the stem 'tiny'"),
        ("timm:convnext_atto", {"stem": "small"}, "cannot have the stem 'small'"),
        ("timm:vit_tiny_patch16_224", {"patch_size": 7}, "patches of 7 pixels, which do not tile 32"),
        ("timm:vit_tiny_patch16_224", {"pool": "max"}, "pool 'mean' or 'cls'"),
        ("timm:vit_tiny_patch16_224", {"position": "relative"}, "position 'learned' or 'sincos'"),
        ("timm:beit_base_patch16_224", {"position": "learned"}, "no option 'position'"),
        ("timm:flexivit_small", {}, "give it the option patch_size"),
        ("timm:mixer_s32_224", {}, "no feature maps and is no plain vision transformer"),
        ("timm:mobilenetv3_small_050", {}, "widens its features after pooling"),
    ],
)
def test_bad_requests(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(name, image_size=32, **options)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_last_blocks_are_timms_intermediate_layers(pool: str) -> None:
    network = backbone("timm:vit_tiny_patch16_224", image_size=32, patch_size=8, pool=pool).eval()
    x = torch.randn(2, 3, 32, 32)
    layers = network.model.get_intermediate_layers(x, n=4, return_prefix_tokens=True, norm=True)
    expected = [prefix[:, 0] if pool == "cls" else patches.mean(dim=1) for patches, prefix in layers]
    torch.testing.assert_close(network.last_blocks(x, 4), torch.cat(expected, dim=1))


def test_last_blocks_of_beits_network() -> None:
    network = backbone("timm:beit_base_patch16_224", image_size=32).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.last_blocks(x, 3)[:, -network.dim :], network(x))
        assert network.last_blocks(x, 3).shape == (1, 3 * network.dim)
