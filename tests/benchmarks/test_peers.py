"""Peers of lightly's parts train in our loop, and step for step they do what our methods do."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import BENCHMARKS, load
from support import BACKBONES, SIZE, SMALL, ToyReader, preprocess, small_engine, small_method
from torch import Tensor, nn

from sslpipe import methods, networks
from sslpipe.console.errors import UserError
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.evals.base.embed import random_twin
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Method
from sslpipe.methods.mae import visible
from sslpipe.networks.vit import SmallViT
from sslpipe.training.core import optim
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.views.view import View

NAMES = ("simclr", "moco", "byol", "simsiam", "swav", "mae")
N, STEPS, TOTAL = 16, 4, 100_000


@functools.cache
def peers() -> Any:
    """benchmarks/peers.py. Not loaded when tests are collected: lightly takes ten seconds in every worker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightly's own
        pytest.importorskip("lightly", reason="lightly is not installed")
        return load(BENCHMARKS / "peers.py")


@pytest.fixture(autouse=True, scope="module")
def with_lightly() -> None:
    peers()


def small_peer(name: str, seed: int = 0, **changes: Any) -> Method:
    torch.manual_seed(seed)
    kind = methods.find(name).default_backbone
    backbone = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind])
    return peers().build(name, backbone, methods.configure(name, {**SMALL.get(name, {}), **changes}))


def test_the_names() -> None:
    assert tuple(peers().PEERS) == NAMES
    with pytest.raises(UserError, match="rotation has no peer: choose one of simclr"):
        peers().build(
            "rotation", networks.backbone("small_resnet", image_size=SIZE), methods.configure("rotation")
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_equal_by_definition(name: str) -> None:
    ours, peer = methods.find(name), peers().PEERS[name]
    assert (peer.Config, peer.paper, peer.takes) == (ours.Config, ours.paper, ours.takes)
    assert peer.default_backbone == ours.default_backbone
    config = methods.configure(name, SMALL.get(name))
    assert peer.recipe(config, 28, 4) == ours.recipe(config, 28, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_a_toy_set_in_our_loop(name: str, toy_reader: ToyReader, tmp_path: Path) -> None:
    peer, engine = small_peer(name), small_engine(name)
    # Always the same views, which are learned by heart whatever the numbers are rounded to.
    engine.ahead = lambda batches, epoch: type(engine).ahead(engine, batches, 0)
    start = {key: value.clone() for key, value in peer.encoder.state_dict().items()}
    history = train(
        peer,
        Loader(toy_reader, batch_size=N, seed=0),
        engine,
        Config(epochs=30, batch_size=N, log_every=6, checkpoint_seconds=0.5),
        OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0),
        seed=0,
        checkpoints=Checkpoints(tmp_path),
    )
    losses = torch.tensor([row["loss"] for row in history.rows])
    assert torch.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.05 * losses[0].abs()
    encoder = peer.encoder.eval()
    assert any(not torch.equal(start[key], value) for key, value in encoder.state_dict().items())
    encoder.preprocess = preprocess()
    features = encoder(torch.randn(2, 3, SIZE, SIZE))
    assert features.shape == random_twin(encoder, 0)(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, encoder.dim)


@pytest.mark.parametrize("name", NAMES)
def test_the_optimiser_gets_the_same_parameters_in_the_same_groups(name: str) -> None:
    ours, peer = small_method(name), small_peer(name)
    if name == "simclr":
        peer.projector.layers[-1].bias.requires_grad_(False)  # type: ignore[union-attr, index]
    if name == "swav":
        peer.prototypes.heads[0].bias.requires_grad_(False)  # type: ignore[union-attr, index]

    def groups(method: Method) -> Iterator[tuple[Any, ...]]:
        for group in method.parameter_groups():
            count = sum(parameter.numel() for parameter in group.parameters)
            yield count, group.decay, group.adapt, group.fixed_lr

    assert list(groups(peer)) == list(groups(ours))


# Weights are equal, the views are the same, the optimiser is the same: so must be all losses and the trained weights.


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("simclr", {}),
        ("simclr", {"projector_norm": None}),
        ("moco", {}),
        ("moco", {"version": 1, "projector_hidden": 0}),
        ("byol", {}),
        ("byol", {"projector_norm": None}),
        ("simsiam", {}),
        ("swav", {}),
        ("swav", {"local_crops": 0, "queue": 0, "freeze_prototypes": 0}),
    ],
)
def test_each_step_is_ours(name: str, changes: dict[str, Any], toy_reader: ToyReader) -> None:
    ours, peer = twins(name, **changes)
    # In lightly's SwAV batch norm sees each crop apart: equal only where it normalises by its running statistics.
    training = name != "swav"
    views = small_engine(name, **changes)
    expected, losses = (steps(method.train(training), views, toy_reader) for method in (ours, peer))
    if name == "byol":  # without the constant of 2 − 2·cos, for each of two views
        losses = [loss + 4 for loss in losses]
    torch.testing.assert_close(losses, expected, rtol=1e-7, atol=0)
    assert len(set(expected)) == STEPS
    for key, value in peer.encoder.state_dict().items():
        torch.testing.assert_close(value, ours.encoder.state_dict()[key], rtol=1e-6, atol=1e-9)


def test_each_step_of_mae_is_ours_with_our_masks(
    toy_reader: ToyReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = small_method("mae").double(), small_peer("mae").double()
    give_mae(ours, peer)
    shown: list[View] = []

    def engine(batch: Any, epoch: int) -> list[View]:
        shown[:] = small_engine("mae")(batch, epoch)
        return shown

    def our_mask(size: tuple[int, int], mask_ratio: float, device: Any) -> tuple[Tensor, Tensor]:
        mask = shown[0].masks
        assert mask is not None
        count = int(mask[0].sum())  # place 0 is the class token's
        keep, hidden = (
            visible(mask, count) + 1,
            visible(~mask, mask.shape[1] - count) + 1,
        )
        theirs = lightly_mask(size, mask_ratio=mask_ratio, device=device)
        keep = torch.cat([torch.zeros_like(keep[:, :1]), keep], dim=1)
        assert [index.shape for index in theirs] == [keep.shape, hidden.shape]
        return keep, hidden

    lightly_mask = peers().utils.random_token_mask
    monkeypatch.setattr(peers().utils, "random_token_mask", our_mask)
    expected, losses = (steps(method.train(), engine, toy_reader) for method in (ours, peer))
    # Lightly's positions are in single precision.
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    for key, value in peer.encoder.state_dict().items():
        torch.testing.assert_close(value, ours.encoder.state_dict()[key], rtol=1e-4, atol=1e-6)


def test_maes_encoder_gives_the_features_of_lightlys(toy_reader: ToyReader) -> None:
    peer = small_peer("mae").double()
    steps(peer.train(), small_engine("mae"), toy_reader)
    x = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)
    tokens = peer.eval().vit.encode(x)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(peer.encoder.tokens(x, prefix=True), tokens, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(peer.encoder(x), tokens[:, 1:].mean(dim=1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"position": "learned"}, {"class_token": False}, {"drop_path": 0.1}, {"layer_scale": 0.1}]
)
def test_mae_refuses_a_backbone_that_timm_has_no_twin_of(options: dict[str, Any]) -> None:
    backbone = networks.backbone("small_vit", image_size=SIZE, **{**BACKBONES["small_vit"], **options})
    with pytest.raises(UserError, match="small_vit with sincos positions"):
        peers().build("mae", backbone, methods.configure("mae", SMALL["mae"]))


def steps(method: Method, views: Any, reader: ToyReader) -> list[float]:
    """The losses of some steps, in double precision."""
    config = OptimizerConfig(name="sgd", lr=0.05, rule="absolute", weight_decay=1e-2, warmup_epochs=0)
    optimizer = optim.build(method.parameter_groups(), config, N)
    loader, losses = Loader(reader, batch_size=N, seed=0), []
    for step in range(STEPS):
        epoch, place = divmod(step, loader.steps)
        shown = views(next(iter(loader.epoch(epoch, start=place))), epoch)
        for view in shown:
            object.__setattr__(view, "pixels", view.pixels.double())
        # So early in so long a training lightly's cosine of the momentum is ours.
        clock = Clock(step, epoch, step / TOTAL, torch.Generator().manual_seed(step))
        outcome = method.step(shown, clock)
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        method.before_update(clock)
        optimizer.step()
        method.after_update(clock)
        losses.append(outcome.loss.item())
    return losses


def twins(name: str, **changes: Any) -> tuple[Method, Method]:
    """Our method and its peer with equal weights, in double precision."""
    ours: Any = small_method(name, **changes).double()
    peer: Any = small_peer(name, seed=1, **changes).double()
    for parameter in ours.parameters():
        if (
            parameter.requires_grad
        ):  # norms of 1, biases of 0 and targets like their networks would hide mistakes
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    peer.backbone.load_state_dict(ours.backbone.state_dict())
    give(ours.projector, peer.projector)
    if name in ("byol", "simsiam"):
        give(ours.predictor, peer.predictor)
    if name in ("byol", "moco"):
        followers = (ours.target if name == "byol" else ours.key_encoder).network
        peer.backbone_momentum.load_state_dict(followers[0].state_dict())
        give(followers[1], peer.projector_momentum)
    if name == "simclr" and changes.get("projector_norm", "scale"):
        peer.projector.layers[-1].bias.requires_grad_(False)  # the shift that ours does not have
    if name == "moco":
        # Ours is normalised again in the loss, lightly's only when it is filled.
        ours.queue.vectors.copy_(nn.functional.normalize(ours.queue.vectors, dim=1))
        peer.criterion.memory_bank.bank.copy_(ours.queue.vectors)
    if name == "swav":
        (head,) = peer.prototypes.heads
        head.weight.data.copy_(ours.prototypes)
        head.bias.data.zero_()
        head.bias.requires_grad_(False)  # until the first step; by then the optimiser does not know it
    return ours, peer


def give(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy the weights of a head to another, layer by layer."""
    heads = [
        [layer for layer in head.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
        for head in (ours, theirs)
    ]
    for mine, other in zip(*heads, strict=True):
        missing, unexpected = other.load_state_dict(mine.state_dict(), strict=False)
        assert not unexpected
        assert not missing or (
            missing == ["bias"] and isinstance(mine, nn.BatchNorm1d)
        )  # of 0: SimCLR's shift


def give_mae(ours: Any, peer: Any) -> None:
    """Copy the weights of lightly's MAE to ours, block by block, after shaking them."""
    for parameter in peer.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    assert isinstance(ours.backbone, SmallViT)
    ours.backbone.load_state_dict(peer.encoder.state_dict())
    ours.decoder.mask_token.data.copy_(peer.decoder.mask_token)
    ours.decoder.embed.load_state_dict(peer.decoder_embed.state_dict())
    ours.decoder.predict.load_state_dict(peer.prediction_head.state_dict())
    ours.decoder.norm.load_state_dict(peer.decoder.norm.state_dict())
    ours.decoder.blocks.load_state_dict(
        {peers()._our_name(key): value for key, value in peer.decoder.blocks.state_dict().items()}
    )
