"""Every method, found by itself: two processes with half the batch each do what one does with the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support import ToyReader, small_engine, small_method
from torch import Tensor

from sslpipe import distributed, methods
from sslpipe.methods.base import Clock
from sslpipe.networks.queue import Queue

WORLD, BATCH, STEPS = 2, 16, 3

#: What must be off for the comparison: MoCo's shuffled batch norm sees one rank's images only, and is meant to.
CHANGES: dict[str, dict[str, Any]] = {"moco": {"shuffle": False}}


#: Methods with parts that are float32 by nature: a tokenizer's words, colours' bins.
SINGLE = ("beit", "colorization")


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
        clock = Clock(step, step, step / STEPS, torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        method.zero_grad(set_to_none=True)
        loss = method.step(mine, clock).loss
        loss.backward()
        found[f"{step}/loss"] = distributed.mean(loss)
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.grad = distributed.mean(parameter.grad)
            method.before_update(clock)
            for key, parameter in method.named_parameters():
                if parameter.grad is not None:
                    found[f"{step}/{key}"] = parameter.grad.clone(memory_format=torch.contiguous_format)
                    parameter -= 0.01 * parameter.grad
        method.after_update(clock)
    state = {key: value for key, value in method.state_dict().items() if isinstance(value, Tensor)}
    return found | {
        f"state/{key}": value.clone(memory_format=torch.contiguous_format) for key, value in state.items()
    }


def main(rank: int, folder: Path) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=WORLD)
    for name in methods.names():
        try:
            save_file(train(name), folder / f"{name}-{rank}.safetensors")
        except Exception:  # the test of this method shows it, the others go on
            (folder / f"{name}-{rank}.txt").write_text(traceback.format_exc())
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
        for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


def test_two_processes_train_as_one(ranks: Path, name: str) -> None:
    alone = train(name)
    assert any(value.abs().max() > 1e-4 for key, value in alone.items() if key.startswith("0/backbone"))
    for rank in range(WORLD):
        failure = ranks / f"{name}-{rank}.txt"
        assert not failure.exists(), failure.read_text()
        found = load_file(ranks / f"{name}-{rank}.safetensors")
        assert found.keys() == alone.keys()
        tolerance = 0.02 if name in SINGLE else 1e-7
        for key, value in alone.items():
            difference, length = (found[key] - value).double().norm().item(), value.double().norm().item()
            assert difference <= tolerance * (length + 1e-3), (key, difference, length)


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


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
