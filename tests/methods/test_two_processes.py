"""Every method, found by itself: two processes with half the batch each do what one does with the whole of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import ranks
import torch
import torch._dynamo  # slow, and once for both ranks: torch wants it at the first checkpoint
from ranks import WORLD
from support import ToyReader, descend, noise_views, small_engine, small_method
from torch import Tensor, nn

from sslpipe import methods
from sslpipe.core import distributed
from sslpipe.methods.base.method import Clock
from sslpipe.networks.queue import Queue

pytestmark = pytest.mark.slow

BATCH, STEPS = 16, 3

#: What must be off for the comparison: MoCo's shuffled batch norm sees one rank's images only, and is meant to.
CHANGES: dict[str, dict[str, Any]] = {"moco": {"shuffle": False}}


#: Methods with parts that are float32 by nature: a tokenizer's words, colours' bins.
SINGLE = ("beit", "colorization")


def clock(step: int = 0) -> Clock:
    return Clock(step, step, step / STEPS, torch.Generator().manual_seed(step))


def train(name: str) -> dict[str, Tensor]:
    """Losses and gradients of a few steps, and all that the method holds after them."""
    dtype = torch.float32 if name in SINGLE else torch.float64
    method = small_method(name, **CHANGES.get(name, {})).to(dtype).train()
    engine, reader = small_engine(name, **CHANGES.get(name, {})), ToyReader(count=BATCH * STEPS)
    found: dict[str, Tensor] = {}
    size, rank = BATCH // distributed.world_size(), distributed.rank()
    for step in range(STEPS):
        views = engine(reader.gather(range(step * BATCH, (step + 1) * BATCH)), 0)
        views = [replace(view, pixels=view.pixels.to(dtype)) for view in views]
        mine = [view[rank * size : (rank + 1) * size] for view in views]
        now = clock(step)
        torch.manual_seed(step)
        method.zero_grad(set_to_none=True)
        loss = method.step(mine, now).loss
        loss.backward()
        found[f"{step}/loss"] = distributed.mean(loss)
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.grad = distributed.mean(parameter.grad)
            method.before_update(now)
            for key, parameter in method.named_parameters():
                if parameter.grad is not None:
                    found[f"{step}/{key}"] = parameter.grad.clone(memory_format=torch.contiguous_format)
                    parameter -= 0.01 * parameter.grad
        method.after_update(now)
    state = {key: value for key, value in method.state_dict().items() if isinstance(value, Tensor)}
    return found | {
        f"state/{key}": value.clone(memory_format=torch.contiguous_format) for key, value in state.items()
    }


MOMENTUM, TEMPERATURE, QUEUE = 0.9, 0.2, 2 * BATCH  # the third step wraps


def moco() -> Any:
    """MoCo as it is by default, with shuffled batch norm."""
    changes = {"momentum": MOMENTUM, "temperature": TEMPERATURE, "queue": QUEUE}
    method: Any = small_method("moco", **changes).double().train()
    # They were of unit length in float32.
    method.queue.vectors = nn.functional.normalize(method.queue.vectors, dim=1)
    return method


def moco_shuffled() -> dict[str, Tensor]:
    """A few steps on this rank's share of the images; what they come to."""
    method = moco()
    found = {}
    for step in range(STEPS):
        size = BATCH // distributed.world_size()
        mine = slice(size * distributed.rank(), size * (distributed.rank() + 1))
        loss = method.step([view[mine] for view in noise_views(BATCH, step)], clock(step)).loss
        loss.backward()
        descend(method.parameters())
        method.after_update(clock(step))
        found[f"{step}/loss"] = distributed.mean(loss)
    found |= {f"parameter/{name}": p for name, p in method.named_parameters()}
    return found | {"queue": method.queue.vectors}


def moco_by_hand() -> dict[str, Tensor]:
    """The same in one process: batch norm sees half of the queries, or a random half of the keys."""
    method = moco()
    network = nn.Sequential(method.backbone, method.projector)
    found = {}
    for step in range(STEPS):
        x_q, x_k = (view.pixels for view in noise_views(BATCH, step))
        order = torch.randperm(BATCH, generator=clock(step).generator).tolist()
        k = torch.zeros(BATCH, method.queue.vectors.shape[1], dtype=torch.float64)
        for rank in range(WORLD):
            rows = order[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD]
            k[rows] = nn.functional.normalize(method.key_encoder(x_k[rows]), dim=1)
        q = nn.functional.normalize(torch.cat([network(x) for x in x_q.chunk(WORLD)]), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue.vectors.T], dim=1) / TEMPERATURE
        loss = (logits.logsumexp(1) - logits[:, 0]).mean()
        loss.backward()
        descend(method.parameters())
        method.key_encoder.update(network, MOMENTUM)
        place = step * BATCH % QUEUE
        method.queue.vectors[place : place + BATCH] = k
        found[f"{step}/loss"] = loss.detach()
    found |= {f"parameter/{name}": p.detach() for name, p in method.named_parameters()}
    return found | {"queue": method.queue.vectors}


WORKS = {name: partial(train, name) for name in methods.names()} | {"moco_shuffled": moco_shuffled}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ranks.Found:
    """What two processes found, of all methods."""
    return ranks.run(__file__, tmp_path_factory.mktemp("ranks"))


def test_two_processes_train_as_one(found: ranks.Found, name: str) -> None:
    alone = train(name)
    assert any(value.abs().max() > 1e-4 for key, value in alone.items() if key.startswith("0/backbone"))
    for both in found[name]:
        assert both.keys() == alone.keys()
        tolerance = 0.02 if name in SINGLE else 1e-7
        for key, value in alone.items():
            difference, length = (both[key] - value).double().norm().item(), value.double().norm().item()
            assert difference <= tolerance * (length + 1e-3), (key, difference, length)


def test_mocos_batch_norm_is_shuffled(found: ranks.Found) -> None:
    ranks.check_same(found["moco_shuffled"], moco_by_hand(), rtol=1e-8, atol=1e-10)


def test_momentum_and_queues_move_once_an_update_whatever_the_parts(name: str, toy_reader: Any) -> None:
    method = small_method(name).train()
    views = small_engine(name)(toy_reader.gather(range(16)), 0)
    trained = {key for key, p in method.named_parameters() if p.requires_grad}
    queues = {key: module for key, module in method.named_modules() if isinstance(module, Queue)}
    still = {key: p for key, p in method.named_parameters() if key not in trained}
    still |= {f"{key}.vectors": queue.vectors for key, queue in queues.items()}
    before = {key: value.detach().clone() for key, value in still.items()}
    clock = Clock(0, 0, 0.0, torch.Generator().manual_seed(0))
    for part in (slice(0, 8), slice(8, 16)):
        method.step([view[part] for view in views], clock).loss.backward()
        assert all(torch.equal(before[key], value) for key, value in still.items())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    method.after_update(clock)
    for key, queue in queues.items():
        place = int(queue.get_extra_state()[0])
        assert place == 16 % len(queue), key
        assert not torch.equal(before[f"{key}.vectors"][:16], queue.vectors[:16])
        assert torch.equal(before[f"{key}.vectors"][16:], queue.vectors[16:])
