"""Two gloo processes of B rows each against one process of 2B."""

import pytest
import ranks
import torch
from ranks import WORLD
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.core import distributed
from sslpipe.losses import nt_xent, swapped_prediction
from sslpipe.losses.clustering import sinkhorn
from sslpipe.networks import backbone
from sslpipe.networks.heads import mlp

pytestmark = pytest.mark.slow

B = 6


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, WORLD * B, 3, 8, 8, generator=generator, dtype=torch.float64).unbind()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = backbone("small_resnet", image_size=8, width=4, stages=3, stem_stride=1)
    return nn.Sequential(body, mlp(16, 8, 5, last_norm="affine")).double()


def mine(x: Tensor) -> Tensor:
    """This rank's rows."""
    return x.chunk(distributed.world_size())[distributed.rank()]


def simclr() -> dict[str, Tensor]:
    """Gradients and statistics of one SimCLR step, averaged over ranks as DDP does."""
    net = network()
    x1, x2 = (mine(x) for x in data())
    z1, z2 = net(torch.cat([x1, x2])).chunk(2)
    loss = nt_xent(distributed.gather(z1), distributed.gather(z2), 0.2)
    loss.backward()
    return {"loss": loss.detach()} | _state(net)


def local_mean() -> dict[str, Tensor]:
    """A loss that is a mean over this rank's rows only."""
    net = network()
    loss = net(mine(data()[0])).square().cos().mean()
    loss.backward()
    return {"loss": distributed.mean(loss)} | _state(net)


def swav() -> dict[str, Tensor]:
    """Codes from the gathered scores, of which each rank keeps its rows."""
    net = network()
    scores = [nn.functional.normalize(net(mine(x)), dim=1) for x in data()]
    codes = [mine(sinkhorn(distributed.gather(score.detach()), 0.05, 3)) for score in scores]
    loss = swapped_prediction(scores, codes, 0.1)
    loss.backward()
    return {"loss": distributed.mean(loss)} | _state(net)


def gathered() -> dict[str, Tensor]:
    """What gather and mean give."""
    own = torch.arange(2.0) + 10 * distributed.rank()
    return {"rows": distributed.gather(own), "mean": distributed.mean(own)}


def foreign() -> dict[str, Tensor]:
    """Nothing, if a batch norm of another kind is refused."""

    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match=r"the layer 0 \(Odd\) cannot share batch statistics"):
        distributed.synchronise(nn.Sequential(Odd(3)))
    return {}


def _state(net: nn.Module) -> dict[str, Tensor]:
    grads = {name: distributed.mean(p.grad) for name, p in net.named_parameters() if p.grad is not None}
    return grads | {name: buffer.clone() for name, buffer in net.named_buffers()}


WORKS = {work.__name__: work for work in (simclr, local_mean, swav, gathered, foreign)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ranks.Found:
    """What two processes find."""
    return ranks.run(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("work", ["simclr", "local_mean", "swav"])
def test_two_processes_are_one_with_twice_the_rows(found: ranks.Found, work: str) -> None:
    alone = WORKS[work]()
    assert any(value.abs().max() > 1e-3 for name, value in alone.items() if name.endswith("weight"))
    ranks.check_same(found[work], alone, rtol=1e-9, atol=1e-11)


def test_gather_is_in_rank_order_and_mean_is_over_ranks(found: ranks.Found) -> None:
    for rank in found["gathered"]:
        assert rank["rows"].tolist() == [0, 1, 10, 11]
        assert rank["mean"].tolist() == [5, 6]


def test_a_batch_norm_of_another_kind_is_refused(found: ranks.Found) -> None:
    assert found["foreign"] == [{}, {}]  # and no rank failed


def test_alone_everything_is_the_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.gather(x) is x
    assert torch.equal(distributed.mean(x), x)
    assert not distributed.mean(x).requires_grad


def test_batch_norms_of_others_become_ours_and_stay_as_they_are() -> None:
    theirs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(16))
    x = torch.randn(8, 3, 2, 2)
    expected, keys = theirs.eval()(x), list(theirs.state_dict())
    ours = distributed.synchronise(theirs)
    assert isinstance(ours[1], distributed.BatchNorm2d)  # type: ignore[index]
    assert isinstance(ours[3], distributed.BatchNorm1d)  # type: ignore[index]
    assert torch.equal(ours(x), expected)
    assert list(ours.state_dict()) == keys


def test_our_batch_norms_can_keep_to_their_own_rank_again() -> None:
    ours = nn.Sequential(
        nn.Conv2d(3, 4, 1), distributed.BatchNorm2d(4), nn.Flatten(), distributed.BatchNorm1d(16)
    )
    x, keys = torch.randn(8, 3, 2, 2), list(ours.state_dict())
    expected = ours.eval()(x)
    theirs = distributed.unsynchronise(ours)
    assert [type(theirs[layer]) for layer in (1, 3)] == [nn.BatchNorm2d, nn.BatchNorm1d]  # type: ignore[index]
    assert torch.equal(theirs(x), expected)
    assert list(theirs.state_dict()) == keys
