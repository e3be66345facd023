from typing import Any

import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.networks import Backbone, backbone, build

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("small_resnet", {}),
    ("small_resnet", {"width": 8, "stages": 3, "depth": 2, "stem_stride": 1}),
    ("small_vit", {"width": 32, "depth": 2, "heads": 2}),
    ("small_vit", {"width": 32, "depth": 1, "heads": 2, "pool": "cls", "position": "learned"}),
    ("small_vit", {"width": 32, "depth": 1, "heads": 2, "class_token": False, "layer_scale": 0.1}),
    ("small_vit", {"width": 32, "depth": 2, "heads": 2, "position": "relative", "layer_scale": 0.1}),
    ("small_vit", {"width": 32, "depth": 1, "heads": 2, "position": "relative", "class_token": False}),
]


@pytest.mark.parametrize(("name", "options"), SMALL)
class TestProtocol:
    @pytest.fixture
    def network(self, name: str, options: dict[str, Any]) -> Backbone:
        return backbone(name, image_size=28, **options)

    def test_shapes_agree(self, network: Backbone) -> None:
        x = torch.randn(2, 3, 28, 28)
        maps = network.maps(x)
        assert network(x).shape == (2, network.dim)
        assert maps.shape[:2] == (2, network.dim)
        torch.testing.assert_close(network.tokens(x), maps.flatten(2).transpose(1, 2))
        if network.patch_size is not None:
            assert network.grid == maps.shape[2:] == (28 // network.patch_size,) * 2

    def test_one_pass_gives_vectors_and_maps(self, network: Backbone) -> None:
        x, passes = torch.randn(2, 3, 20, 28), []
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, output: passes.append(1))
        vector, maps = network.eval().features(x)
        assert len(passes) == 1
        assert torch.equal(vector, network(x))
        assert torch.equal(maps, network.maps(x))

    def test_last_blocks_end_with_the_features(self, network: Backbone) -> None:
        x, vit = torch.randn(2, 3, 28, 28), network.kind == "vit"
        depth = len(network.blocks) if vit else 1  # type: ignore[arg-type]
        side_by_side = network.eval().last_blocks(x, 2)
        assert side_by_side.shape == (2, min(2, depth) * network.dim)
        torch.testing.assert_close(side_by_side[:, -network.dim :], network(x))
        assert not any(block._forward_hooks for block in network.modules())
        assert torch.equal(network.last_blocks(x, 1), network(x))

    def test_options_rebuild_it(self, network: Backbone) -> None:
        twin = backbone(network.name, image_size=network.image_size, **network.options)
        twin.load_state_dict(network.state_dict())
        x = torch.randn(2, 3, 28, 28)
        torch.testing.assert_close(twin.eval()(x), network.eval()(x))

    def test_every_trained_parameter_gets_a_gradient(self, network: Backbone) -> None:
        # The class token speaks through attention, so not from the only block of a mean-pooled network.
        x = torch.randn(2, 3, 28, 28)
        (network(x).square().sum() + network.tokens(x).square().sum()).backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name

    def test_every_parameter_has_a_layer_and_they_rise(self, network: Backbone) -> None:
        from timm.models import group_parameters

        layers = group_parameters(network, network.group_matcher(), reverse=True)
        assert set(layers) == {name for name, _ in network.named_parameters()}
        first = "stem.0.weight" if network.kind == "resnet" else "patch_embed.weight"
        assert layers[first] == 0
        blocks = [layers[name] for name in layers if name.startswith("blocks.")]
        assert blocks == sorted(blocks)
        if network.kind == "vit":
            assert layers["norm.weight"] == max(layers.values()) == len(network.blocks) + 1  # type: ignore[arg-type]

    def test_undecayed_names_exist(self, network: Backbone) -> None:
        assert network.no_weight_decay() <= {name for name, _ in network.named_parameters()} | {
            "cls_token",
            "pos_embed",
        }

    def test_can_be_laid_out_without_memory(self, network: Backbone) -> None:
        with torch.device("meta"):
            twin = backbone(network.name, image_size=28, **network.options)
        assert twin.patch_size == network.patch_size
        assert next(twin.parameters()).is_meta

    def test_other_image_sizes_can_be_fed(self, network: Backbone) -> None:
        assert network(torch.randn(2, 3, 20, 20)).shape == (2, network.dim)


def test_the_default_resnet_is_the_trials() -> None:
    network = backbone("small_resnet", image_size=28)
    assert network.dim == 128
    assert network.maps(torch.zeros(1, 3, 28, 28)).shape[2:] == (2, 2)


def test_convolutions_run_channels_last() -> None:
    network = backbone("small_resnet", image_size=28)
    assert network.maps(torch.zeros(2, 3, 28, 28)).is_contiguous(memory_format=torch.channels_last)


def test_a_batch_does_not_change_an_images_features() -> None:
    network = backbone("small_resnet", image_size=28).eval()
    x = torch.randn(4, 3, 28, 28)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


@pytest.mark.parametrize("what", [{"keep": torch.zeros(1, 1).long()}, {"mask": torch.ones(1, 4).bool()}])
def test_a_cnn_cannot_hide_patches(what: dict[str, torch.Tensor]) -> None:
    network = backbone("small_resnet", image_size=28)
    with pytest.raises(UserError, match=r"small_resnet has no patches to hide: .* small_vit"):
        network.tokens(torch.zeros(1, 3, 28, 28), **what)
    with pytest.raises(UserError, match="small_resnet has no patches to hide"):
        network.learn_mask_token()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small_resnt", {}, "did you mean 'small_resnet'"),
        ("resnet18", {}, "unknown backbone 'resnet18'.*timm:<name>"),
        ("timm:", {}, "unknown backbone"),
        ("small_resnet", {"widht": 8}, "no option 'widht' .did you mean 'width'"),
        ("small_resnet", {"image_size_": 8}, "no option 'image_size_'"),
        ("small_resnet", {"stages": 5}, "stages 3 or 4"),
        ("small_resnet", {"width": "16"}, "cannot be built with width '16'"),
        ("small_vit", {"patch_size": 5}, "patches of 5 pixels, which do not tile 28"),
        ("small_vit", {"patch_size": 0}, "patches of 0 pixels"),
        ("small_vit", {"heads": 3}, "multiple of 4 and of its heads"),
        ("small_vit", {"heads": 0}, "multiple of 4 and of its heads"),
        ("small_vit", {"position": "rotary"}, "'sincos', 'learned' or 'relative'"),
        ("small_vit", {"pool": "max"}, "'mean' or 'cls'"),
        ("small_vit", {"pool": "cls", "class_token": False}, "class_token must be true"),
        ("small_vit", {"drop_path": 1.0}, "from 0 to below 1"),
    ],
)
def test_bad_requests_are_one_clear_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        backbone(name, image_size=28, **options)
    assert "\n" not in str(caught.value)


def test_an_image_size_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="image_size is 0"):
        backbone("small_resnet", image_size=0)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("small_resnet", {}, None),
        ("torchvision:resnet18", {"stem": "small"}, None),
        ("timm:convnext_atto", {}, None),
        ("small_vit", {"patch_size": 8}, 8),
        ("timm:vit_tiny_patch16_224", {}, 16),
        ("timm:beit_base_patch16_224", {}, 16),
    ],
)
def test_the_patch_size_is_found_without_weights(
    name: str, options: dict[str, Any], size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.patch_size(name, image_size=64, **options) == size
    if size is None:
        monkeypatch.setattr(build, "backbone", None)  # nothing is built
        assert build.patch_size(name, image_size=64, **options) is None
