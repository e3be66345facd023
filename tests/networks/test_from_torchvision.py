import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.networks import backbone

models = pytest.importorskip("torchvision").models


def test_a_resnet_is_torchvisions() -> None:
    network = backbone("torchvision:resnet18", image_size=64).eval()
    theirs = models.resnet18(weights=None).eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(network.trunk.state_dict())  # type: ignore[union-attr]
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network(x), theirs(x))
    assert network.maps(x).shape == (1, network.dim, 2, 2) == (1, 512, 2, 2)
    vector, maps = network.features(x)
    assert torch.equal(vector, network(x))
    assert torch.equal(maps, network.maps(x))


def test_small_stem() -> None:
    network = backbone("torchvision:resnet18", image_size=32, stem="small")
    assert network.maps(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 9), ("mobilenet_v3_small", 13)])
def test_layers_for_layer_decay(name: str, layers: int) -> None:
    from timm.models import group_parameters

    network = backbone(f"torchvision:{name}", image_size=32)
    found = group_parameters(network, network.group_matcher(), reverse=True)
    assert set(found) == {parameter for parameter, _ in network.named_parameters()}
    assert set(found.values()) == set(range(layers))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt18", {}, "did you mean 'resnet18'"),
        ("vit_b_16", {}, "is not covered: .*timm:<name>"),
        ("resnet18", {"stem": "big"}, "cannot have the stem 'big'"),
        ("resnet18", {"weights": "DEFAULT"}, "no option 'weights'"),
    ],
)
def test_bad_requests(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(f"torchvision:{name}", image_size=32, **options)
