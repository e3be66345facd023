"""Steps of two ranks, each on a pretended GPU: what they say to each other lies on GPUs, and nobody waits."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ranks
import torch
import torch.distributed as dist
from pretended import DeviceMismatch, Gpu, pretending
from pretended.renderer import stand_in
from support import BACKBONES, SIZE, SMALL, ToyReader, small_engine, small_method
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sslpipe import methods, networks
from sslpipe.core import distributed
from sslpipe.core.distributed import synchronise
from sslpipe.training.core import parallel
from sslpipe.training.core.config import Config
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.step import TrainingStep
from sslpipe.views.engine import ViewEngine

pytestmark = pytest.mark.slow

BATCH = 8  # images a rank


current: Gpu | None = None  # the one that is pretended


def losses(name: str, device: str) -> Tensor:
    """Of the steps of this rank; gradients are its own, since torch's wrappers take real tensors alone."""
    changes = {"queue": 2 * BATCH} if "queue" in SMALL.get(name, {}) else {}
    method = synchronise(small_method(name, **changes)).to(device).train()
    renderer = "reference" if device == "cpu" else "auto"
    engine = ViewEngine(small_engine(name).recipe, seed=0, device=device, renderer=renderer)
    first = distributed.rank() * BATCH
    batch = ToyReader(2 * BATCH).gather(range(first, first + BATCH))
    with patch.object(parallel, "wrap", lambda method, config: method):
        config = Config(batch_size=2 * BATCH, epochs=1, precision="fp32")
        step = TrainingStep(method, config, method.optimizer, steps_per_epoch=2, seed=0)
    ledger, found = Ledger(torch.device(device), Path("unused"), lag=4), []
    for number in range(2):
        views = engine(batch, 0)
        with current.phase("step") if current else contextlib.nullcontext():
            gradient = step.gradient(number, views)
            ledger.note(number + 1, gradient.lr, gradient.numbers, batch.index)
            step.update(gradient, ledger.mask)
        found.append(gradient.numbers["loss"].detach())
    return torch.stack(found).cpu()


def watched(name: str) -> dict[str, Tensor]:
    """The same on a CPU and on a pretended GPU."""
    global current
    here = losses(name, "cpu")
    with pretending() as current, contextlib.ExitStack() as stack:
        stand_in(lambda owner, key, value: stack.enter_context(patch.object(owner, key, value)))
        there = losses(name, "cuda")
        faults = current.of("race", "pageable") + current.of("wait", phase="step")
    current = None
    assert faults == [], faults
    return {"here": here, "there": there}


def refused() -> dict[str, Tensor]:
    """What NCCL would refuse, or wait for, within a step."""
    with pretending() as gpu:
        dist.all_reduce(torch.ones(1))  # between steps by gloo
        with gpu.phase("step"):
            for work in (
                lambda: dist.all_reduce(torch.ones(1)),
                lambda: dist.all_gather([torch.ones(1)] * 2, torch.ones(1, device="cuda")),
                lambda: parallel.gathered(1),
                lambda: dist.barrier(),
            ):
                with pytest.raises(DeviceMismatch):
                    work()
    return {"well": torch.ones(1)}


class Watching(TorchDispatchMode):
    """For torch's wrappers, which take real tensors alone: reading a number is an error.

    Beside it, tensors that are made without naming a device lie nowhere.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            # DDP looks up which parameters had a gradient, in a map of int32 that lies on the host anyway.
            assert args[0].dtype == torch.int32, "the host waits for a number"
        return func(*args, **(kwargs or {}))


def wrapped(name: str, sharding: str) -> dict[str, Tensor]:
    """Steps by DDP, or by FSDP2 of a vision transformer, clipped: once watched, once not."""
    outcomes = []
    for watched in (False, True):
        config = Config(batch_size=2 * BATCH, epochs=1, precision="fp32", sharding=sharding)
        torch.manual_seed(0)
        kind = "small_vit" if sharding == "fsdp" else methods.find(name).default_backbone
        backbone = networks.backbone(kind, image_size=SIZE, **BACKBONES[kind])
        method = synchronise(methods.build(name, backbone, SMALL.get(name, {}))).train()
        optimizer = method.optimizer.model_copy(update={"clip": 0.1})
        step = TrainingStep(method, config, optimizer, steps_per_epoch=2, seed=0)
        assert any(map(parallel.is_sharded, method.parameters())) == (sharding == "fsdp")
        ledger, first = Ledger(torch.device("cpu"), Path("unused"), lag=4), distributed.rank() * BATCH
        batch = ToyReader(2 * BATCH).gather(range(first, first + BATCH))
        for number in range(3):
            views = small_engine(name, backbone=kind)(batch, 0)
            with contextlib.ExitStack() as stack:
                if watched and number:  # the first one also makes what lasts
                    stack.enter_context(torch.device("meta"))
                    stack.enter_context(Watching())
                    for word in ("all_gather_object", "broadcast_object_list", "barrier"):
                        stack.enter_context(patch.object(dist, word, side_effect=AssertionError(word)))
                gradient = step.gradient(number, views)
                ledger.note(number + 1, gradient.lr, gradient.numbers, batch.index)
                step.update(gradient, ledger.mask)
        whole = parallel.whole(dict(method.named_parameters()))
        outcomes.append(torch.cat([value.detach().flatten() for value in whole.values()]))
    return {"plain": outcomes[0], "watched": outcomes[1]}


TRANSFORMERS = [name for name in methods.names() if "vit" in methods.find(name).takes]
WORKS = {
    **{name: partial(watched, name) for name in methods.names()},
    **{f"ddp {name}": partial(wrapped, name, "ddp") for name in methods.names()},
    **{f"fsdp {name}": partial(wrapped, name, "fsdp") for name in TRANSFORMERS},
    "refused": refused,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ranks.Found:
    return ranks.run(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", methods.names())
def test_steps_of_two_ranks(name: str, found: ranks.Found) -> None:
    for rank in found[name]:
        torch.testing.assert_close(rank["there"], rank["here"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sharding"), [*((n, "ddp") for n in methods.names()), *((n, "fsdp") for n in TRANSFORMERS)]
)
def test_steps_of_torchs_wrappers_name_their_device_and_wait_for_no_number(
    name: str, sharding: str, found: ranks.Found
) -> None:
    for rank in found[f"{sharding} {name}"]:
        assert torch.equal(rank["watched"], rank["plain"])


def test_collectives_of_the_cpu_are_refused_within_a_step(found: ranks.Found) -> None:
    assert all(rank["well"] == 1 for rank in found["refused"])
