import pytest
import torch
from torch import nn

from sslpipe.networks.heads import mlp


def kinds(head: nn.Sequential) -> list[str]:
    return [type(part).__name__ for part in head]


def test_two_layers() -> None:
    head = mlp(6, 5, 4)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert head(torch.randn(3, 6)).shape == (3, 4)
    assert head[0].bias is None
    assert head[3].bias is not None


@pytest.mark.parametrize("last_norm", ["affine", "scale", "plain"])
def test_a_last_norm_leaves_zero_mean_and_unit_variance(last_norm: str) -> None:
    head = mlp(6, 5, 4, layers=3, last_norm=last_norm)  # type: ignore[arg-type]
    assert head[-2].bias is None
    z = head(torch.randn(64, 6))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    affine = {name for name, _ in head[-1].named_parameters()}
    assert {name.split(".")[-1] for name in affine} == {
        "affine": {"weight", "bias"},
        "scale": {"weight"},
        "plain": set(),
    }[last_norm]


def test_options() -> None:
    assert kinds(mlp(6, 5, 4, layers=1)) == ["Linear"]
    assert kinds(mlp(6, 5, 4, norm=False)) == ["Linear", "ReLU", "Linear"]
    assert mlp(6, 5, 4, norm=False)[0].bias is not None
    assert mlp(6, 5, 4, last_bias=False)[-1].bias is None


def test_a_scale_norm_saves_and_loads() -> None:
    head, twin = mlp(6, 5, 4, last_norm="scale"), mlp(6, 5, 4, last_norm="scale")
    head(torch.randn(8, 6))
    twin.load_state_dict(head.state_dict())
    x = torch.randn(8, 6)
    torch.testing.assert_close(twin.eval()(x), head.eval()(x))
