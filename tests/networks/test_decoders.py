import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.core.distributed import BatchNorm2d
from sslpipe.networks.decoders import MAEDecoder, MapDecoder


@pytest.fixture
def decoder() -> MAEDecoder:
    return MAEDecoder(12, (3, 3), 48, width=16, depth=1, heads=2).eval()


@pytest.mark.parametrize("prefix", [0, 1])
def test_predicts_every_patch(decoder: MAEDecoder, prefix: int) -> None:
    keep = torch.tensor([[4, 1], [0, 8]])
    assert decoder(torch.randn(2, prefix + 2, 12), keep).shape == (2, 9, 48)


def test_the_order_of_the_kept_patches_does_not_matter(decoder: MAEDecoder) -> None:
    visible, keep = torch.randn(1, 4, 12), torch.tensor([[4, 1, 7]])
    order = [2, 0, 1]
    shuffled = torch.cat([visible[:, :1], visible[:, 1:][:, order]], 1)
    torch.testing.assert_close(decoder(shuffled, keep[:, order]), decoder(visible, keep))


def test_hidden_patches_differ_by_position_only(decoder: MAEDecoder) -> None:
    # With positions taken away, all mask tokens give the same prediction, which no visible patch gives.
    decoder.positions.zero_()
    prediction = decoder(torch.randn(1, 2, 12), torch.tensor([[4, 1]]))[0]
    hidden = [i for i in range(9) if i not in (4, 1)]
    torch.testing.assert_close(prediction[hidden], prediction[hidden[:1]].expand(7, -1))
    assert not torch.allclose(prediction[4], prediction[hidden[0]])


def test_every_parameter_gets_a_gradient(decoder: MAEDecoder) -> None:
    decoder(torch.randn(1, 2, 12), torch.tensor([[4, 1]])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 4 and of its 3 heads: it is 16"):
        MAEDecoder(12, (3, 3), 48, width=16, heads=3)


@pytest.mark.parametrize("side", [4, 7, 1])
def test_maps_become_a_grid_of_the_side_that_is_asked_for(side: int) -> None:
    decoder = MapDecoder(12, 5, side=side, width=8)
    out = decoder(torch.randn(2, 12, 2, 2))
    assert out.shape == (2, 5, side, side)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_its_batch_norms_are_those_of_all_processes() -> None:
    norms = [m for m in MapDecoder(12, 5, side=4).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, BatchNorm2d) for norm in norms)
